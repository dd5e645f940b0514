"""Batch normalization and batch renormalization under the phase rule."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rn_rl.normalization import dispatch, functional
from rn_rl.normalization.functional import VAR
from rn_rl.normalization.phase import PhaseNorm, decay_per_phase


class BatchNorm(PhaseNorm):
    r"""Standardize every feature by its history, which is frozen within a phase.

    .. math:: y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \, w + b

    in training and in evaluation alike, so that acting and learning are one function and PPO's ratio
    starts at 1. Torch's divides by the statistics of the *batch* in training. For the gradient the
    statistics are constants; :class:`BatchRenorm` is the one whose gradient knows of the batch.

    Args:
        num_features: size of axis 1 of the input.
        half_life: phases after which an observation counts half; None never forgets. Torch's
            ``momentum`` counts batches instead: with it, one pass over many small batches would
            forget everything else.
        eps: added to the variance.

    Shape:
        ``(batch, num_features, ...)`` to the same shape and dtype.

    State:
        ``running_state``: rows mean, variance (of the population: divided by n), elements,
        ``(3, num_features)``; moves at commits, by an exact merge. Parameters ``weight`` (1) and
        ``bias`` (0) as in torch.

    Raises:
        UserError: a half-life that is not above 0, an input whose axis 1 is not ``num_features``.

    Example:
        >>> norm = BatchNorm(3)
        >>> x = 5 + 2 * torch.randn(1000, 3)
        >>> _ = norm.train()(x); _ = norm.eval()
        >>> bool((norm(x).std(0) - 1).abs().max() < 1e-2)
        True

    Source: Ioffe & Szegedy, ICML 2015.
    """

    def __init__(self, num_features: int, half_life: float | None = 20, eps: float = 1e-5) -> None:
        state = torch.zeros(3, num_features, dtype=torch.float64)
        state[VAR] = 1
        super().__init__(state, torch.zeros_like(state))
        self.num_features = num_features
        self.half_life = half_life
        self.decay = decay_per_phase(half_life)
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    @property
    def gain(self) -> Tensor:
        """``weight / sqrt(variance + eps)``, ``(num_features,)``."""
        return self.weight.detach() / self._std()

    def observe(self, x: Tensor, weight: Tensor | None) -> None:
        mean = self.running_state[0]
        dispatch.accumulate_moments(self.pending_sums, x, mean, weight)

    def next_state(self) -> Tensor:
        return functional.commit_moments(self.running_state, self.pending_sums, self.decay)

    def apply_state(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        weight, bias = (functional.on_axis_1(p, x) for p in (self.weight, self.bias))
        return (self.standardize(wide) * weight + bias).to(x.dtype)

    def standardize(self, x: Tensor) -> Tensor:
        """``(x - mean) / sqrt(variance + eps)`` by the frozen state."""
        mean, scale = (self.running_state[0], self._std().reciprocal())
        return (x - functional.on_axis_1(mean.to(x.dtype), x)) * functional.on_axis_1(
            scale.to(x.dtype), x
        )

    def _std(self) -> Tensor:
        return (self.running_state[VAR] + self.eps).sqrt()

    def extra_repr(self) -> str:
        return f"{self.num_features}, half_life={self.half_life}"


class BatchRenorm(BatchNorm):
    r"""The value of :class:`BatchNorm`, with a gradient through the batch's own mean and variance.

    .. math:: \hat{x} = \frac{x - \mu_B}{\sigma_B} r + d, \qquad
        r = \mathrm{sg}\frac{\sigma_B}{\sigma}, \quad d = \mathrm{sg}\frac{\mu_B - \mu}{\sigma},

    where sg stops the gradient. With r and d unlimited this equals ``(x - mu) / sigma``, the frozen
    function, for every batch; in training the gradient is that of batch normalization times r, in
    evaluation (and when frozen) that of BatchNorm here. A batch of one gives finite values; its
    gradient is 0 in x, as the batch's mean is x itself.

    The paper clips r and d. It is not done here: what is clipped depends on the batch, so the same
    sample would have one output in the rollout and another in the update, and PPO's ratio would not
    start at 1. Nor is this the one of sb3-contrib: its variance of a batch of one is NaN, which its
    running average keeps for ever, and it has parameters even with ``affine=False``.

    Arguments, shapes and state are those of BatchNorm.

    Source: Ioffe, NeurIPS 2017.
    """

    depends_on_batch = True  # its gradient

    def standardize(self, x: Tensor) -> Tensor:
        frozen = super().standardize(x)
        if not self.training or self.frozen:
            return frozen
        wide = x.to(self.running_state.dtype)
        real = self.real()
        mean = mean_of_features(wide, real)
        std = (mean_of_features((wide - mean).square(), real) + self.eps).sqrt()
        # Both are 0 to the last bit: they add to the gradient and leave the value alone.
        shift = mean.detach() - mean
        stretch = (std.detach() - std) / std
        moved = (shift + (wide - mean) * stretch) / functional.on_axis_1(self._std(), x)
        return frozen + moved.to(x.dtype)


def mean_of_features(x: Tensor, real: Tensor | None) -> Tensor:
    """Mean over every axis but 1, which is kept, of the samples that are real, ``(batch,)``."""
    over = [axis for axis in range(x.dim()) if axis != 1]
    if real is None:
        return x.mean(over, keepdim=True)
    share = (real.to(x.dtype) / real.sum()).reshape((-1,) + (1,) * (x.dim() - 1))
    return (x * share).sum(0, keepdim=True).mean(over, keepdim=True)
