"""VecNormalize of every seed, for algorithms that replay what they saw."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecNormalize
from torch import Tensor

from rn_rl.agents.seed_batch.minibatch import Transitions
from rn_rl.agents.seed_batch.vector_envs import Step


class SeedVecNormalize:
    """Observations and rewards of all seeds, scaled by the statistics of each seed's ``VecNormalize``.

    As in SB3, a replay memory stores what the environments gave, and minibatches are scaled by the
    statistics of the moment at which they are drawn.

    Args:
        wrappers: ``VecNormalize`` of each seed, with equal settings.
    """

    def __init__(self, wrappers: Sequence[VecNormalize]) -> None:
        self.wrappers = list(wrappers)

    def observations(self) -> np.ndarray:
        """Return the present observations as the environments gave them, ``(seeds, envs, ...)``."""
        return np.stack([np.asarray(each.get_original_obs()) for each in self.wrappers])

    def original(self, step: Step) -> Step:
        """Return the last step as the environments gave it.

        The last observations of episodes are scaled back, as in SB3, so they are clipped.
        """
        observations = self.observations()
        following = observations.astype(np.result_type(observations, np.float32))
        for seed, env in zip(*step.dones.nonzero(), strict=True):
            last = step.next_observations[seed, env]
            following[seed, env] = self.wrappers[seed].unnormalize_obs(last)
        rewards = np.stack([each.get_original_reward() for each in self.wrappers])
        return replace(
            step, observations=observations, next_observations=following, rewards=rewards
        )

    def scaled(self, observations: Tensor) -> Tensor:
        """Scale observations ``(seeds, n, ...)``: ``clip((x - mean) / sqrt(var + epsilon))``."""
        first = self.wrappers[0]
        if not first.norm_obs:
            return observations
        mean = self._stacked(lambda each: each.obs_rms.mean, observations)
        variance = self._stacked(lambda each: each.obs_rms.var, observations)
        x = (observations.double() - mean) / (variance + first.epsilon).sqrt()
        return x.clamp(-first.clip_obs, first.clip_obs).float()

    def scaled_minibatch(self, minibatch: Transitions) -> Transitions:
        """Scale the observations and rewards of a minibatch."""
        first, rewards = self.wrappers[0], minibatch.rewards
        if first.norm_reward:
            variance = self._stacked(lambda each: each.ret_rms.var, rewards)
            rewards = rewards.double() / (variance + first.epsilon).sqrt()
            rewards = rewards.clamp(-first.clip_reward, first.clip_reward).float()
        return minibatch._replace(
            observations=self.scaled(minibatch.observations),
            next_observations=self.scaled(minibatch.next_observations),
            rewards=rewards,
        )

    def _stacked(self, of: Callable[[Any], np.ndarray], like: Tensor) -> Tensor:
        """Stack a statistic of all seeds, ``(seeds, 1, ...)``, for tensors ``(seeds, n, ...)``."""
        stacked = np.stack([np.asarray(of(each)) for each in self.wrappers])
        shape = (len(stacked), *[1] * (like.dim() - stacked.ndim), *stacked.shape[1:])
        return torch.from_numpy(stacked.reshape(shape)).to(like.device)
