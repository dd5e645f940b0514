"""Replay buffers that weight their samples by age."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from rn_rl.errors import UserError


class AgeWeights(ReplayBuffer):
    """Mixin for SB3's replay buffers: weights of the sampled transitions by their replay age.

    Sampling remains uniform, and the gradient weights all samples equally; the weights, proportional to
    ``2 ** (-age / half_life_steps)``, are for the normalizers' statistics, which should follow the
    current policy (see :func:`rn_rl.observation_weights`). The replay age of a transition is the number
    of timesteps since it was stored; that of the newest is 0.

    The weights of a batch are scaled to mean 1. Otherwise early batches, whose samples are all young,
    would outweigh all later ones in the state of a normalizer without a half-life.

    Args:
        half_life_steps: half-life of the weights in timesteps; None: equal weights.
        args: arguments of SB3's buffer.
        kwargs: arguments of SB3's buffer.

    Raises:
        UserError: a half-life that is not above 0.
    """

    def __init__(self, *args: Any, half_life_steps: float | None = 10_000, **kwargs: Any) -> None:
        if half_life_steps is not None and not half_life_steps > 0:
            raise UserError(
                f"half_life_steps={half_life_steps!r}: expected timesteps above 0, or None"
            )
        super().__init__(*args, **kwargs)
        self.half_life_steps = half_life_steps
        self.last_weights: Tensor | None = None
        """Weights of the batch sampled last, ``(batch,)``; None if they are equal."""

    def ages(self, batch_inds: np.ndarray) -> np.ndarray:
        """Return the replay ages in timesteps of the transitions at positions ``batch_inds``."""
        return (self.pos - 1 - batch_inds) % self.buffer_size * self.n_envs

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> Any:
        if self.half_life_steps is not None:
            ages = self.ages(batch_inds)
            weights = np.exp2((ages.min() - ages) / self.half_life_steps)  # the largest is 1
            self.last_weights = torch.as_tensor(weights / weights.mean(), device=self.device)
        return super()._get_samples(batch_inds, env)

    def weights(self) -> Tensor | None:
        """Return :attr:`last_weights`."""
        return self.last_weights


class AgeWeightedReplayBuffer(AgeWeights):
    """SB3's ``ReplayBuffer`` with weights by replay age; see :class:`AgeWeights`."""


class AgeWeightedDictReplayBuffer(AgeWeights, DictReplayBuffer):
    """SB3's ``DictReplayBuffer`` with weights by replay age; see :class:`AgeWeights`."""
