"""Agents from elsewhere act as in SB3, or are refused in one line; nothing plays another network."""

from __future__ import annotations

import base64
import contextlib
import copy
import json
import pickle
import sys
import types
import zipfile
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from rn_rl import policies
from rn_rl.analysis.references import evaluate_agent, load_foreign
from rn_rl.errors import UserError
from rn_rl.experiment.evaluation.config import EvaluateConfig
from rn_rl.experiment.evaluation.evaluate import evaluate
from rn_rl.experiment.runs.folder import Run, load_weights
from rn_rl.experiment.runs.foreign import pickled_name, read_agent
from rn_rl.experiment.runs.match import difference
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.runs.trusted import gym_as_gymnasium
from rn_rl.experiment.settings.algorithms import algorithm
from rn_rl.policies.spec_arguments import NORMALIZER_ARGUMENTS


class Pixels(gym.Env):
    """Images of bytes that do not change."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 1}  # noqa: RUF012
    observation_space = spaces.Box(0, 255, (1, 36, 36), np.uint8)
    action_space = spaces.Discrete(3)

    def __init__(self, render_mode=None):
        self.render_mode = render_mode

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return np.full((1, 36, 36), 7, np.uint8), {}

    def step(self, action):
        return np.full((1, 36, 36), 7, np.uint8), 1.0, True, False, {}


gym.register("Pixels-v0", entry_point=Pixels)


class Swish(nn.Module):
    """An activation of the user's own."""

    def forward(self, x):
        return x * torch.sigmoid(x)


def stored(
    folder: Path,
    algo: str,
    env: str,
    policy: Any = "MlpPolicy",
    seed: int = 0,
    name: str = "agent.zip",
    **arguments: Any,
) -> tuple[Path, Any]:
    """Save an agent of SB3 whose weights are far from their initial values; return zip and agent."""
    spec = algorithm(algo)
    if spec.replay:
        arguments["buffer_size"] = 10
    venv = make_vec_env(env, 1)
    arguments = copy.deepcopy(arguments)  # SB3 changes them
    model: Any = spec.cls(policy, venv, seed=seed, device="cpu", **arguments)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(torch.randn(parameter.shape), alpha=0.3)
    folder.mkdir(parents=True, exist_ok=True)
    model.save(folder / name)
    return folder / name, model


def described(algo: str, env: str, **hyperparameters: Any) -> RunSpec:
    """Return a run without normalizer."""
    given = {"policy": "MlpPolicy", **hyperparameters}
    return RunSpec(algo, env, "none", 0, 0, 1, 0, 1, "cpu", 1, "zoo", given)


def acts(model: Any, env: str) -> np.ndarray:
    """Return the actions in some observations, which show a change of activation or scale."""
    space = make_vec_env(env, 1).observation_space
    space.seed(0)
    samples = np.array([space.sample() for _ in range(64)])
    if samples.dtype != np.uint8:
        samples = np.clip(samples, -3, 3)
    return np.asarray(model.predict(samples, deterministic=True)[0])


