"""An environment that presses Ctrl-C."""

import os
import signal

import gymnasium as gym
import pytest
from gymnasium.envs.classic_control import CartPoleEnv


class InterruptingCartPole(CartPoleEnv):
    """Presses Ctrl-C at a step, once in the life of the process."""

    at = 0
    steps = 0

    def step(self, action):
        InterruptingCartPole.steps += 1
        if InterruptingCartPole.steps == InterruptingCartPole.at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(action)


gym.register("InterruptingCartPole-v1", entry_point=InterruptingCartPole, max_episode_steps=500)


@pytest.fixture
def interrupting():
    """The class behind ``InterruptingCartPole-v1``: set ``steps`` to 0, and ``at`` to the step."""
    return InterruptingCartPole
