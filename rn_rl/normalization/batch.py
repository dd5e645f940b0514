"""Batch normalization and batch renormalization under the phase rule."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rn_rl.normalization import dispatch, functional
from rn_rl.normalization.functional import VAR
from rn_rl.normalization.phase import PhaseNorm, decay_per_phase


class BatchNorm(PhaseNorm):
    r"""Standardize every feature by its running mean and variance, which are frozen within a phase.

    .. math:: y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}} \, w + b

    in training and in evaluation alike, so that acting and learning apply the same function and PPO's
    ratio starts at 1. ``nn.BatchNorm1d`` uses the statistics of the *batch* in training. Here the
    statistics are constants for the gradient; :class:`BatchRenorm` differentiates through the batch's.

    Args:
        num_features: size of axis 1 of the input.
        half_life: number of phases after which an observation counts half; None never forgets. It
            replaces the ``momentum`` of ``nn.BatchNorm1d``, which counts batches: with that, one phase
            of many small batches would forget all earlier ones.
        eps: added to the variance.

    Shape:
        ``(batch, num_features, ...)`` to the same shape and dtype.

    State:
        ``running_state``: rows mean, variance (of the population: divided by n), elements,
        ``(3, num_features)``; moves at commits, by an exact merge. Parameters ``weight`` (1) and
        ``bias`` (0) as in torch. A batch with a NaN or an infinity is skipped for the features it
        touches.

    Raises:
        UserError: the half-life is not above 0, or axis 1 of an input is not ``num_features``.

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
        """Compute ``(x - mean) / sqrt(variance + eps)`` from the frozen state."""
        mean, scale = (self.running_state[0], self._std().reciprocal())
        return (x - functional.on_axis_1(mean.to(x.dtype), x)) * functional.on_axis_1(
            scale.to(x.dtype), x
        )

    def _std(self) -> Tensor:
        return (self.running_state[VAR] + self.eps).sqrt()

    def extra_repr(self) -> str:
        return f"{self.num_features}, half_life={self.half_life}"


class BatchRenorm(BatchNorm):
    r"""The output of :class:`BatchNorm`, with a gradient through the batch's own mean and variance.

    .. math:: \hat{x} = \frac{x - \mu_B}{\sigma_B} r + d, \qquad
        r = \mathrm{sg}\frac{\sigma_B}{\sigma}, \quad d = \mathrm{sg}\frac{\mu_B - \mu}{\sigma},

    where sg stops the gradient, and B marks moments of the batch. Without limits on r and d the output
    equals ``(x - mu) / sigma``, the frozen function, for every batch. The gradient in training is that of
    batch normalization times r; in evaluation, and when frozen, that of :class:`BatchNorm`. For a batch
    of one, values are finite and the gradient with respect to x is 0, since the batch mean is x itself.

    The paper clips r and d. Here they are not clipped: clipping depends on the batch, so a sample would
    have one output in the rollout and another in the update, and PPO's ratio would not start at 1. The
    ``BatchRenorm1d`` of sb3-contrib is not used either: for a batch of one its variance is NaN, which its
    running average keeps for ever, and it has parameters even with ``affine=False``.

    Arguments, shapes and state are those of :class:`BatchNorm`.

    Source: Ioffe, NeurIPS 2017.
    """

    depends_on_batch = True  # through the gradient

    def standardize(self, x: Tensor) -> Tensor:
        frozen = super().standardize(x)
        if not self.training or self.frozen:
            return frozen
        wide = x.to(self.running_state.dtype)
        real = self.real()
        mean = mean_of_features(wide, real)
        std = (mean_of_features((wide - mean).square(), real) + self.eps).sqrt()
        # both are exactly 0: they contribute a gradient and do not change the value
        shift = mean.detach() - mean
        stretch = (std.detach() - std) / std
        moved = (shift + (wide - mean) * stretch) / functional.on_axis_1(self._std(), x)
        return frozen + moved.to(x.dtype)


def mean_of_features(x: Tensor, real: Tensor | None) -> Tensor:
    """Mean over all axes but axis 1, with ``keepdim``; of the samples where ``real`` is True, if given.

    Args:
        x: ``(batch, features, ...)``.
        real: ``(batch,)``, False for padding; None: all samples.
    """
    over = [axis for axis in range(x.dim()) if axis != 1]
    if real is None:
        return x.mean(over, keepdim=True)
    share = (real.to(x.dtype) / real.sum()).reshape((-1,) + (1,) * (x.dim() - 1))
    return (x * share).sum(0, keepdim=True).mean(over, keepdim=True)