RELU = {"activation_fn": nn.ReLU}
CONTINUOUS: dict[str, Any] = {"activation_fn": nn.Tanh, "net_arch": [16, 16]}
AGENTS: dict[str, tuple[Any, ...]] = {
    "ppo": ("ppo", "CartPole-v1", "MlpPolicy", {"policy_kwargs": RELU}),
    "ppo nets": (
        "ppo",
        "CartPole-v1",
        "MlpPolicy",
        {"policy_kwargs": {"net_arch": {"pi": [9], "vf": [8]}}},
    ),
    "ppo slope": (
        "ppo",
        "CartPole-v1",
        "MlpPolicy",
        {"policy_kwargs": {"activation_fn": nn.LeakyReLU}},
    ),
    "ppo separate": (
        "ppo",
        "Pixels-v0",
        "CnnPolicy",
        {"policy_kwargs": {"share_features_extractor": False}},
    ),
    "ppo raw pixels": (
        "ppo",
        "Pixels-v0",
        "CnnPolicy",
        {"policy_kwargs": {"normalize_images": False}},
    ),
    "dqn pixels": ("dqn", "Pixels-v0", "CnnPolicy", {}),
    "ppo gsde": (
        "ppo",
        "Pendulum-v1",
        "MlpPolicy",
        {
            "use_sde": True,
            "policy_kwargs": {"squash_output": True, "full_std": False, "use_expln": True},
        },
    ),
    "a2c": ("a2c", "CartPole-v1", "MlpPolicy", {"policy_kwargs": RELU}),
    "trpo": ("trpo", "CartPole-v1", "MlpPolicy", {"policy_kwargs": RELU}),
    "ppo_lstm": (
        "ppo_lstm",
        "Pendulum-v1",
        "MlpLstmPolicy",
        {"policy_kwargs": {**RELU, "lstm_hidden_size": 32}},
    ),
    "ppo_mask": ("ppo_mask", "CartPole-v1", "MlpPolicy", {"policy_kwargs": RELU}),
    "dqn": ("dqn", "CartPole-v1", "MlpPolicy", {"policy_kwargs": {"activation_fn": nn.Tanh}}),
    "qrdqn": (
        "qrdqn",
        "CartPole-v1",
        "MlpPolicy",
        {"policy_kwargs": {"activation_fn": nn.Tanh, "n_quantiles": 7}},
    ),
    "sac": ("sac", "Pendulum-v1", "MlpPolicy", {"policy_kwargs": CONTINUOUS}),
    "sac gsde": (
        "sac",
        "Pendulum-v1",
        "MlpPolicy",
        {"use_sde": True, "policy_kwargs": {**CONTINUOUS, "clip_mean": 0.1}},
    ),
    "td3": ("td3", "Pendulum-v1", "MlpPolicy", {"policy_kwargs": CONTINUOUS}),
    "ddpg": ("ddpg", "Pendulum-v1", "MlpPolicy", {"policy_kwargs": CONTINUOUS}),
    "tqc": ("tqc", "Pendulum-v1", "MlpPolicy", {"policy_kwargs": CONTINUOUS}),
    "crossq": ("crossq", "Pendulum-v1", "MlpPolicy", {"policy_kwargs": CONTINUOUS}),
    "ars": ("ars", "CartPole-v1", "MlpPolicy", {"policy_kwargs": RELU}),
    "norm policy": (
        "ppo",
        "CartPole-v1",
        policies.NormActorCriticPolicy,
        {"policy_kwargs": {"norm": "ln+rn", **RELU}},
    ),
    "norm names": (
        "dqn",
        "CartPole-v1",
        policies.NormDQNPolicy,
        {"policy_kwargs": {"norm": "ln", "activation_fn": "tanh"}},
    ),
    "norm inside": (
        "ppo_lstm",
        "CartPole-v1",
        policies.NormRecurrentActorCriticPolicy,
        {"policy_kwargs": {"norm": "ln", "lstm_norm": "ln+gain(2)", "lstm_hidden_size": 8, **RELU}},
    ),
    "norm sizes by name": (
        "dqn",
        "CartPole-v1",
        policies.NormDQNPolicy,
        {"policy_kwargs": {"net": "simba", "net_arch": "small", **RELU}},
    ),
    "policy_kwargs": (
        "dqn",
        "CartPole-v1",
        "MlpPolicy",
        {"policy_kwargs": policies.policy_kwargs("ln", activation_fn=nn.Tanh)},
    ),
    "rndqn": (
        "rndqn",
        "CartPole-v1",
        "MlpPolicy",
        {"norm": "ln", "policy_kwargs": {"activation_fn": nn.Tanh}},
    ),
}


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("agent", AGENTS)
def test_a_zip_acts_as_in_sb3(agent, trust, tmp_path):
    algo, env, policy, arguments = AGENTS[agent]
    path, model = stored(tmp_path, algo, env, policy, **arguments)
    spec = described(algo, env)
    venv = spec.make_env(n_envs=1, evaluation=True)
    before = torch.random.get_rng_state()
    loaded = load_foreign(path, spec, venv, None, trust=trust)
    assert torch.equal(torch.random.get_rng_state(), before)
    right = acts(model, env)
    assert len(np.unique(right, axis=0)) > 1 or env == "Pixels-v0"
    np.testing.assert_array_equal(acts(loaded, env), right)
    for key, value in model.policy.state_dict().items():
        assert torch.equal(value, loaded.policy.state_dict()[key]), key


