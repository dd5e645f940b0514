"""Replay buffers that know how old their samples are."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from stable_baselines3.common.buffers import DictReplayBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from rn_rl.errors import UserError


class AgeWeights(ReplayBuffer):
    """What both buffers below add to SB3's: the weight of each sample that was drawn last.

    Sampling is uniform as ever, so the gradient sees the whole memory; the weights, proportional to
    ``2 ** (-age_i / half_life_steps)``, are for statistics that ought to follow the current policy, see
    :func:`rn_rl.observation_weights`. The age of a transition is the number of timesteps taken since it
    was stored; the newest has age 0.

    The mean weight of a batch is 1. Otherwise the batches of the first minutes, whose samples are all
    young, would outweigh every later one in a state that does not forget.

    Args:
        half_life_steps: timesteps after which a sample counts half; None weighs all the same.
        args: see SB3.
        kwargs: see SB3.
    """

    def __init__(self, *args: Any, half_life_steps: float | None = 10_000, **kwargs: Any) -> None:
        if half_life_steps is not None and not half_life_steps > 0:
            raise UserError(
                f"half_life_steps={half_life_steps!r}: expected timesteps above 0, or None"
            )
        super().__init__(*args, **kwargs)
        self.half_life_steps = half_life_steps
        self.last_weights: Tensor | None = None

    def ages(self, batch_inds: np.ndarray) -> np.ndarray:
        """Ages in timesteps of the transitions at these positions."""
        return (self.pos - 1 - batch_inds) % self.buffer_size * self.n_envs

    def _get_samples(self, batch_inds: np.ndarray, env: VecNormalize | None = None) -> Any:
        if self.half_life_steps is not None:
            ages = self.ages(batch_inds)
            weights = np.exp2((ages.min() - ages) / self.half_life_steps)  # the largest is 1
            self.last_weights = torch.as_tensor(weights / weights.mean(), device=self.device)
        return super()._get_samples(batch_inds, env)

    def weights(self) -> Tensor | None:
        """Weights of the batch drawn last, ``(batch,)``; None when all count the same."""
        return self.last_weights


class AgeWeightedReplayBuffer(AgeWeights):
    """SB3's ``ReplayBuffer`` with the ages of its samples; see :class:`AgeWeights`."""


class AgeWeightedDictReplayBuffer(AgeWeights, DictReplayBuffer):
    """SB3's ``DictReplayBuffer`` with the ages of its samples; see :class:`AgeWeights`."""
