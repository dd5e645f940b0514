"""Saliency normalization: regularity with a prior for each sample (top-down attention)."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor, nn

from rn_rl.errors import UserError, unknown
from rn_rl.normalization import functional
from rn_rl.normalization.phase import set_within
from rn_rl.normalization.regularity import RegularityNorm

GivenPrior = Tensor | Callable[[], Tensor]

NAMED_PRIORS = ("td", "reward", "action")
"""Priors of an agent's transitions, which the agent computes; see :mod:`rn_rl.agents.priors`."""

TIE = 1e-5
"""Relative difference up to which :func:`tail_shares` counts magnitudes as equal, so that rounding does
not decide on a share."""


class NamedPrior(NamedTuple):
    """Prior of an agent's transitions: one of :data:`NAMED_PRIORS`, and whether it is shuffled."""

    name: str
    shuffled: bool = False


class SaliencyNorm(RegularityNorm):
    r"""RN with a data prior: samples that the prior calls unlikely are amplified.

    With the code mass M and density S of RN, and a prior probability s of each sample,

    .. math:: y_i = L_i x_i, \qquad L_i = (\log M - \log S) - \log s_i \;\text{(nats)}.

    The first term is between 0.1 and 100, and 1 until the second commit, as in RN; s adds at most 87.
    Without a prior it is exactly RN. The prior is that of the surrounding :func:`saliency_prior`, or
    else ``prior(x)``. A prior that is only named is that of an agent's transitions, which
    :class:`~rn_rl.agents.RNDQN` and :class:`~rn_rl.agents.RNPPO` compute for each update; in evaluation
    mode (acting, target networks) there is none.

    Args:
        num_features: size of axis 1 of the input.
        half_life: number of phases after which an observation counts half; None (default) never
            forgets.
        prior: maps the input to s, ``(batch,)``; if it is a module, it becomes a submodule. Or names a
            prior of transitions: ``"td"``, ``"reward"`` or ``"action"``.
        eps: floor of the variance.
        shuffled: control of a named prior: permute s among the transitions.

    Shape:
        ``(batch, num_features, ...)`` to the same shape and dtype. s is clamped to the range from
        1.2e-38 (the smallest normal float32) to 1. Gradients flow through it.

    State:
        That of RegularityNorm; the prior does not enter it.

    Raises:
        UserError: the shape of a prior is not ``(batch,)``; an unknown name; ``shuffled`` without a name;
            a training forward for which a named prior is not given, as in an agent that does not
            compute it.

    Example:
        >>> norm = SaliencyNorm(4)
        >>> with saliency_prior(norm, class_shares(torch.tensor([0, 0, 0, 1]))):
        ...     norm(torch.ones(4, 4))[:, 0]          # 1 - log s, s the share of the sample's class
        tensor([1.2877, 1.2877, 1.2877, 2.3863])

    Source: Lin, Entropy 24(1):59, 2022, whose s is the class's share of the batch.
    """

    named_prior: NamedPrior | None = None

    def __init__(
        self,
        num_features: int,
        half_life: float | None = None,
        prior: Callable[[Tensor], Tensor] | str | None = None,
        eps: float = 1e-5,
        shuffled: bool = False,
    ) -> None:
        super().__init__(num_features, "layer", half_life, eps=eps)
        if isinstance(prior, str) and prior not in NAMED_PRIORS:
            raise unknown("prior", prior, NAMED_PRIORS)
        if shuffled and not isinstance(prior, str):
            raise UserError(
                f"shuffled={shuffled}: expected a named prior beside it, as in "
                "sn(prior=td,shuffled=true)"
            )
        self.depends_on_batch = prior is not None
        if isinstance(prior, str):
            self.named_prior = NamedPrior(prior, bool(shuffled))
            prior = None
        self.prior = prior
        self.given_prior: GivenPrior | None = None

    def apply_state(self, x: Tensor) -> Tensor:
        s = self._prior_of(x)
        if s is None:
            named = self.named_prior
            if named is not None and self.training and self.observing and not self.frozen:
                raise UserError(
                    f"sn(prior={named.name}): no prior is given in this training forward; expected RNDQN "
                    "or RNPPO (rn-rl train --algo dqn, rndqn, ppo or rnppo), which compute it, or "
                    "saliency_prior(module, s) around the forward"
                )
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

    def extra_repr(self) -> str:
        named = self.named_prior
        if named is None:
            return super().extra_repr()
        shuffled = ", shuffled=True" if named.shuffled else ""
        return f"{super().extra_repr()}, prior={named.name}{shuffled}"


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


def named_priors(module: nn.Module) -> dict[NamedPrior, list[SaliencyNorm]]:
    """Find the :class:`SaliencyNorm` of a module that have a named prior, by that prior."""
    found: dict[NamedPrior, list[SaliencyNorm]] = {}
    for norm in module.modules():
        if isinstance(norm, SaliencyNorm) and norm.named_prior is not None:
            found.setdefault(norm.named_prior, []).append(norm)
    return found


def class_shares(labels: Tensor) -> Tensor:
    """Share of the batch that has the same label as each sample.

    Args:
        labels: ``(..., batch)``.

    Returns:
        ``(..., batch)``, in (0, 1].
    """
    labels = labels.to(torch.uint8) if labels.dtype == torch.bool else labels.contiguous()
    ordered = labels.sort(-1).values
    count = torch.searchsorted(ordered, labels, right=True) - torch.searchsorted(ordered, labels)
    return count.to(torch.get_default_dtype()) / labels.shape[-1]


def tail_shares(x: Tensor) -> Tensor:
    r"""Share of the batch whose magnitude is at least that of each sample: a tail probability.

    .. math:: s_i = \frac{1}{n} \#\{j : |x_j| \ge (1 - 10^{-5}) |x_i|\}

    So the largest magnitude of n has s = 1/n, and equal magnitudes all have s = 1. The factor makes
    magnitudes equal that differ by rounding (:data:`TIE`). A NaN counts as the largest.

    Args:
        x: ``(..., batch)``.

    Returns:
        ``(..., batch)``, in [1/n, 1].

    Example:
        >>> tail_shares(torch.tensor([0.0, -3.0, 1.0, 3.0]))
        tensor([1.0000, 0.5000, 0.7500, 0.5000])
    """
    magnitudes, size = x.abs().contiguous(), x.shape[-1]
    smaller = torch.searchsorted(magnitudes.sort(-1).values, magnitudes * (1 - TIE))
    count = (size - smaller).clamp(min=1)
    return count.to(torch.get_default_dtype()) / size