OTHERS: dict[str, tuple[Any, ...]] = {
    "activation": (
        "ppo",
        "CartPole-v1",
        "MlpPolicy",
        {"policy_kwargs": RELU},
        "ReLU, and in this run Tanh",
    ),
    "slope": (
        "ppo",
        "CartPole-v1",
        "MlpPolicy",
        {"policy_kwargs": {"activation_fn": nn.LeakyReLU}},
        "LeakyReLU",
    ),
    "gsde": (
        "ppo",
        "Pendulum-v1",
        "MlpPolicy",
        {"use_sde": True, "policy_kwargs": {"full_std": False}},
        "use_sde=True",
    ),
    "dqn": (
        "dqn",
        "CartPole-v1",
        "MlpPolicy",
        {"policy_kwargs": {"activation_fn": nn.Tanh}},
        "Tanh, and in this",
    ),
    "normalizer": (
        "ppo",
        "CartPole-v1",
        policies.NormActorCriticPolicy,
        {"policy_kwargs": {"norm": "gain(2)"}},
        "ScheduleNorm, and in this run Tanh",
    ),
    "pixels": (
        "dqn",
        "Pixels-v0",
        policies.NormDQNPolicy,
        {"policy_kwargs": {"normalize_images": False}},
        "normalize_images=False, and this run True",
    ),
    "squash": (
        "ppo",
        "Pendulum-v1",
        policies.NormActorCriticPolicy,
        {"use_sde": True, "policy_kwargs": {"squash_output": True}},
        "squash_output",
    ),
    "clip": (
        "sac",
        "Pendulum-v1",
        "MlpPolicy",
        {"use_sde": True, "policy_kwargs": {"clip_mean": 0.5}},
        "min_val=-0.5, and in this run -2.0",
    ),
}


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize("case", OTHERS)
def test_from_refuses_a_network_that_acts_differently(case, trust, tmp_path):
    algo, env, policy, arguments, message = OTHERS[case]
    path, _ = stored(tmp_path, algo, env, policy, **arguments)
    with_sde = {"use_sde": True} if case in ("squash", "clip") else {}
    spec = described(algo, env, policy=OURS[algo], **with_sde)
    model = spec.make_model(spec.make_env(), training=False)
    with pytest.raises(UserError, match=message) as caught:
        load_weights(path, spec, model, trust=trust)
    assert "\n" not in str(caught.value)


OURS = {
    "ppo": "rn_rl.policies.NormActorCriticPolicy",
    "dqn": "rn_rl.policies.NormDQNPolicy",
    "sac": "rn_rl.policies.NormSACPolicy",
}


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(("algo", "env"), [("ppo", "CartPole-v1"), ("sac", "Pendulum-v1")])
def test_from_takes_a_network_that_acts_alike(algo, env, trust, tmp_path):
    kwargs = {"activation_fn": nn.ELU}
    path, model = stored(tmp_path, algo, env, policy_kwargs=kwargs)
    spec = described(algo, env, policy=OURS[algo], policy_kwargs={"activation_fn": "elu"})
    ours = spec.make_model(spec.make_env(), training=False)
    load_weights(path, spec, ours, trust=trust)
    np.testing.assert_array_equal(acts(ours, env), acts(model, env))


@pytest.mark.parametrize(
    ("one", "other", "found"),
    [
        ("rn", "rn", None),
        ("rn", "rn(half_life=20)", None),  # decides about later updates alone
        ("hs", "hs(rate=0.1)", None),
        ("gain(2)", "gain(3)", "gain c=2"),
        ("ramp(2, 100)", "ramp(2, 200)", "over=100"),
        ("rn", "rln", "axis='layer', and in this run 'neuron'"),
        ("rn", "sn", "SaliencyNorm"),
        ("bn", "brn", "BatchRenorm"),
        ("wn", "none", "Linear"),
        ("gn(2)", "gn(4)", "num_groups=2, and in this run 4"),
    ],
)
def test_normalizers_that_act_differently(one, other, found):
    theirs, ours = (
        stable_baselines3.PPO(
            policies.NormActorCriticPolicy, "CartPole-v1", policy_kwargs={"norm": n}, device="cpu"
        ).policy
        for n in (one, other)
    )
    seen = difference(theirs, ours)
    assert seen == found or (found is not None and seen is not None and found in seen)


def test_from_a_run_compares_activations_too(tmp_path):
    source = Run(tmp_path)
    spec = described("ppo", "CartPole-v1", policy=OURS["ppo"])
    relu = described(
        "ppo", "CartPole-v1", policy=OURS["ppo"], policy_kwargs={"activation_fn": "relu"}
    )
    source.write_spec(relu)
    source.save_agent(relu, relu.make_model(relu.make_env()))
    model = spec.make_model(spec.make_env(), training=False)
    for path in (tmp_path, source.zip_file("CartPole-v1")):
        with pytest.raises(UserError, match="ReLU, and in this run Tanh"):
            load_weights(path, spec, model, trust=False)


