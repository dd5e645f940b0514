"""Agents and environments that a batch would train otherwise than SB3 does are refused, in one line."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.noise import NormalActionNoise
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from rn_rl.agents.seed_batch.dqn import SeedBatchDQN
from rn_rl.agents.seed_batch.ppo import SeedBatchPPO
from rn_rl.agents.seed_batch.recurrent_ppo import SeedBatchRecurrentPPO
from rn_rl.agents.seed_batch.sac import SeedBatchSAC
from rn_rl.agents.seed_batch.vector_envs import VecSeedEnvs
from rn_rl.errors import UserError
from rn_rl.policies import (
    NormActorCriticPolicy,
    NormDQNPolicy,
    NormRecurrentActorCriticPolicy,
    NormSACPolicy,
)

FEW = {"n_steps": 8, "batch_size": 8, "n_epochs": 1, "device": "cpu"}


def ppo(seed: int = 0, cls: Any = PPO, policy: Any = NormActorCriticPolicy, **kwargs: Any) -> PPO:
    given = {"policy_kwargs": {"net_arch": [4]}, **FEW, **kwargs}
    return cls(policy, make_vec_env("CartPole-v1"), seed=seed, **given)


def sac(seed: int = 0, **kwargs: Any) -> SAC:
    given = {"policy_kwargs": {"net_arch": [4]}, "buffer_size": 100, "device": "cpu", **kwargs}
    return SAC(NormSACPolicy, make_vec_env("Pendulum-v1"), seed=seed, **given)


def envs(count: int = 2, env: str = "CartPole-v1", each: int = 1) -> VecSeedEnvs:
    return VecSeedEnvs([make_vec_env(env, each) for _ in range(count)])


class OwnRate(PPO):
    """A user's algorithm."""

    def _update_learning_rate(self, optimizers: Any) -> None:
        super()._update_learning_rate(optimizers)


class OwnForward(NormActorCriticPolicy):
    """A user's policy."""

    def forward(self, obs: Any, deterministic: bool = False) -> Any:
        return super().forward(obs, deterministic)


class OwnPredict(NormDQNPolicy):
    """A user's policy."""

    def _predict(self, observation: Any, deterministic: bool = True) -> Any:
        return super()._predict(observation, deterministic)


class OwnValues(NormRecurrentActorCriticPolicy):
    """A user's policy."""

    def predict_values(self, *args: Any) -> Any:
        return super().predict_values(*args)


class OwnNoise(NormalActionNoise):
    """A user's noise."""

    def __call__(self) -> Any:
        return np.full(1, 0.77, np.float32)


class Dropping(FlattenExtractor):
    """A user's features."""

    def __init__(self, observation_space: Any, layer: type[nn.Module] = nn.Dropout) -> None:
        super().__init__(observation_space)
        self.layer = layer(*([4] if layer is nn.BatchNorm1d else []))

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return self.layer(super().forward(observations))


def dropping(layer: type[nn.Module]) -> PPO:
    kwargs = {"layer": layer}
    return ppo(
        policy_kwargs={"features_extractor_class": Dropping, "features_extractor_kwargs": kwargs}
    )


@pytest.mark.parametrize(
    ("cls", "make", "said"),
    [
        (SeedBatchPPO, lambda: ppo(cls=OwnRate), "OwnRate has its own _update_learning_rate()"),
        (SeedBatchPPO, lambda: ppo(policy=OwnForward), "OwnForward has its own forward()"),
        (
            SeedBatchRecurrentPPO,
            lambda: RecurrentPPO(OwnValues, "CartPole-v1", **FEW),
            "OwnValues has its own predict_values()",
        ),
        (
            SeedBatchDQN,
            lambda: DQN(OwnPredict, "CartPole-v1", buffer_size=10, device="cpu"),
            "OwnPredict has its own _predict()",
        ),
        (
            SeedBatchSAC,
            lambda: sac(action_noise=OwnNoise(np.zeros(1), np.zeros(1))),
            "action_noise is OwnNoise, not NormalActionNoise",
        ),
        (SeedBatchPPO, lambda: dropping(nn.Dropout), "its network has a Dropout"),
        (SeedBatchPPO, lambda: dropping(nn.BatchNorm1d), "its network has a BatchNorm1d"),
        (
            SeedBatchPPO,
            lambda: ppo(_init_setup_model=False),
            "it has no policy yet (_init_setup_model=False)",
        ),
    ],
)
def test_what_a_batch_would_not_call_is_refused(cls, make, said):
    assert str(cls.cannot(make())).startswith(said)


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ({"gamma": 0.9}, {"gamma": 0.5}, "gamma: 0.9 in seed 0 and 0.5 in seed 1"),
        (
            {"learning_rate": lambda left: left},
            {"learning_rate": lambda left: 1 - left},
            r"learning_rate: \[1.0, 0.5, 0.0\] in seed 0 and \[0.0, 0.5, 1.0\] in seed 1",
        ),
        (
            {"policy_kwargs": {"net_arch": [4], "activation_fn": nn.ReLU}},
            {"policy_kwargs": {"net_arch": [4], "activation_fn": nn.Tanh}},
            r"the network: .*ReLU\(\) in seed 0 and .*Tanh\(\) in seed 1",
        ),
        (
            {"policy_kwargs": {"net_arch": [4], "norm": "ln"}},
            {"policy_kwargs": {"net_arch": [4], "norm": "rn"}},
            "the network: .* in seed 0 and .* in seed 1",
        ),
        (
            {"policy_kwargs": {"net_arch": [4], "optimizer_kwargs": {"eps": 1e-3}}},
            {"policy_kwargs": {"net_arch": [4], "optimizer_kwargs": {"eps": 1e-5}}},
            "the optimizer of policy: .* in seed 0 and .* in seed 1",
        ),
    ],
)
def test_agents_that_differ_in_more_than_their_seed_are_refused(one, other, said):
    """Without the check, the settings and the network of the first agent are used for all."""
    with pytest.raises(UserError, match=said) as error:
        SeedBatchPPO([ppo(0, **one), ppo(1, **other)], envs())
    assert "\n" not in str(error.value)


