"""RNDQN and RNPPO: saving and loading, target networks, arguments, equality with stock agents."""

import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.callbacks import CallbackList, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.dqn.policies import DQNPolicy

from rn_rl.agents import RNDQN, RNPPO, AgeWeightedReplayBuffer, NormalizerLogger
from rn_rl.errors import UserError
from rn_rl.normalization import phase_norms
from rn_rl.policies import NormActorCriticPolicy, NormDQNPolicy, policy_kwargs

DQN_FEW = {
    "seed": 0,
    "learning_starts": 20,
    "train_freq": 5,
    "batch_size": 16,
    "buffer_size": 500,
    "target_update_interval": 100,
}
PPO_FEW = {"n_steps": 32, "batch_size": 16, "n_epochs": 1, "seed": 0}

MAKE = {
    "DQN": lambda: DQN("MlpPolicy", "CartPole-v1", policy_kwargs=policy_kwargs("rn"), **DQN_FEW),
    "PPO": lambda: PPO("MlpPolicy", "CartPole-v1", policy_kwargs=policy_kwargs("rln"), **PPO_FEW),
    "DQN with NormDQNPolicy": lambda: DQN(
        NormDQNPolicy, "CartPole-v1", policy_kwargs={"norm": "ln+rsn"}, **DQN_FEW
    ),
    "RNDQN": lambda: RNDQN("MlpPolicy", "CartPole-v1", norm="rn(half_life=5)", **DQN_FEW),
    "RNPPO": lambda: RNPPO("MlpPolicy", "CartPole-v1", norm="rsn", **PPO_FEW),
    "RNPPO with rn-paper": lambda: RNPPO("MlpPolicy", "CartPole-v1", norm="rn-paper", **PPO_FEW),
}


def bits(module, part=""):
    return {k: v.numpy().tobytes() for k, v in module.state_dict().items() if part in k}


LOADER = """
import sys
import numpy as np
import stable_baselines3
import rn_rl.agents
import torch

torch.set_num_threads(1)
observations = np.load(sys.argv[1])
for path in sys.argv[2:]:
    name = path.rsplit("/", 1)[1].split(" ")[0].removesuffix(".zip")
    algorithm = getattr(rn_rl.agents, name, None) or getattr(stable_baselines3, name)
    model = algorithm.load(path)
    loaded = {k: v.numpy().copy() for k, v in model.policy.state_dict().items()}
    actions, _ = model.predict(observations, deterministic=True)
    with torch.no_grad():
        x = torch.as_tensor(observations)
        policy = model.policy
        values = policy.q_net(x) if hasattr(policy, "q_net") else policy.predict_values(x)
    np.savez(path + ".npz", actions=actions, values=values, **loaded)
"""


def test_agents_load_in_a_new_process_and_another_folder(tmp_path):
    observations = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    np.save(tmp_path / "observations.npy", observations)
    models, saved = {}, {}
    for name, make in MAKE.items():
        models[name] = make().learn(200)
        models[name].save(tmp_path / f"{name}.zip")
        saved[name] = bits(models[name].policy)
        if "paper" not in name:  # saved in the middle of a phase
            assert any(any(value) for key, value in saved[name].items() if "pending_" in key)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    paths = [str(tmp_path / f"{name}.zip") for name in MAKE]
    command = [sys.executable, "-c", LOADER, str(tmp_path / "observations.npy"), *paths]
    root = Path(__file__).parents[2]
    subprocess.run(command, check=True, cwd=elsewhere, env={**os.environ, "PYTHONPATH": str(root)})
    for name, model in models.items():
        found = np.load(tmp_path / f"{name}.zip.npz")
        assert {key: found[key].tobytes() for key in saved[name]} == saved[name]
        actions, _ = model.predict(observations, deterministic=True)
        assert (found["actions"] == actions).all()
        x, policy = torch.as_tensor(observations), model.policy
        with torch.no_grad():
            values = policy.q_net(x) if hasattr(policy, "q_net") else policy.predict_values(x)
        assert (found["values"] == values.numpy()).all()