def test_a_zip_that_was_put_into_a_run_is_compared_with_it(tmp_path):
    run, spec = Run(tmp_path), described("ppo", "CartPole-v1", policy=OURS["ppo"])
    run.write_spec(spec)
    run.save_agent(spec, spec.make_model(spec.make_env()))
    path, _ = stored(tmp_path, "ppo", "CartPole-v1", policy_kwargs=RELU, name="other.zip")
    with pytest.raises(UserError, match="ReLU, and in this run Tanh"):
        evaluate(EvaluateConfig(path, episodes=1))
    assert len(evaluate(EvaluateConfig(run.zip_file("CartPole-v1"), episodes=1)).returns) == 1


def edit(path: Path, change: Any) -> None:
    """Change the member ``data`` of a zip."""
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(members["data"])
    data = change(data) or data
    members["data"] = data if isinstance(data, bytes) else json.dumps(data).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)


@pytest.mark.parametrize(
    ("policy_kwargs", "message"),
    [
        (
            {"activation_fn": Swish},
            r"policy_kwargs\['activation_fn'\] is '.*Swish', expected a Module",
        ),
        ({"activation_fn": lambda: nn.ReLU()}, r"policy_kwargs\['activation_fn'\] is '<function"),
        ({"normalize_images": np.float32(0)}, None),
        (
            {"ortho_init": torch.tensor(False)},
            r"policy_kwargs\['ortho_init'\] is 'tensor\(False\)'",
        ),
    ],
)
def test_what_only_the_pickle_says_needs_trust(policy_kwargs, message, tmp_path):
    path, model = stored(tmp_path, "ppo", "CartPole-v1", policy_kwargs=policy_kwargs)
    spec = described("ppo", "CartPole-v1")
    venv = spec.make_env(evaluation=True)
    if message is None:
        loaded = load_foreign(path, spec, venv, None, trust=False)
        assert loaded.policy.normalize_images == 0
    else:
        with pytest.raises(UserError, match=f"{message}.*give --trust"):
            load_foreign(path, spec, venv, None, trust=False)
    loaded = load_foreign(path, spec, venv, None, trust=True)
    np.testing.assert_array_equal(acts(loaded, "CartPole-v1"), acts(model, "CartPole-v1"))


def shorter(data: dict[str, Any]) -> None:
    data["action_space"]["n"] = "3"


def without(name: str) -> Any:
    return lambda data: data.pop(name) and None


@pytest.mark.parametrize("trust", [False, True])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda data: b"[]", "not a JSON object"),
        (lambda data: b"{", "damaged"),
        (lambda data: b"[" * 200_000, "damaged"),
        (without("observation_space"), "its observation_space has"),
        (shorter, "its action_space has n 3"),
    ],
)
def test_a_damaged_description_is_one_line(change, message, trust, tmp_path):
    path, _ = stored(tmp_path, "ppo", "CartPole-v1")
    edit(path, change)
    spec = described("ppo", "CartPole-v1")
    with pytest.raises(UserError, match=message) as caught:
        load_foreign(path, spec, spec.make_env(evaluation=True), None, trust=trust)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["policy_class", "policy_kwargs"])
def test_without_a_description_trust_is_named(name, tmp_path):
    path, _ = stored(tmp_path, "ppo", "CartPole-v1")
    edit(path, without(name))
    spec = described("ppo", "CartPole-v1")
    with pytest.raises(UserError, match=f"its {name}.*give --trust"):
        load_foreign(path, spec, spec.make_env(evaluation=True), None, trust=False)


def test_a_policy_of_another_algorithm_is_refused(tmp_path):
    path, _ = stored(tmp_path, "qrdqn", "CartPole-v1")
    spec = described("dqn", "CartPole-v1")
    with pytest.raises(UserError, match="its policy is QRDQNPolicy, which is none of DQN"):
        load_foreign(path, spec, spec.make_env(evaluation=True), None, trust=False)


