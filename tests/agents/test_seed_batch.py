"""Many seeds in one process: the same algorithm as SB3's, and seeds that do not know of each other."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import ReplayBufferSamples, RolloutBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv

from rn_rl.agents import SeedBatchDQN, SeedBatchPPO
from rn_rl.agents.seed_envs import VecSeedEnvs
from rn_rl.normalization import REGISTRY
from rn_rl.policies import NormActorCriticPolicy, NormDQNPolicy

SPECS = [
    *(name for name in REGISTRY if name != "yoked"),  # which needs a recording
    "ln+rn",
    "rn(half_life=5)",
]
SEEDS = (3, 5, 8)


def to_double(policy: Any) -> None:
    """Compute in float64; SB3 makes observations float32."""
    policy.double()
    policy.features_extractor.register_forward_pre_hook(lambda _, given: (given[0].double(),))


def dqn(norm: str, seed: int, env: str = "CartPole-v1", **kwargs: Any) -> DQN:
    options = {
        "learning_rate": 1e-2,
        "batch_size": 16,
        "buffer_size": 300,
        "learning_starts": 20,
        "tau": 0.3,
        "target_update_interval": 8,
        "max_grad_norm": 0.05,
        "exploration_fraction": 0.5,
        "policy_kwargs": {"norm": norm, "net_arch": [8, 8]},
        **kwargs,
    }
    return DQN(NormDQNPolicy, env, seed=seed, device="cpu", **options)


def ppo(norm: str, seed: int, env: Any = "CartPole-v1", **kwargs: Any) -> PPO:
    options = {
        "learning_rate": 1e-2,
        "n_steps": 32,
        "batch_size": 16,
        "n_epochs": 2,
        "ent_coef": 0.01,
        "max_grad_norm": 0.05,
        "policy_kwargs": {"norm": norm, "net_arch": [8, 8]},
        **kwargs,
    }
    return PPO(NormActorCriticPolicy, env, seed=seed, device="cpu", **options)


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


@pytest.mark.parametrize("norm", SPECS)
def test_updates_of_dqn_are_those_of_sb3(norm: str):
    theirs, mine = ([dqn(norm, seed) for seed in SEEDS] for _ in range(2))
    for model in (*theirs, *mine):
        to_double(model.q_net)
        to_double(model.q_net_target)
        model._setup_learn(1000)
    batch = SeedBatchDQN(mine, envs_of(mine))
    batch.total_timesteps = 1000
    rng = np.random.default_rng(0)
    for _ in range(3):
        drawn = transitions(rng, (len(SEEDS), 16), 4)
        for i, model in enumerate(theirs):
            one = ReplayBufferSamples(
                drawn[0][i], drawn[2][i], drawn[1][i], drawn[4][i], drawn[3][i]
            )
            model.replay_buffer.sample = lambda *args, one=one, **kwargs: one
            model.policy.set_training_mode(False)
            model.train(2, 16)
            model.policy.set_training_mode(False)
            model._n_calls = 7
            model._on_step()  # the eighth: a target update
        batch.stack.set_training_mode(True)
        batch.set_learning_rate()
        batch.update(drawn)
        batch.update(drawn)
        batch.stack.set_training_mode(False)
        batch.update_targets()
        networks_agree(batch, theirs, lambda m: m.q_net, 1e-10)
        networks_agree(batch, theirs, lambda m: m.q_net_target, 1e-10)


@pytest.mark.parametrize("norm", SPECS)
def test_updates_of_ppo_are_those_of_sb3(norm: str):
    theirs, mine = ([ppo(norm, seed, clip_range_vf=0.1) for seed in SEEDS] for _ in range(2))
    for model in (*theirs, *mine):
        to_double(model.policy)
        model._setup_learn(1000)
    batch = SeedBatchPPO(mine, envs_of(mine))
    rng = np.random.default_rng(0)
    for _ in range(3):
        rows = (len(SEEDS), 16)
        drawn = [
            torch.from_numpy(rng.normal(size=(*rows, 4)).astype(np.float32)),
            torch.from_numpy(rng.integers(0, 2, rows)),
            *(torch.from_numpy(rng.normal(size=rows)) for _ in range(4)),
        ]
        drawn[3] = -0.7 + 0.3 * drawn[3]
        for i, model in enumerate(theirs):
            observations, actions, values, log_prob, advantages, returns = (d[i] for d in drawn)
            one = RolloutBufferSamples(observations, actions, values, log_prob, advantages, returns)
            model.rollout_buffer.get = lambda *args, one=one: [one]
            model.policy.set_training_mode(False)
            model.train()  # two epochs
            model.policy.set_training_mode(False)
        batch.stack.set_training_mode(True)
        batch.set_learning_rate()
        batch.update(drawn)
        batch.update(drawn)
        batch.stack.set_training_mode(False)
        networks_agree(batch, theirs, lambda m: m.policy, 1e-10)
