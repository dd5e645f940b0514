"""Seed batches of networks with normalizers between convolutions: updates equal SB3's."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import RolloutBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv

from rn_rl.agents import SeedBatchDQN, SeedBatchPPO, VecSeedEnvs
from rn_rl.agents.seed_batch.minibatch import Transitions
from rn_rl.agents.seed_batch.optimizer import state_tensors
from rn_rl.normalization import REGISTRY
from rn_rl.policies import NormActorCriticPolicy, NormDQNPolicy
from tests.factories import replay_samples, rollout_samples, slow_unless

SEEDS = (3, 5, 8)
ROWS = 12
SHAPE = (3, 6, 6)


class Images(gym.Env):
    """An environment that has spaces only; it is never stepped."""

    observation_space = gym.spaces.Box(0, 255, SHAPE, np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, **_: Any) -> Any:
        return np.zeros(SHAPE, np.uint8), {}


def agent(cls: Any, policy: Any, trunk: str, seed: int, **options: Any) -> Any:
    features = {"features": "minigrid", "trunk_norm": trunk, "net_arch": [8], "norm": "ln"}
    options = {"learning_rate": 1e-2, "max_grad_norm": 0.05, "batch_size": ROWS, **options}
    model = cls(policy, Images(), policy_kwargs=features, seed=seed, device="cpu", **options)
    networks = (model.q_net, model.q_net_target) if cls is DQN else (model.policy,)
    for network in networks:
        network.double()
        network.features_extractor.register_forward_pre_hook(lambda _, x: (x[0].double(),))
    model._setup_learn(1000)
    return model


def envs(models: list[Any]) -> VecSeedEnvs:
    return VecSeedEnvs([DummyVecEnv([Images]) for _ in models])


def agree(batch: Any, theirs: list[Any]) -> None:
    for i, model in enumerate(theirs):
        expected = model.policy.state_dict()
        for name, value in batch.write_back(i).policy.state_dict().items():
            # sums over many equal pixels are large
            rtol = 1e-9 if "running_state" in name else 0
            torch.testing.assert_close(
                value, expected[name], rtol=rtol, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}"
            )


TRUNKS = [name for name in REGISTRY if name != "yoked"]  # no recording has layers of these names


KINDS = ("none", "rn", "rln", "rn-paper", "brn", "spectral")


@pytest.mark.parametrize("trunk", slow_unless(KINDS.__contains__, TRUNKS))
def test_updates_of_dqn(trunk: str):
    theirs, mine = ([agent(DQN, NormDQNPolicy, trunk, seed) for seed in SEEDS] for _ in range(2))
    batch = SeedBatchDQN(mine, envs(mine))
    batch.total_timesteps = 1000
    rng = np.random.default_rng(0)
    for _ in range(2):
        rows = (len(SEEDS), ROWS)
        now, after = (torch.from_numpy(rng.integers(0, 3, (*rows, *SHAPE))) for _ in range(2))
        actions = torch.from_numpy(rng.integers(0, 2, (*rows, 1)))
        rewards, dones = (torch.rand(*rows, 1) for _ in range(2))
        images = (x.to(torch.uint8) for x in (now, after))
        drawn = Transitions(*images, actions, rewards, dones.round())
        for i, model in enumerate(theirs):
            one = replay_samples(drawn, i)
            model.replay_buffer.sample = lambda *args, one=one, **kwargs: one
            model.policy.set_training_mode(False)
            model.train(2, ROWS)
            model.policy.set_training_mode(False)
        batch.stack.set_training_mode(True)
        batch.set_learning_rate()
        batch.update(drawn)
        batch.update(drawn)
        batch.stack.set_training_mode(False)
        agree(batch, theirs)


@pytest.mark.parametrize("trunk", slow_unless(KINDS.__contains__, TRUNKS))
def test_updates_of_ppo(trunk: str):
    """With rows and patches deduplicated where that is possible."""
    options = {"n_steps": 4 * ROWS, "n_epochs": 2}
    theirs, mine = (
        [agent(PPO, NormActorCriticPolicy, trunk, seed, **options) for seed in SEEDS]
        for _ in range(2)
    )
    batch = SeedBatchPPO(mine, envs(mine))
    rng = np.random.default_rng(0)
    for _ in range(2):
        few = np.zeros((len(SEEDS), 4, *SHAPE), np.uint8)
        few[:, :, 0, 0, 0] = rng.integers(1, 9, (len(SEEDS), 4))
        images = few.repeat(ROWS, 1)  # images of a rollout
        numbers, patches = batch.actor_critics.dedup.analyze_rollout(images)
        chosen = np.arange(ROWS) * 4
        seen = torch.from_numpy(images[:, chosen])
        samples = rollout_samples(rng, (len(SEEDS), ROWS))
        for i, model in enumerate(theirs):
            one = RolloutBufferSamples(seen[i], *(part[i] for part in samples))
            model.rollout_buffer.get = lambda *args, one=one: [one]
            model.policy.set_training_mode(False)
            model.train()
            model.policy.set_training_mode(False)
        batch.stack.set_training_mode(True)
        batch.set_learning_rate()
        given = seen if patches is None else patches.contents
        ids = None if numbers is None else numbers[:, chosen]
        with batch.actor_critics.dedup.position_major_weights(
            patches, lambda: state_tensors(batch.optimizer).values()
        ):
            batch.update(given, samples, ids, patches)
            batch.update(given, samples, ids, patches)
        batch.stack.set_training_mode(False)
        agree(batch, theirs)
        assert (patches is not None) == (trunk in ("none", "wn", "spectral", "nap"))