def test_settings_that_a_loop_makes_anew_are_equal():
    rates = {"learning_rate": lambda left: 1e-3 * left, "clip_range": 0.1}
    again = {"learning_rate": lambda left: 1e-3 * left, "clip_range": lambda left: 0.1}
    SeedBatchPPO([ppo(0, **rates), ppo(1, **again)], envs())

    def noise() -> NormalActionNoise:
        return NormalActionNoise(np.zeros(1), 0.1 * np.ones(1))

    pendulum = envs(2, "Pendulum-v1")
    SeedBatchSAC([sac(0, action_noise=noise()), sac(1, action_noise=noise())], pendulum)
    other = NormalActionNoise(np.zeros(1), 0.2 * np.ones(1))
    with pytest.raises(UserError, match="action_noise: "):
        SeedBatchSAC([sac(0, action_noise=noise()), sac(1, action_noise=other)], pendulum)


def test_agents_that_have_learned_are_refused():
    """A batch would drop their replay memory and optimizer, and count timesteps from 0."""
    models = [ppo(0), ppo(1)]
    models[1].learn(8)
    with pytest.raises(UserError, match="seed 1 has learned for 8 timesteps"):
        SeedBatchPPO(models, envs()).learn(8)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"count": 1}, "environments of 1 seeds for 2 agents"),
        ({"each": 2}, "2 environments for each seed: the agents have n_envs=1"),
        ({"env": "Acrobot-v1"}, "observation_space of the environments is"),
    ],
)
def test_environments_that_do_not_fit_are_one_line(given, said):
    with pytest.raises(UserError, match=said) as error:
        SeedBatchPPO([ppo(0), ppo(1)], envs(**given))
    assert "\n" not in str(error.value)


def test_no_agents_and_unequal_environments_are_one_line():
    with pytest.raises(UserError, match="a batch of no seeds"):
        SeedBatchPPO([], envs())
    with pytest.raises(UserError, match=r"vector environments of \[1, 2\] seeds"):
        VecSeedEnvs([make_vec_env("CartPole-v1", n) for n in (1, 2)])


class Images(gym.Env):
    """Random images, channels last."""

    observation_space = spaces.Box(0, 255, (36, 36, 2), np.uint8)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return self.observation_space.sample() * 0, {}

    def step(self, action: Any) -> Any:
        return self.observation_space.sample() * 0 + int(action), 1.0, False, False, {}


def test_images_get_their_channels_in_front_as_for_an_agent():
    images = [make_vec_env(Images) for _ in range(2)]
    models = [PPO("CnnPolicy", env, seed=i, **FEW) for i, env in enumerate(images)]
    seeds = VecSeedEnvs([make_vec_env(Images) for _ in range(2)])
    assert seeds.observation_space.shape == (2, 36, 36)
    SeedBatchPPO(models, seeds).learn(8)


def test_adam_with_options_that_exclude_a_fused_update():
    kwargs = {"net_arch": [4], "optimizer_kwargs": {"differentiable": True}}
    batch = SeedBatchPPO([ppo(seed, policy_kwargs=kwargs) for seed in (0, 1)], envs())
    assert not batch.optimizer.defaults["fused"]
