"""RN and RLN exactly as published: ``rn-paper`` and ``rln-paper``, kept for reproduction.

Three differences from :class:`~rn_rl.normalization.RegularityNorm` matter in reinforcement learning.
The state moves inside every training forward. The density is summed over the batch, so the gain
depends on the batch size, and acting (one observation) and learning (a minibatch) apply different
functions. The density is of x, not of the standardized z, so the gain depends on the scale of x.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from rn_rl.errors import UserError
from rn_rl.normalization.functional import LOG_SQRT_2PI, code_length
from rn_rl.normalization.phase import phase_norms, set_within
from rn_rl.normalization.regularity import Axis, Commit, RegularityNorm

MEAN, STD, COUNT, LOG_MASS = range(4)
"""Rows of the state, ``(4, F)``. Mean, std and element count are of the whole layer, repeated F times."""

MIN_STD = 1e-8
"""Floor of the std. The published code returns NaN for constant activations, which have no density."""


class PublishedRegularityNorm(RegularityNorm):
    r"""RN (``axis="layer"``) and RLN (``axis="neuron"``) with the arithmetic of the paper.

    For one batch, with mean and std :math:`\mu', \sigma'` of all elements so far and code mass C,

    .. math:: \log S = \log \textstyle\sum N(x; \mu', \sigma'^2), \qquad C' = \log(e^C + S), \qquad
        y = (C' - \log S) \, x,

    the sum over all elements (RN) or over those of a feature (RLN); see :func:`step`. Use it to
    reproduce the paper. In PPO, the ratio of new to old probabilities does not start at 1.
    ``RegularityNorm(..., commit="forward")`` builds this class too.

    Args:
        num_features: size of axis 1 of the input.
        axis: ``"layer"`` or ``"neuron"``: the elements that share a code.
        half_life: None; the published state never forgets.
        commit: ``"forward"``.
        eps: not used; the std has the floor :data:`MIN_STD`.

    Shape:
        ``(batch, num_features, ...)`` to the same shape and dtype.

    State:
        ``running_state``: rows mean, std, elements, log code mass, ``(4, 1)`` or
        ``(4, num_features)``; moves in every training forward and is frozen in evaluation.
        ``pending_sums`` is empty. Samples of observation weight 0 (padding) are left out of the
        statistics and the gain; other weights count as 1.

    Raises:
        UserError: ``axis="sample"`` or a half-life, which the paper does not have; an input whose
            axis 1 is not ``num_features``.

    Source: Lin, Entropy 24(1):59, 2022.
    """

    commit_on = "forward"
    depends_on_batch = True
    observes_part = False

    def __init__(
        self,
        num_features: int,
        axis: Axis = "layer",
        half_life: float | None = None,
        commit: Commit = "forward",
        eps: float = 1e-5,
    ) -> None:
        super().__init__(num_features, axis, half_life, commit, eps)
        if axis == "sample" or half_life is not None:
            raise UserError(
                f"commit='forward' is the published arithmetic, which has no axis={axis!r} with "
                f"half_life={half_life!r}; use axis='layer' or 'neuron' and half_life=None, or "
                "commit='phase'"
            )
        self.acting = False
        """True if forwards in evaluation mode change the state too; see :func:`observed_acting`."""

    @staticmethod
    def empty(num_codes: int) -> tuple[Tensor, Tensor]:
        return initial_state(num_codes), torch.zeros(0, num_codes)

    @property
    def gain(self) -> Tensor:
        """NaN, ``(1,)`` or ``(num_features,)``: the gain depends on the batch, so none is frozen."""
        return torch.full_like(self.running_state[0], float("nan"))

    def observe(self, x: Tensor, weight: Tensor | None) -> None:
        """Do nothing: :meth:`apply_state` both observes a batch and applies the state."""

    def next_state(self) -> Tensor:
        return self.running_state

    @property
    def commits_like(self) -> Any:
        return None

    def apply_state(self, x: Tensor) -> Tensor:
        moving = (self.training or self.acting) and self.observing and not self.frozen
        before = self.running_state.clone()  # autograd keeps it; the buffer is overwritten below
        real = self.real() if self.training else None
        y, state = step(x, before, moving, real)
        if moving:
            self.running_state.copy_(state)
        return y


@contextmanager
def observed_acting(module: nn.Module) -> Iterator[None]:
    """Move the state of published normalizers in evaluation mode too, inside this context.

    The published agents did so while acting, so each action was chosen by a slightly different
    network. Normalizers that obey the phase rule are not affected.

    Args:
        module: any module that contains normalizers.
    """
    norms = phase_norms(module).values()
    with set_within([n for n in norms if isinstance(n, PublishedRegularityNorm)], "acting", True):
        yield


def initial_state(num_codes: int) -> Tensor:
    """State before any batch, ``(4, num_codes)``: no elements, a code mass of 1 (its log is 0)."""
    return torch.zeros(4, num_codes, dtype=torch.float64)


def moments(x: Tensor, real: Tensor | None) -> tuple[Any, Tensor, Tensor]:
    """Element count, mean and unbiased std of x; of the elements where ``real`` is True, if given."""
    if real is None:
        m = x.mean()
        return float(x.numel()), m, x.std() if x.numel() > 1 else torch.full_like(m, MIN_STD)
    k = real.sum().to(x.dtype)
    m = (x * real).sum() / k
    squares = ((x - m).square() * real).sum()
    return k, m, (squares / (k - 1).clamp(min=1)).clamp(min=MIN_STD**2).sqrt()


def merge(x: Tensor, state: Tensor, real: Tensor | None = None) -> Tensor:
    """Mean, std and element count of history and batch together, ``(3,)``; differentiable in x.

    ``mu' = (n mu + k m) / (n + k)``; ``sigma'^2 = ((n-1) sigma^2 + (k-1) s^2) / (n + k - 2)``, which
    leaves out the between-batch term, as published. The first batch sets mean and std to its m and s.

    Args:
        x: activations of any shape.
        state: ``(4, codes)``; not changed.
        real: mask of x's shape, False for elements to leave out.
    """
    n, mean, std = (state[i, 0].to(x.dtype) for i in (COUNT, MEAN, STD))
    k, m, s = moments(x, real)
    pooled = ((n - 1) * std.square() + (k - 1) * s.square()) / (n + k - 2).clamp(min=1)
    first = n == 0
    # sqrt has an infinite slope at 0: the floor keeps the gradient of the unused branch finite
    pooled_std = torch.where(first, torch.ones_like(pooled), pooled).clamp(min=MIN_STD**2).sqrt()
    return torch.stack(
        (
            torch.where(first, m, (n * mean + k * m) / (n + k)),
            torch.where(first, s, pooled_std).clamp(min=MIN_STD),
            n + k,
        )
    )


def step(
    x: Tensor, state: Tensor, training: bool, real: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One forward as published: ``(y, new state)``; pure.

    ``y = L x`` with the L of :func:`gain_and_state`. Gradients flow through L and the batch's share of
    mean and std.

    Args:
        x: activations, ``(batch, features, ...)``.
        state: ``(4, codes)``.
        training: whether to update the state.
        real: ``(batch,)``, False for padding rows.
    """
    gain, state = gain_and_state(x, state, training, real)
    return x * gain, state


def gain_and_state(
    x: Tensor, state: Tensor, training: bool, real: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Gain of a batch as published, and the state after it; pure.

    ``L = C' - log S`` in nats, ``log S = logsumexp(log N(x; mu', sigma'))`` over all
    elements (RN, state ``(4, 1)``) or over each feature (RLN, state ``(4, features)``), and
    ``C' = logaddexp(C, log S)``. Gradients flow through L and the batch's share of mu' and sigma'. In
    evaluation mu, sigma and C are those of the state, and S is still that of the batch.

    Args:
        x: activations, ``(batch, features, ...)``.
        state: ``(4, codes)``.
        training: whether to update the state.
        real: ``(batch,)``, False for padding rows: they are left out of the statistics and the gain.
            The published code had no such rows.

    Returns:
        L, which broadcasts against x, and the state after this batch without gradient (in evaluation,
        and after a batch that is empty or has a NaN or an infinity, the given one).
    """
    per_neuron = state.shape[1] > 1
    shape = (1, -1) + (1,) * (x.dim() - 2)
    if real is not None:
        real = real.reshape((-1,) + (1,) * (x.dim() - 1)).expand_as(x)
    if training:
        mean, std, count = merge(x, state, real).unbind(0)
    else:
        mean, std, count = state[:3, 0].to(x.dtype).unbind(0)
        std = torch.where(count == 0, torch.ones_like(std), std)
    z = (x - mean) / std
    log_pdf = -0.5 * z * z - std.log() - LOG_SQRT_2PI
    if real is not None:
        log_pdf = log_pdf.masked_fill(~real, -torch.inf)
    over = [axis for axis in range(x.dim()) if not (per_neuron and axis == 1)]
    log_s = log_pdf.logsumexp(over).reshape(-1)
    log_mass = state[LOG_MASS].to(x.dtype)
    if training:
        log_mass = torch.logaddexp(log_mass, log_s)
        shared = torch.stack((mean, std, count))[:, None].expand(3, state.shape[1])
        moved = torch.cat((shared, log_mass[None])).detach().to(state.dtype)
        # the published state keeps a NaN for ever
        state = torch.where(moved.isfinite().all(), moved, state)
    return code_length(log_mass, log_s).reshape(shape), state
