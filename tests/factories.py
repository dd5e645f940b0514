"""Agents, environments and minibatches that several test files build."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3.common.vec_env import DummyVecEnv

from rn_rl.agents import VecSeedEnvs


def to_double(policy: Any) -> None:
    """Compute in float64; SB3 makes observations float32."""
    policy.double()
    policy.features_extractor.register_forward_pre_hook(lambda _, given: (given[0].double(),))


def envs_of(models: list[Any], env_id: str = "CartPole-v1", num_envs: int = 1) -> VecSeedEnvs:
    made = []
    for model in models:
        env = DummyVecEnv([lambda: gym.make(env_id) for _ in range(num_envs)])
        env.seed(model.seed)
        made.append(env)
    return VecSeedEnvs(made)


def transitions(rng: np.random.Generator, shape: tuple[int, ...], size: int) -> list[torch.Tensor]:
    """Minibatches of DQN, one for each seed."""
    return [
        torch.from_numpy(rng.normal(size=(*shape, size)).astype(np.float32)),
        torch.from_numpy(rng.normal(size=(*shape, size)).astype(np.float32)),
        torch.from_numpy(rng.integers(0, 2, (*shape, 1))),
        torch.from_numpy(3 * rng.normal(size=(*shape, 1)).astype(np.float32)),
        torch.from_numpy(rng.integers(0, 2, (*shape, 1)).astype(np.float32)),
    ]


def networks_agree(batch: Any, models: list[Any], network: Any, atol: float) -> None:
    for i, model in enumerate(models):
        mine = batch.write_back(i)
        theirs = network(model).state_dict()
        for name, value in network(mine).state_dict().items():
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=atol, msg=name)