def test_actions_of_other_bounds_are_another_agent(tmp_path):
    path, _ = stored(tmp_path, "sac", "Pendulum-v1")
    edit(path, lambda data: data["action_space"].update(high="[1.]", low="[-1.]"))
    spec = described("sac", "Pendulum-v1")
    with pytest.raises(UserError, match=r"its action_space has low \[-1.\], high \[1.\]"):
        load_foreign(path, spec, spec.make_env(evaluation=True), None, trust=False)


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("exploded"),)


def test_a_pickle_in_a_zip_is_not_opened(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path, _ = stored(tmp_path, "ppo", "CartPole-v1", policy_kwargs=RELU)
    text = base64.b64encode(pickle.dumps(Bomb())).decode()

    def arm(data: dict[str, Any]) -> None:
        for value in data.values():
            if isinstance(value, dict) and ":serialized:" in value:
                value[":serialized:"] = text

    edit(path, arm)
    spec = described("ppo", "CartPole-v1")
    with pytest.raises(UserError, match="its policy_class is not stored by name"):
        load_foreign(path, spec, spec.make_env(evaluation=True), None, trust=False)
    assert not Path("exploded").exists()


@pytest.mark.parametrize("argument", NORMALIZER_ARGUMENTS)
@pytest.mark.parametrize("mixed", [False, True])
def test_a_normalizer_in_a_zip_imports_no_module(argument, mixed, tmp_path, monkeypatch):
    proof = tmp_path / "imported"
    (tmp_path / "wicked.py").write_text(f"import pathlib; pathlib.Path({str(proof)!r}).touch()")
    monkeypatch.syspath_prepend(tmp_path)
    policy = policies.NormRecurrentActorCriticPolicy
    kwargs = {"norm": "ln", "lstm_norm": "ln", "lstm_hidden_size": 8, **(RELU if mixed else {})}
    path, _ = stored(tmp_path, "ppo_lstm", "CartPole-v1", policy, policy_kwargs=kwargs)
    edit(path, lambda data: data["policy_kwargs"].update({argument: "wicked:Norm"}))
    spec = described("ppo_lstm", "CartPole-v1")
    with pytest.raises(UserError, match="its normalizer 'wicked:Norm' imports a module"):
        load_foreign(path, spec, spec.make_env(evaluation=True), None, trust=False)
    assert not proof.exists()


@pytest.mark.parametrize("protocol", range(6))
def test_pickled_names_are_read_of_every_protocol(protocol):
    raw = pickle.dumps(policies.NormDQNPolicy, protocol)
    text = base64.b64encode(raw).decode()
    assert pickled_name({":serialized:": text}) == "rn_rl.policies.q_policies.NormDQNPolicy"
    for other in (Bomb(), 3, [nn.ReLU, nn.ReLU]):
        text = base64.b64encode(pickle.dumps(other, protocol)).decode()
        assert pickled_name({":serialized:": text}) is None
    assert pickled_name({":serialized:": "AAAA"}) is None
    assert pickled_name(None) is None


@contextlib.contextmanager
def old_gym():
    """Let Gym's spaces be pickled, as zips of SB3 1 have them; nobody has Gym when they are read."""
    names = ("gym", "gym.spaces", "gym.spaces.box", "gym.spaces.discrete")
    modules: dict[str, Any] = {name: types.ModuleType(name) for name in names}
    modules["gym"].__version__ = "0.21.0"
    for kind, module in ((spaces.Box, "gym.spaces.box"), (spaces.Discrete, "gym.spaces.discrete")):
        old = type(kind.__name__, (kind,), {"__module__": module})
        setattr(modules[module], kind.__name__, old)
    sys.modules.update(modules)
    try:
        yield modules["gym.spaces.box"].Box, modules["gym.spaces.discrete"].Discrete
    finally:
        for name in names:
            del sys.modules[name]


@pytest.mark.parametrize("trust", [False, True])
def test_a_zip_with_spaces_of_gym_acts_as_in_sb3(trust, tmp_path):
    with pytest.raises(ImportError):
        __import__("gym")
    path, model = stored(tmp_path, "dqn", "CartPole-v1", policy_kwargs={"net_arch": [16]})
    box = model.observation_space
    with old_gym() as (old_box, old_discrete):
        high = np.nan_to_num(box.high, posinf=3.4e38)
        model.observation_space = old_box(-high, high, dtype=np.float32)
        model.action_space = old_discrete(2)
        model.save(path)

    def unreadable(data: dict[str, Any]) -> None:
        data["lr_schedule"][":serialized:"] = "AAAA"  # code of another version of Python
        data["exploration_schedule"][":serialized:"] = "AAAA"
        data["action_space"].pop("start")

    edit(path, unreadable)
    spec = described("dqn", "CartPole-v1")
    venv = spec.make_env(evaluation=True)
    loaded = load_foreign(path, spec, venv, None, trust=trust)
    np.testing.assert_array_equal(acts(loaded, "CartPole-v1"), acts(model, "CartPole-v1"))
    assert "gym" not in sys.modules


def test_zips_before_shared_extractors_had_three_names(tmp_path):
    path, model = stored(tmp_path, "ppo", "Pixels-v0", "CnnPolicy")
    state = model.policy.state_dict()
    old = {k: v for k, v in state.items() if not k.startswith(("pi_features", "vf_features"))}
    assert len(old) < len(state)
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    torch.save(old, tmp_path / "policy.pth")
    members["policy.pth"] = (tmp_path / "policy.pth").read_bytes()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    spec = described("ppo", "Pixels-v0", policy="CnnPolicy")
    loaded = load_foreign(path, spec, spec.make_env(evaluation=True), None, trust=False)
    assert all(torch.equal(v, loaded.policy.state_dict()[k]) for k, v in state.items())


ZOO = """!!python/object/apply:collections.OrderedDict
- - - normalize
    - {normalize}
  - - policy
    - MlpPolicy
  - - env_wrapper
    - {wrapper}
  - - frame_stack
    - {stack}
"""


def zoo(folder: Path, **given: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    text = ZOO.format(**{"normalize": "false", "wrapper": "null", "stack": "null", **given})
    (folder / "config.yml").write_text(text)


def normalized_agent(folder: Path) -> tuple[Path, Any, VecNormalize]:
    """Save an agent of the RL Zoo that saw normalized observations, with statistics far from 0 and 1."""
    path, model = stored(folder, "ppo", "CartPole-v1", name="CartPole-v1.zip")
    normalizer = VecNormalize(make_vec_env("CartPole-v1", 1), clip_obs=0.7, epsilon=1e-3)
    normalizer.obs_rms.mean = np.array([0.1, 0.2, -0.1, 0.3])
    normalizer.obs_rms.var = np.array([0.01, 0.02, 0.03, 0.04])
    (folder / "CartPole-v1").mkdir(parents=True)
    with old_gym() as (old_box, _):
        box = normalizer.observation_space
        normalizer.observation_space = old_box(box.low, box.high, dtype=np.float32)
        normalizer.save(str(folder / "CartPole-v1" / "vecnormalize.pkl"))
        normalizer.observation_space = box
    return path, model, normalizer


@pytest.mark.parametrize("text", ["true", "dict(norm_reward=False)", "\"{'norm_reward': False}\""])
def test_a_zoo_agent_sees_what_it_saw(text, tmp_path, monkeypatch):
    folder = tmp_path / "ppo" / "CartPole-v1_1"
    _, _, normalizer = normalized_agent(folder)
    zoo(folder / "CartPole-v1", normalize=text)
    arguments = (folder, ["ppo"], ["CartPole-v1"], 2)
    with pytest.raises(UserError, match=r"VecNormalize statistics are a pickle.*--trust"):
        evaluate_agent(*arguments, trust=False)
    seen = []

    def look(model: Any, env: Any, episodes: int, *, deterministic: bool) -> Any:
        seen.append(env)
        return [1.0] * episodes, [1] * episodes

    monkeypatch.setattr("rn_rl.analysis.references.play_agent", look)
    evaluate_agent(*arguments, trust=True)
    raw = np.array([[0.5, -1.0, 0.02, 0.3]])
    np.testing.assert_array_equal(seen[0].normalize_obs(raw), normalizer.normalize_obs(raw))
    (folder / "CartPole-v1" / "vecnormalize.pkl").unlink()
    with pytest.raises(UserError, match=r"it saw normalized observations, and .*vecnormalize\.pkl"):
        evaluate_agent(*arguments, trust=True)


def test_from_a_zoo_agent_starts_with_its_statistics(tmp_path):
    folder = tmp_path / "ppo" / "CartPole-v1_1"
    path, _, normalizer = normalized_agent(folder)
    zoo(folder / "CartPole-v1", normalize="true")
    plain = described("ppo", "CartPole-v1", policy=OURS["ppo"])
    model = plain.make_model(plain.make_env(), training=False)
    with pytest.raises(UserError, match="--set normalize=true"):
        load_weights(path, plain, model, trust=True)
    spec = described("ppo", "CartPole-v1", policy=OURS["ppo"], normalize=True)
    model = spec.make_model(spec.make_env(), training=False)
    with pytest.raises(UserError, match="--trust"):
        load_weights(path, spec, model, trust=False)
    load_weights(path, spec, model, trust=True)
    ours = model.get_vec_normalize_env()
    assert ours is not None
    np.testing.assert_array_equal(ours.obs_rms.mean, normalizer.obs_rms.mean)
    assert (ours.clip_obs, ours.epsilon) == (0.7, 1e-3)
    zoo(folder / "CartPole-v1", normalize="false")
    with pytest.raises(UserError, match="--set normalize=false"):
        load_weights(path, spec, model, trust=True)


def test_an_off_policy_zip_shows_that_observations_were_normalized(tmp_path):
    path, _ = stored(tmp_path, "dqn", "CartPole-v1")
    edit(path, lambda data: data.update(_last_original_obs={":type:": "<class 'numpy.ndarray'>"}))
    assert read_agent(path).saw_normalized
    spec = described("dqn", "CartPole-v1")
    with pytest.raises(UserError, match=r"it saw normalized observations; put config\.yml"):
        load_foreign(path, spec, spec.make_env(evaluation=True), None, trust=True)


def test_a_zoo_agent_plays_in_its_own_environment(tmp_path, monkeypatch):
    seen = []

    def look(model: Any, env: Any, episodes: int, *, deterministic: bool) -> Any:
        seen.append(env.observation_space.shape)
        return [1.0] * episodes, [1] * episodes

    monkeypatch.setattr("rn_rl.analysis.references.play_agent", look)
    folder = tmp_path / "ppo" / "CartPole-v1_1"
    stacked = stable_baselines3.common.vec_env.VecFrameStack(make_vec_env("CartPole-v1", 1), 3)
    folder.mkdir(parents=True)
    stable_baselines3.PPO("MlpPolicy", stacked, device="cpu").save(folder / "CartPole-v1.zip")
    zoo(folder / "CartPole-v1", stack=3, wrapper="gym.wrappers.FlattenObservation")
    for trust in (False, True):
        evaluate_agent(folder, ["ppo"], ["CartPole-v1"], 1, trust=trust)
    assert seen == [(12,), (12,)]
    zoo(folder / "CartPole-v1")
    with pytest.raises(UserError, match=r"its observation_space has shape \[12\]"):
        evaluate_agent(folder, ["ppo"], ["CartPole-v1"], 1, trust=False)
    (folder / "CartPole-v1" / "config.yml").write_text("- 1")
    with pytest.raises(UserError, match="expected names and values"):
        evaluate_agent(folder, ["ppo"], ["CartPole-v1"], 1, trust=False)
    (folder / "CartPole-v1" / "config.yml").write_text("a: !!python/object/apply:os.system [x]")
    with pytest.raises(UserError, match=r"config\.yml is damaged"):
        evaluate_agent(folder, ["ppo"], ["CartPole-v1"], 1, trust=False)


def test_a_wrapper_s_module_that_a_zoo_folder_names_is_not_imported(tmp_path, monkeypatch):
    (tmp_path / "wicked_wrapper.py").write_text("import gymnasium\nNoop = gymnasium.Wrapper\n")
    monkeypatch.syspath_prepend(tmp_path)
    folder = tmp_path / "ppo" / "CartPole-v1_1"
    stored(folder, "ppo", "CartPole-v1", name="CartPole-v1.zip")
    zoo(folder / "CartPole-v1", wrapper="['wicked_wrapper:Noop']")
    with pytest.raises(
        UserError, match=r"its wrapper 'wicked_wrapper:Noop' imports a module.*--tr"
    ):
        evaluate_agent(folder, ["ppo"], ["CartPole-v1"], 1, trust=False)
    assert "wicked_wrapper" not in sys.modules
    evaluate_agent(folder, ["ppo"], ["CartPole-v1"], 1, trust=True)
    assert sys.modules.pop("wicked_wrapper")


def test_gym_is_gymnasium_only_inside():
    with gym_as_gymnasium():
        assert sys.modules["gym.spaces.box"].Box is spaces.Box
    assert "gym.spaces.box" not in sys.modules
    assert sb3_contrib.__version__
