"""Networks of a policy alone, as SB3's own tests use them: saved, loaded, pickled, traced."""

from __future__ import annotations

import copy
import pickle
import warnings
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import QRDQN, TQC, CrossQ
from stable_baselines3 import DQN, PPO, SAC, TD3
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from rn_rl.errors import UserError
from rn_rl.normalization import available_normalizers, make_normalizers, phase_norms
from rn_rl.policies import (
    NormActorCriticPolicy,
    NormCrossQPolicy,
    NormDQNPolicy,
    NormQRDQNPolicy,
    NormSACPolicy,
    NormTD3Policy,
    NormTQCPolicy,
    policy_kwargs,
)

PARTS: list[Any] = [
    (DQN, NormDQNPolicy, "CartPole-v1", "q_net"),
    (QRDQN, NormQRDQNPolicy, "CartPole-v1", "quantile_net"),
    (SAC, NormSACPolicy, "Pendulum-v1", "actor"),
    (TD3, NormTD3Policy, "Pendulum-v1", "actor"),
    (TQC, NormTQCPolicy, "Pendulum-v1", "actor"),
    (CrossQ, NormCrossQPolicy, "Pendulum-v1", "actor"),
]
STATEFUL = ["ln+rn", "bn", "rsn", "rn(half_life=20)", "uan", "hs", "wn", "spectral", "ln+gain(3)"]


def trained_forward(network: nn.Module, obs: torch.Tensor) -> None:
    """Observe a batch and commit it, so that the state is not the initial one."""
    network.train()
    network(obs)
    network.eval()


@pytest.mark.parametrize("norm", ["none", *STATEFUL])
@pytest.mark.parametrize(("cls", "policy", "env", "part"), PARTS)
def test_a_network_is_saved_and_loaded_alone(cls, policy, env, part, norm, tmp_path):
    model = cls(policy, env, policy_kwargs={"norm": norm}, buffer_size=10, device="cpu", seed=1)
    network = getattr(model.policy, part)
    obs = torch.randn(16, *model.observation_space.shape)
    trained_forward(network, obs)
    network.save(tmp_path / "part.pth")
    loaded = type(network).load(tmp_path / "part.pth", device="cpu").eval()
    before, after = network.state_dict(), loaded.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    deterministic = {"deterministic": True} if part == "actor" and cls is not TD3 else {}
    with torch.no_grad():
        right = network(obs, **deterministic)
        assert torch.equal(right, loaded(obs, **deterministic))
    assert right.std() > 0


def all_norms() -> list[str]:
    arguments = {"ramp": "ramp(2, 100)", "gain": "gain(2)"}
    return [arguments.get(n, n) for n in available_normalizers() if n not in ("yoked", "none")]


@pytest.mark.parametrize("norm", all_norms())
def test_a_policy_is_pickled_copied_and_traced(norm):
    model = PPO(NormActorCriticPolicy, "CartPole-v1", policy_kwargs={"norm": norm}, device="cpu")
    policy = model.policy
    obs = torch.randn(16, 4)
    policy.set_training_mode(True)
    policy.evaluate_actions(obs, torch.zeros(16))
    policy.set_training_mode(False)
    with torch.no_grad():
        policy(obs)  # SB3's policies hold their last distribution, which must not have a graph
    right = policy.predict_values(obs)
    for other in (pickle.loads(pickle.dumps(policy)), copy.deepcopy(policy)):
        assert torch.equal(other.predict_values(obs), right)
        assert list(other.state_dict()) == list(policy.state_dict())
        held = {id(p) for group in other.optimizer.param_groups for p in group["params"]}
        assert held == {id(p) for p in other.parameters()}
        again = pickle.loads(pickle.dumps(other))
        assert torch.equal(again.predict_values(obs), right)

    class Values(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.policy = policy

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.policy.predict_values(x)

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about Python values in SB3's own code
        traced = torch.jit.trace(Values(), torch.zeros(3, 4))
    torch.testing.assert_close(traced(obs), right)


@pytest.mark.parametrize("part", ["", "actor", "critic"])
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda p: pickle.loads(pickle.dumps(p))])
def test_a_copy_of_a_network_keeps_its_fixed_norms(copied, part):
    kwargs = {"norm": "ln+nap", "net_arch": [8]}
    model = SAC(NormSACPolicy, "Pendulum-v1", policy_kwargs=kwargs, buffer_size=10, device="cpu")
    duplicate = copied(getattr(model.policy, part) if part else model.policy)
    parts = [duplicate] if part else [duplicate.actor, duplicate.critic]
    for network in parts:
        assert len(network.optimizer._optimizer_step_post_hooks) == 1
        [weight, *_] = [p for n, p in network.named_parameters() if n.endswith("weight.original")]
        before = weight.detach().clone()
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        network.optimizer.step()
        assert not torch.equal(weight, before)
        torch.testing.assert_close(weight.norm(), before.norm(), rtol=1e-6, atol=0)


