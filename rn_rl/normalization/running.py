"""Normalization by running statistics without learned parameters, for observations."""

from __future__ import annotations

from torch import Tensor

from rn_rl.normalization.batch import BatchNorm


class RunningNorm(BatchNorm):
    r"""Standardize every feature by running statistics, as ``VecNormalize`` does, inside the network.

    .. math:: y = \frac{x - \mu}{\sqrt{\sigma^2 + \epsilon}}

    The statistics are those of all samples of all phases so far; they move at commits, so acting,
    learning and a replayed observation pass through one function within a phase. Before the first commit
    the mean is 0 and the variance 1. It is :class:`~rn_rl.normalization.batch.BatchNorm` without learned
    parameters, and by default without forgetting.

    Args:
        num_features: size of axis 1 of the input.
        half_life: number of phases after which an observation counts half; None never forgets.
        eps: added to the variance.

    Shape:
        ``(batch, num_features, ...)`` to the same shape and dtype.

    State:
        ``running_state``: rows mean, variance, elements, ``(3, num_features)``.

    Source: RSNorm of Lee et al. (SimBa), arXiv 2410.09754, 2024. Their code updates the statistics at
    each step of the environment; here training forwards observe and commits update, as everywhere in
    this library, so a replayed observation counts as often as it is drawn.
    """

    def __init__(
        self, num_features: int, half_life: float | None = None, eps: float = 1e-5
    ) -> None:
        super().__init__(num_features, half_life, eps)
        self.register_parameter("weight", None)
        self.register_parameter("bias", None)

    @property
    def gain(self) -> Tensor:
        """``1 / sqrt(variance + eps)``, ``(num_features,)``."""
        return self._std().reciprocal()

    def observe(self, x: Tensor, weight: Tensor | None) -> None:
        # squares of large means lose the deviations in float32
        super().observe(x.detach().to(self.running_state.dtype), weight)

    def apply_state(self, x: Tensor) -> Tensor:
        # statistics are subtracted in their own precision: means may be large beside deviations
        return self.standardize(x.to(self.running_state.dtype)).to(x.dtype)