@pytest.mark.parametrize("name", MAKE)
def test_a_loaded_agent_continues_training(name, tmp_path):
    model = MAKE[name]().learn(100)
    model.save(tmp_path / "agent")
    loaded = type(model).load(tmp_path / "agent", env=model.get_env())
    before = bits(loaded.policy)
    assert before == bits(model.policy)
    loaded.learn(100, reset_num_timesteps=False)
    assert loaded.num_timesteps >= 200
    moved = {key for key, value in bits(loaded.policy).items() if value != before[key]}
    online = [key for key in before if "target" not in key and "running_" in key]
    assert online and set(online) <= moved
    assert any("weight" in key for key in moved)


@pytest.mark.parametrize("agent", [RNDQN, RNPPO])
def test_constructor_arguments_are_loaded(agent, tmp_path):
    few = DQN_FEW if agent is RNDQN else PPO_FEW
    model = agent("MlpPolicy", "CartPole-v1", norm="ln+rln", **few)
    model.save(tmp_path / "agent")
    loaded = agent.load(tmp_path / "agent")
    assert loaded.norm == loaded.policy.norm == "ln+rln"
    assert str(loaded.policy) == str(model.policy)
    if agent is RNDQN:
        assert loaded.age_half_life == 10_000
        assert loaded.replay_buffer.half_life_steps == 10_000


@pytest.mark.parametrize("name", MAKE)
def test_the_optimizer_has_exactly_the_learnable_parameters(name):
    policy = MAKE[name]().policy
    optimized = [id(p) for group in policy.optimizer.param_groups for p in group["params"]]
    learnable = getattr(policy, "q_net", policy).parameters()
    assert optimized == [id(p) for p in learnable if p.requires_grad]
    assert not set(optimized) & {id(buffer) for buffer in policy.buffers()}


def rebind(module):
    """Replace buffers by new tensors of the same names, as ``.to(device)`` does."""
    for norm in phase_norms(module).values():
        norm.running_state = norm.running_state.clone()
        norm.pending_sums = norm.pending_sums.clone()


def test_rndqn_copies_state_to_its_target_after_the_buffers_were_replaced():
    model = RNDQN("MlpPolicy", "CartPole-v1", norm="rn", **DQN_FEW).learn(195)
    rebind(model.policy)
    before = bits(model.q_net_target, "running_")
    model.learn(5, reset_num_timesteps=False)  # the next target update must copy the new tensors
    assert bits(model.q_net_target, "running_") != before
    assert bits(model.q_net, "running_") == bits(model.q_net_target, "running_")


def test_rndqn_copies_state_to_its_target_after_casts():
    model = RNDQN("MlpPolicy", "CartPole-v1", norm="rn", **DQN_FEW).learn(100)
    model.policy.to(torch.float64).to(torch.float32)
    model.learn(200, reset_num_timesteps=False)
    assert bits(model.q_net, "running_") == bits(model.q_net_target, "running_")


def test_rndqn_copies_state_at_the_right_steps_with_several_environments():
    few = {**DQN_FEW, "train_freq": 2, "target_update_interval": 30}
    model = RNDQN("MlpPolicy", make_vec_env("CartPole-v1", 3), norm="rn", **few)
    model.learn(282)  # 94 calls, an update every 10
    rebind(model.policy)
    before = bits(model.q_net_target, "running_")
    model.learn(18, reset_num_timesteps=False)
    assert bits(model.q_net_target, "running_") != before
    assert bits(model.q_net, "running_") == bits(model.q_net_target, "running_")


def test_rndqn_with_norm_none_learns_as_dqn_does():
    ours = RNDQN("MlpPolicy", "CartPole-v1", norm="none", **DQN_FEW).learn(300)
    stock = DQN("MlpPolicy", "CartPole-v1", **DQN_FEW).learn(300)
    assert bits(ours.policy) == bits(stock.policy)


def test_rnppo_with_norm_none_learns_as_ppo_does():
    ours = RNPPO("MlpPolicy", "CartPole-v1", norm="none", **PPO_FEW).learn(200)
    stock = PPO("MlpPolicy", "CartPole-v1", **PPO_FEW).learn(200)
    assert bits(ours.policy) == bits(stock.policy)


