"""Saliency normalization: regularity with a prior for each sample (top-down attention)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from rn_rl.errors import UserError
from rn_rl.normalization import functional
from rn_rl.normalization.phase import set_within
from rn_rl.normalization.regularity import RegularityNorm

GivenPrior = Tensor | Callable[[], Tensor]


class SaliencyNorm(RegularityNorm):
    r"""RN with a data prior: samples that the prior calls unlikely are amplified.

    With the code mass M and density S of RN, and a prior probability s of each sample,

    .. math:: y_i = L_i x_i, \qquad L_i = (\log M - \log S) - \log s_i \;\text{(nats)}.

    The first term is between 0.1 and 100, and 1 until the second commit, as in RN; s adds at most 87.
    Without a prior it is exactly RN. The prior is that of the surrounding :func:`saliency_prior`, or
    else ``prior(x)``.

    Args:
        num_features: size of axis 1 of the input.
        half_life: number of phases after which an observation counts half; None (default) never
            forgets.
        prior: maps the input to s, ``(batch,)``; if it is a module, it becomes a submodule.
        eps: floor of the variance.

    Shape:
        ``(batch, num_features, ...)`` to the same shape and dtype. s is clamped to the range from
        1.2e-38 (the smallest normal float32) to 1. Gradients flow through it.

    State:
        That of RegularityNorm; the prior does not enter it.

    Raises:
        UserError: the shape of a prior is not ``(batch,)``.

    Example:
        >>> norm = SaliencyNorm(4)
        >>> with saliency_prior(norm, class_shares(torch.tensor([0, 0, 0, 1]))):
        ...     norm(torch.ones(4, 4))[:, 0]          # 1 - log s, s the share of the sample's class
        tensor([1.2877, 1.2877, 1.2877, 2.3863])

    Source: Lin, Entropy 24(1):59, 2022, whose s is the class's share of the batch.
    """

    def __init__(
        self,
        num_features: int,
        half_life: float | None = None,
        prior: Callable[[Tensor], Tensor] | None = None,
        eps: float = 1e-5,
    ) -> None:
        super().__init__(num_features, "layer", half_life, eps=eps)
        self.prior = prior
        self.depends_on_batch = prior is not None
        self.given_prior: GivenPrior | None = None

    def apply_state(self, x: Tensor) -> Tensor:
        s = self._prior_of(x)
        if s is None:
            return super().apply_state(x)
        if s.shape != x.shape[:1]:
            raise UserError(
                f"saliency prior of shape {tuple(s.shape)}: expected ({x.shape[0]},), one number for "
                "each sample of the batch"
            )
        likely = s.to(self.running_state.dtype).clamp(torch.finfo(torch.float32).tiny, 1)
        length = functional.code_length(self.gain, likely.log())
        return x * length.to(x.dtype).reshape((-1,) + (1,) * (x.dim() - 1))

    def _prior_of(self, x: Tensor) -> Tensor | None:
        given = self.given_prior
        if given is None:
            return None if self.prior is None else self.prior(x)
        return given if isinstance(given, Tensor) else given()


@contextlib.contextmanager
def saliency_prior(module: nn.Module, s: GivenPrior) -> Iterator[None]:
    """Set the prior of every :class:`SaliencyNorm` in a module, for forwards inside this context.

    Args:
        module: any module that contains normalizers.
        s: ``(batch,)``, in (0, 1]; or a function that returns it and is called in every forward.
    """
    norms = [m for m in module.modules() if isinstance(m, SaliencyNorm)]
    with set_within(norms, "given_prior", s):
        yield


def class_shares(labels: Tensor) -> Tensor:
    """Share of the batch that has the same label as each sample: ``(batch,)`` to ``(batch,)``."""
    same = labels[:, None] == labels
    return same.to(torch.get_default_dtype()).mean(1)