@pytest.mark.parametrize("norm", ["wn", "spectral"])
def test_a_restored_layer_goes_on_as_the_original(norm):
    layer = nn.Linear(5, 3)
    make_normalizers(norm, 3, layer=layer)
    restored = pickle.loads(pickle.dumps(layer))
    x = torch.randn(7, 5)
    for module in (layer, restored):
        for _ in range(3):
            module.train()
            module(x).square().sum().backward()
            module.eval()
    assert torch.equal(layer(x), restored(x))
    assert len(phase_norms(restored)) == len(phase_norms(layer))
    for one, two in zip(layer.parameters(), restored.parameters(), strict=True):
        assert torch.equal(one.grad, two.grad)
    new = torch.ones(3, 5)
    layer.weight, restored.weight = new, new
    assert torch.equal(layer(x), restored(x))


def images(shape: tuple[int, ...]) -> Any:
    import gymnasium as gym

    class Pixels(gym.Env):
        observation_space = spaces.Box(0, 255, shape, np.uint8)
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return self.observation_space.sample(), {}

        def step(self, action):
            return self.observation_space.sample(), 0.0, False, False, {}

    return DummyVecEnv([Pixels])


@pytest.mark.parametrize(("cls", "policy"), [(DQN, NormDQNPolicy), (PPO, NormActorCriticPolicy)])
def test_features_dim_is_a_hidden_layer_as_in_sb3(cls, policy):
    more = {"buffer_size": 10} if cls is DQN else {}
    kwargs = {"features_extractor_kwargs": {"features_dim": 32}, "net_arch": []}
    env = images((3, 40, 40))
    stock = cls("CnnPolicy", env, policy_kwargs=copy.deepcopy(kwargs), device="cpu", seed=0, **more)
    plain = cls(policy, env, policy_kwargs=copy.deepcopy(kwargs), device="cpu", seed=0, **more)
    kwargs["norm"] = "ln"
    ours = cls(policy, env, policy_kwargs=copy.deepcopy(kwargs), device="cpu", seed=0, **more)

    def features(model: Any) -> Any:
        policy = model.policy
        return (policy.q_net if cls is DQN else policy).features_extractor

    assert [features(m).features_dim for m in (stock, plain, ours)] == [32, 32, 32]
    with torch.no_grad():
        pairs = zip(features(stock).parameters(), features(plain).parameters(), strict=True)
        for theirs, own in pairs:
            own.copy_(theirs)
    obs = torch.rand(2, 3, 40, 40)
    assert torch.equal(features(stock)(obs), features(plain)(obs))
    assert any(isinstance(m, nn.LayerNorm) for m in features(ours).modules())


def test_policy_kwargs_takes_sizes_of_actor_and_critic():
    kwargs = policy_kwargs("ln", net_arch={"pi": [8, 7], "vf": [8, 7]})
    policy = PPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, device="cpu").policy
    norms = [m for m in policy.modules() if isinstance(m, nn.LayerNorm)]
    assert [m.normalized_shape for m in norms] == [(8,), (7,)] * 2
    assert policy.pi_features_extractor is not policy.vf_features_extractor
    for different in ({"pi": [8], "vf": [7]}, {"pi": [8]}, {"qf": [8], "pi": []}):
        with pytest.raises(UserError, match="NormActorCriticPolicy"):
            policy_kwargs("ln", net_arch=different)