def test_without_age_weights_rndqn_is_stock_dqn_with_the_norm_policy():
    ours = RNDQN("MlpPolicy", "CartPole-v1", norm="rn", age_half_life=None, **DQN_FEW).learn(300)
    stock = DQN(NormDQNPolicy, "CartPole-v1", policy_kwargs={"norm": "rn"}, **DQN_FEW).learn(300)
    assert type(ours.replay_buffer) is ReplayBuffer
    assert bits(ours.policy) == bits(stock.policy)


def test_policies_can_be_classes_with_arguments():
    model = RNDQN(
        NormDQNPolicy, "CartPole-v1", norm="ln", policy_kwargs={"net_arch": [8]}, **DQN_FEW
    )
    assert type(model.policy) is NormDQNPolicy
    assert model.policy.net_arch == [8] and model.policy.norm == "ln"
    assert type(RNPPO("MlpPolicy", "CartPole-v1", **PPO_FEW).policy) is NormActorCriticPolicy


def test_dictionaries_of_the_user_are_not_modified():
    kwargs = {"net_arch": [8]}
    RNDQN("MlpPolicy", "CartPole-v1", norm="rn", policy_kwargs=kwargs, **DQN_FEW)
    RNPPO("MlpPolicy", "CartPole-v1", norm="rn", policy_kwargs=kwargs, **PPO_FEW)
    assert kwargs == {"net_arch": [8]}


@pytest.mark.parametrize(
    ("policy", "options", "message"),
    [
        ("MplPolicy", {}, "policy 'MplPolicy': expected one of MlpPolicy, CnnPolicy"),
        (DQNPolicy, {}, "policy DQNPolicy: expected a subclass of NormDQNPolicy"),
        ("MlpPolicy", {"norm": "rnn"}, "unknown normalizer 'rnn'"),
        ("MlpPolicy", {"replay_buffer_class": ReplayBuffer}, "replay_buffer_class ReplayBuffer"),
        ("MlpPolicy", {"age_half_life": 0}, "half_life_steps=0: expected timesteps above 0"),
    ],
)
def test_invalid_arguments_raise_user_errors(policy, options, message):
    with pytest.raises(UserError, match=message):
        RNDQN(policy, "CartPole-v1", **{**DQN_FEW, **options})


class Dicts(gym.Env):
    """An environment with a Dict of two observations."""

    action_space = spaces.Discrete(2)
    observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (3,)), "b": spaces.Box(-1, 1, (2,))})

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


@pytest.mark.parametrize("agent", [RNDQN, RNPPO])
def test_agents_train_on_dict_observations(agent):
    few = DQN_FEW if agent is RNDQN else PPO_FEW
    model = agent("MultiInputPolicy", Dicts(), norm="rn", **few).learn(100)
    assert all(norm.running_state.abs().sum() > 2 for norm in phase_norms(model.policy).values())


def loggers(callback):
    if isinstance(callback, CallbackList):
        return sum(map(loggers, callback.callbacks))
    return int(isinstance(callback, NormalizerLogger))


@pytest.mark.parametrize(
    ("given", "calls"),
    [
        (lambda seen: None, 0),
        (lambda seen: lambda *_: seen.append(1) or True, 64),
        (lambda seen: [lambda *_: seen.append(1) or True, NormalizerLogger()], 64),
        (lambda seen: NormalizerLogger(), 0),
        (lambda seen: CallbackList([CallbackList([NormalizerLogger()])]), 0),
        (lambda seen: [StopTrainingOnMaxEpisodes(10**9)], 0),
    ],
    ids=["none", "function", "list with a logger", "a logger", "nested logger", "another"],
)
def test_agents_log_once_with_any_form_of_callback(given, calls):
    seen = []
    model = RNPPO("MlpPolicy", "CartPole-v1", norm="rn", **PPO_FEW)
    prepared = []
    learn = model._init_callback
    model._init_callback = lambda *args: prepared.append(learn(*args)) or prepared[0]
    model.learn(64, callback=given(seen))
    assert loggers(prepared[0]) == 1
    assert len(seen) == calls


def test_age_weights_are_on_by_default():
    model = RNDQN("MlpPolicy", "CartPole-v1", **DQN_FEW)
    assert isinstance(model.replay_buffer, AgeWeightedReplayBuffer)
    assert model.replay_buffer.half_life_steps == model.age_half_life == 10_000
