"""Agents that are loaded, change mode, have rare arguments or share callbacks, as in user code."""

from __future__ import annotations

import functools
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TRPO
from stable_baselines3 import DQN, PPO, SAC
from stable_baselines3.common.envs import FakeImageEnv
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import nn

from rn_rl import make_normalizers
from rn_rl.agents import PQN, RNDQN, RNPPO, NormalizerLogger, ProbeCallback, ValueTargets
from rn_rl.errors import UserError
from rn_rl.normalization import observation_weights, phase_norms
from rn_rl.normalization.popart import popart_layers
from rn_rl.policies import (
    DeterministicPolicy,
    NormActorCriticPolicy,
    NormDQNPolicy,
    NormPQNPolicy,
    NormSACPolicy,
    policy_kwargs,
)
from rn_rl.policies.extractors import NatureExtractor

ROLLOUT: dict[str, Any] = {
    "n_steps": 64,
    "batch_size": 32,
    "n_epochs": 1,
    "seed": 0,
    "device": "cpu",
}


class Noise(gym.Env[Any, Any]):
    """Random observations, rewards of 1, episodes of 20 steps."""

    def __init__(
        self, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]
    ) -> None:
        self.observation_space, self.action_space = observation_space, action_space
        self.steps = 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.observation_space.seed(seed)
        self.steps = 0
        return self.observation_space.sample(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.steps += 1
        return self.observation_space.sample(), 1.0, self.steps >= 20, False, {}


BOX = spaces.Box(-1, 1, (3,), np.float32)


# loading


@pytest.mark.parametrize("norm", ["rn", "bn"])
def test_a_phase_that_was_saved_is_not_lost_by_an_agent_that_has_acted(norm, tmp_path):
    def agent():
        kwargs = {"norm": norm, "obs_norm": "rsnorm"}
        return PPO(NormActorCriticPolicy, "Pendulum-v1", policy_kwargs=kwargs, **ROLLOUT)

    trained, other = agent(), agent()
    trained.learn(64)
    assert any(m.pending_sums.any() for m in phase_norms(trained.policy).values())
    trained.save(tmp_path / "agent")
    seen = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    other.predict(seen)
    other.set_parameters(tmp_path / "agent")
    expected, _ = trained.predict(seen, deterministic=True)
    np.testing.assert_array_equal(other.predict(seen, deterministic=True)[0], expected)


def test_epsilon_comes_back_with_the_agent(tmp_path):
    agent = RNDQN("MlpPolicy", "CartPole-v1", norm="ln", exploration_decay=0.5, learning_starts=30)
    agent.learn(250)
    agent.save(tmp_path / "agent")
    assert agent.exploration_rate < 0.2
    assert RNDQN.load(tmp_path / "agent").exploration_rate == agent.exploration_rate


def test_a_pqn_policy_acts_alone_as_it_was_saved(tmp_path):
    agent = PQN("MlpPolicy", "CartPole-v1", n_steps=64, batch_size=32, reward_scale=0.1, seed=0)
    agent.learn(640)
    agent.save(tmp_path / "agent")
    agent.policy.save(tmp_path / "policy")
    seen = torch.randn(5, 4)
    for policy in (PQN.load(tmp_path / "agent").policy, NormPQNPolicy.load(tmp_path / "policy")):
        assert policy.exploration_rate == agent.exploration_rate < 0.2
        torch.testing.assert_close(policy.predict_values(seen), agent.policy.predict_values(seen))
    assert PQN("MlpPolicy", "CartPole-v1", policy_kwargs={"norm": "rn"}).norm == "rn"


# modes


def test_policy_eval_gives_popart_to_the_target_too():
    kwargs = {"norm": "ln", "value_norm": "popart", "net_arch": [16]}
    given = {
        "learning_starts": 30,
        "train_freq": 10,
        "gradient_steps": 1,
        "seed": 0,
        "device": "cpu",
    }
    agent = SAC(NormSACPolicy, "Pendulum-v1", policy_kwargs=kwargs, **given)
    agent.learn(40, callback=ValueTargets())
    agent.policy.eval()
    pairs = list(zip(popart_layers(agent.critic), popart_layers(agent.critic_target), strict=True))
    assert pairs and all((a.running_state == b.running_state).all() for a, b in pairs)
    seen, actions = torch.randn(8, 3), torch.zeros(8, 1)
    before = agent.critic_target(seen, actions)[0].mean().item()
    agent.learn(10, callback=ValueTargets(), reset_num_timesteps=False)
    assert agent.critic_target(seen, actions)[0].mean().item() == pytest.approx(
        before, rel=0.1, abs=1
    )


class Own(BaseFeaturesExtractor):
    """A user's extractor with a normalizer of ours."""

    def __init__(self, space: spaces.Space[Any]) -> None:
        super().__init__(space, 3)
        self.norms = nn.Sequential(*make_normalizers("bn", 3))
        self.rows = {True: 0, False: 0}
        """Observations of training forwards, with a gradient and without."""

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        self.rows[torch.is_grad_enabled()] += self.training * len(observations)
        return self.norms(observations.flatten(1))


@pytest.mark.parametrize("share", [False, True])
def test_normalizers_of_a_users_extractor_observe_the_update_alone(share):
    kwargs = {"norm": "none", "net_arch": [8], "features_extractor_class": Own}
    given = {"learning_starts": 70, "train_freq": 80, "gradient_steps": 1, "batch_size": 64}
    agent = SAC(
        NormSACPolicy,
        "Pendulum-v1",
        policy_kwargs={**kwargs, "share_features_extractor": share},
        **given,
    )
    agent.learn(80)
    seen = {name: m.pending_sums[0, 0].item() for name, m in phase_norms(agent.policy).items()}
    assert seen.pop("critic_target.features_extractor.norms.0") == 0
    assert seen and set(seen.values()) == {64}, (
        "one batch of the replay memory, no next observations"
    )


def test_a_line_search_is_not_observed():
    kwargs = {"norm": "none", "net_arch": [8], "features_extractor_class": Own}
    given = {"n_steps": 64, "batch_size": 64, "seed": 0, "policy_kwargs": kwargs}
    agent = TRPO(NormActorCriticPolicy, "Pendulum-v1", **given)
    agent.learn(64)
    [norm] = phase_norms(agent.policy).values()
    rows = agent.policy.features_extractor.rows
    assert norm.pending_sums[0, 0].item() == rows[True] and rows[False] > 0


# arguments


def test_an_activation_keeps_its_arguments_in_every_network():
    for net in ("simba", "simbav2", "bronet"):
        kwargs = {
            "net": net,
            "net_arch": [16],
            "activation_fn": functools.partial(nn.LeakyReLU, 0.3),
        }
        policy = DQN(NormDQNPolicy, "CartPole-v1", policy_kwargs=kwargs).policy
        slopes = [m.negative_slope for m in policy.q_net.modules() if isinstance(m, nn.LeakyReLU)]
        assert slopes and set(slopes) == {0.3}
    kwargs = {"net": "simba", "net_arch": [16, 16]}
    policy = DQN(NormDQNPolicy, "CartPole-v1", policy_kwargs=kwargs).policy
    found = [m for m in policy.q_net.modules() if isinstance(m, nn.ReLU)]
    assert len(found) == len({id(m) for m in found}) >= 2, "each layer has its own"


def test_weight_decay_changes_nothing_else_of_adam():
    kwargs = {"net": "simba", "net_arch": [8]}
    for decay in (0.0, 1e-300, None):
        given = {**kwargs, "weight_decay": decay}
        policy = PPO(NormActorCriticPolicy, "CartPole-v1", policy_kwargs=given).policy
        assert {group["eps"] for group in policy.optimizer.param_groups} == {1e-5}


def test_the_replay_buffers_arguments_are_the_users():
    given = {"half_life_steps": 50}
    agent = RNDQN("MlpPolicy", "CartPole-v1", norm="rn", replay_buffer_kwargs=given)
    assert agent.replay_buffer.half_life_steps == agent.age_half_life == 50
    empty: dict[str, Any] = {}
    agent = RNDQN("MlpPolicy", "CartPole-v1", norm="rn", replay_buffer_kwargs=empty)
    assert agent.replay_buffer.half_life_steps == 10_000 and not empty


def test_floats_are_images_where_the_user_says_so():
    space = spaces.Box(-10, 10, (3, 40, 40), np.float32)
    kwargs = policy_kwargs("ln", normalize_images=False, net_arch=[8])
    agent = DQN("CnnPolicy", Noise(space, spaces.Discrete(2)), buffer_size=10, policy_kwargs=kwargs)
    assert isinstance(agent.q_net.features_extractor, NatureExtractor)


def test_targets_of_several_steps_are_those_that_dqn_learns():
    given = {"n_steps": 5, "learning_starts": 64, "train_freq": 400, "gradient_steps": 1, "seed": 0}
    kwargs = {"norm": "none", "value_norm": "popart", "net_arch": [8]}
    agent = DQN(NormDQNPolicy, "CartPole-v1", gamma=0.9, policy_kwargs=kwargs, **given)
    callback = ValueTargets(max_rows=10**6)
    agent.learn(400, callback=callback)
    [layer] = popart_layers(agent.q_net)
    agent.policy.set_training_mode(False)
    memory = agent.replay_buffer
    rewards, dones = memory.rewards[:400, 0], memory.dones[:400, 0]
    targets = []
    with torch.no_grad():
        for i in range(400):
            total, end = 0.0, min(i + 5, 400)
            for j in range(i, end):
                total += 0.9 ** (j - i) * rewards[j]
                if dones[j]:
                    break
            else:
                j = end - 1
            following = torch.as_tensor(memory.next_observations[j])
            value = agent.q_net_target(following).max().item()
            targets.append(total + 0.9 ** (j + 1 - i) * (1 - dones[j]) * value)
    # the target network was moved by no gradient yet: one step of tau=1 comes every 10,000 timesteps
    mean, _, count = layer.running_state[:, 0].tolist()
    assert count == 400 and mean == pytest.approx(np.mean(targets), rel=1e-5)


@pytest.mark.parametrize("prior", ["td", "reward", "action"])
def test_priors_with_many_binary_actions(prior):
    env = Noise(BOX, spaces.MultiBinary(3))
    RNPPO("MlpPolicy", env, norm=f"ln+sn(prior={prior})", **ROLLOUT).learn(64)


@pytest.mark.parametrize(
    "actions",
    [
        spaces.Box(-1, 2, (2, 3), np.float32),
        spaces.Box(np.array([[-1], [0], [1]], np.float32), np.array([[0], [4], [2]], np.float32)),
    ],
)
@pytest.mark.parametrize("algo", ["ppo", "sac"])
def test_actions_of_any_shape_leave_the_program_as_they_leave_the_agent(algo, actions):
    if algo == "sac" and not isinstance(actions, spaces.Box):
        return
    env = Noise(BOX, actions)
    agent = (
        PPO(NormActorCriticPolicy, env, policy_kwargs={"norm": "ln"}, **ROLLOUT)
        if algo == "ppo"
        else SAC(NormSACPolicy, env, policy_kwargs={"norm": "ln", "net_arch": [8]}, buffer_size=100)
    )
    seen = np.random.default_rng(0).uniform(-1, 1, (5, 3)).astype(np.float32)
    for rows in (seen, seen[:1]):
        expected, _ = agent.predict(rows, deterministic=True)
        found = DeterministicPolicy(agent.policy)(torch.as_tensor(rows)).detach().numpy()
        assert found.shape == expected.shape
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


# callbacks


def test_a_probe_records_every_learn():
    agent = PPO("MlpPolicy", "CartPole-v1", **ROLLOUT)
    probe = ProbeCallback(every=1)
    agent.learn(256, callback=probe)
    rows = len(probe.log)
    agent.learn(256, callback=probe)
    assert rows == 4 and len(probe.log) == 2 * rows
    assert probe.log.timesteps == [64, 128, 192, 256, 320, 384, 448, 512]
    agent.learn(128, callback=probe, reset_num_timesteps=False)
    assert len(probe.log) > 2 * rows


def test_callbacks_go_on_with_another_agent_and_its_observations():
    logger, probe = NormalizerLogger(measure_every=1), ProbeCallback()
    for env in ("CartPole-v1", "Pendulum-v1"):
        agent = PPO(NormActorCriticPolicy, env, policy_kwargs={"norm": "rn"}, **ROLLOUT)
        agent.learn(192, callback=[logger, probe])
    assert len(logger.commit_kls) >= 2


# one line


IMAGE = FakeImageEnv(screen_height=40, screen_width=40, n_channels=1)
SMALL = spaces.Dict({"image": spaces.Box(0, 255, (3, 7, 7), np.uint8), "x": BOX})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: PPO(
                NormActorCriticPolicy,
                IMAGE,
                policy_kwargs={"features_extractor_class": NatureCNN, "trunk_norm": "gn"},
            ),
            "trunk_norm='gn' beside features_extractor_class",
        ),
        (
            lambda: PPO(
                NormActorCriticPolicy,
                IMAGE,
                policy_kwargs={"features_extractor_class": NatureCNN, "features": "nature"},
            ),
            "features='nature' beside features_extractor_class",
        ),
        (
            lambda: DQN(
                NormDQNPolicy,
                "CartPole-v1",
                policy_kwargs={"net": "simba", "optimizer_kwargs": {"weight_decay": 0.5}},
            ),
            "optimizer_kwargs weight_decay=0.5 where weight_decay is 0.01: expected policy_kwargs",
        ),
        (
            lambda: DQN(
                NormDQNPolicy, Noise(SMALL, spaces.Discrete(2)), policy_kwargs={"features": "mlp"}
            ),
            "features='mlp' on observations Dict",
        ),
        (
            lambda: DQN(NormDQNPolicy, "CartPole-v1", policy_kwargs={"features": "dict"}),
            "features='dict' on observations Box",
        ),
        (
            lambda: DQN(NormDQNPolicy, Noise(SMALL, spaces.Discrete(2))),
            "the image 'image' of a dict has 7x7 pixels: the convolutions need at least 36x36",
        ),
    ],
)
def test_what_does_not_fit_is_one_line(make, message):
    with pytest.raises(UserError, match=message) as raised:
        make()
    assert "\n" not in str(raised.value)


def test_weights_of_samples_are_checked():
    net = nn.Sequential(nn.Linear(3, 4), *make_normalizers("bn", 4)).train()
    x = torch.randn(6, 3)
    for weights in ([1, 1, 0, 0, 1, 1], np.ones(6), torch.ones(6), lambda: torch.ones(6)):
        with observation_weights(net, weights):
            net(x)
    for weights, message in (
        ([1.0, 1.0], r"shape \(2,\): expected \(6,\)"),
        ([1, 1, 1, 1, 1, -1], "expected finite numbers of at least 0"),
        ([1, 1, 1, 1, 1, float("nan")], "expected finite numbers of at least 0"),
    ):
        with pytest.raises(UserError, match=message), observation_weights(net, weights):
            net(x)
