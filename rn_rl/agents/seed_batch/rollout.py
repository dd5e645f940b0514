"""Rollout buffer of an on-policy seed batch, and generalized advantage estimation."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from gymnasium import spaces

from rn_rl.agents.seed_batch.distributions import components
from rn_rl.policies.divergence import evenly_spaced


class PolicyOutput(NamedTuple):
    """Sampled actions with their values and log probabilities, ``(seeds, envs, ...)`` each."""

    actions: np.ndarray
    values: np.ndarray
    log_probs: np.ndarray


class SeedRollout:
    """Rollout buffer of all seeds: arrays of shape ``(steps, seeds, envs, ...)``.

    Args:
        steps: steps of each environment in a rollout.
        seeds: number of seeds.
        envs: number of environments of each seed.
        observation_space: space of an observation.
        action_space: space of an action, Discrete or Box.
    """

    def __init__(
        self,
        steps: int,
        seeds: int,
        envs: int,
        observation_space: spaces.Box,
        action_space: spaces.Space,
    ) -> None:
        shape = (steps, seeds, envs)
        continuous = isinstance(action_space, spaces.Box)
        action_type = np.float32 if continuous else np.int64
        action_shape = (components(action_space),) if continuous else ()
        self.observations = np.zeros((*shape, *observation_space.shape), observation_space.dtype)
        self.actions = np.zeros((*shape, *action_shape), action_type)
        """Discrete actions without a last axis; continuous ones with their components on it."""
        self.values = np.zeros(shape, np.float32)
        self.log_probs = np.zeros(shape, np.float32)
        self.rewards = np.zeros(shape, np.float32)
        self.starts = np.zeros(shape, np.float32)
        """1 where an episode began with the observation, 0 elsewhere."""

    def add(
        self,
        t: int,
        observations: np.ndarray,
        output: PolicyOutput,
        rewards: np.ndarray,
        starts: np.ndarray,
    ) -> None:
        """Store step t of every environment, ``(seeds, envs, ...)`` each."""
        self.observations[t] = observations
        self.actions[t] = output.actions
        self.values[t] = output.values
        self.log_probs[t] = output.log_probs
        self.rewards[t] = rewards
        self.starts[t] = starts

    def recent(self, rows: int) -> np.ndarray:
        """Return at most ``rows`` observations of each seed, evenly spaced, ``(seeds, rows, ...)``."""
        observations = by_seed(self.observations)
        return observations[:, evenly_spaced(observations.shape[1], rows)]

    def advantages(
        self, last_values: np.ndarray, last_starts: np.ndarray, gamma: float, gae_lambda: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Compute generalized advantages and returns, ``(steps, seeds, envs)`` each.

        ``A[t] = delta[t] + gamma * gae_lambda * (1 - starts[t + 1]) * A[t + 1]`` with
        ``delta[t] = rewards[t] + gamma * (1 - starts[t + 1]) * values[t + 1] - values[t]``; the returns
        are ``A + values``. As in SB3's ``RolloutBuffer.compute_returns_and_advantage`` (Schulman et al.,
        2016, arXiv:1506.02438).

        Args:
            last_values: values of the observations after the last step, ``(seeds, envs)``.
            last_starts: 1 where those observations begin an episode, ``(seeds, envs)``.
            gamma: discount factor.
            gae_lambda: weight of longer returns, in [0, 1].
        """
        advantages = np.zeros_like(self.values)
        advantage: Any = 0
        next_values, going_on = last_values, 1 - last_starts
        for t in reversed(range(len(self.values))):
            delta = self.rewards[t] + gamma * next_values * going_on - self.values[t]
            advantage = delta + gamma * gae_lambda * going_on * advantage
            advantages[t] = advantage
            next_values, going_on = self.values[t], 1 - self.starts[t]
        return advantages, advantages + self.values


def by_seed(array: np.ndarray) -> np.ndarray:
    """Reshape ``(steps, seeds, envs, ...)`` to ``(seeds, steps * envs, ...)``."""
    steps, seeds, envs, *rest = array.shape
    return np.moveaxis(array, 1, 0).reshape(seeds, steps * envs, *rest)
