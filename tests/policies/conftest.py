"""Fixture: an environment with given spaces."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces


class Noise(gym.Env):
    """Random observations; the reward is the sum of the action; episodes of 20 steps."""

    def __init__(self, observations: spaces.Space, actions: spaces.Space) -> None:
        self.observation_space, self.action_space = observations, actions
        observations.seed(0)

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> Any:
        self.steps += 1
        reward = float(np.sum(action))
        return self.observation_space.sample(), reward, self.steps >= 20, False, {}


@pytest.fixture(scope="session")
def noise() -> type[Noise]:
    """The environment class, as a fixture so that tests need no import."""
    return Noise
