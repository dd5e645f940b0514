"""Every algorithm of the table through the command line: train, stop, resume, evaluate, video."""

import json
import os
import re
import signal
from itertools import pairwise
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from safetensors.torch import load_file
from sb3_contrib import ARS, RecurrentPPO
from stable_baselines3 import SAC

from rn_rl.cli import main
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.weights import load_policy
from rn_rl.experiment.settings.algorithms import ALGORITHMS, algorithm
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.resolve import resolve
from rn_rl.experiment.training.single import phases
from rn_rl.normalization import phase_norms
from tests.factories import slow_unless

OFF_POLICY = [
    "learning_starts=20",
    "train_freq=4",
    "gradient_steps=2",
    "batch_size=8",
    "buffer_size=300",
    "policy_kwargs.net_arch=[8]",
]
ON_POLICY = ["n_steps=16", "policy_kwargs.net_arch=[8]"]
PPO_LIKE = [*ON_POLICY, "batch_size=16", "n_epochs=2"]
SETTINGS = {
    "dqn": [*OFF_POLICY, "target_update_interval=20"],
    "rndqn": [*OFF_POLICY, "target_update_interval=20"],
    "qrdqn": [*OFF_POLICY, "target_update_interval=20", "policy_kwargs.n_quantiles=5"],
    "sac": OFF_POLICY,
    "td3": [*OFF_POLICY, "policy_delay=3"],
    "ddpg": OFF_POLICY,
    "tqc": OFF_POLICY,
    "crossq": [*OFF_POLICY, "policy_delay=3"],
    "ppo": PPO_LIKE,
    "rnppo": PPO_LIKE,
    "a2c": ON_POLICY,
    "trpo": [*ON_POLICY, "batch_size=16", "normalize=true"],
    "ppo_lstm": [*PPO_LIKE, "policy_kwargs.lstm_hidden_size=8"],
    "ppo_mask": PPO_LIKE,
    "pqn": ["n_steps=16", "batch_size=16", "n_epochs=2", "policy_kwargs.net_arch=[8]"],
    "ars": ["n_delta=2", "delta_std=1", "policy_kwargs.net_arch=[8]", "normalize=true"],
}


class Interrupting(gym.Wrapper):
    """Send SIGINT at one step of the process."""

    at = 0
    steps = 0

    def step(self, action):
        Interrupting.steps += 1
        if Interrupting.steps == Interrupting.at:
            os.kill(os.getpid(), signal.SIGINT)
        return self.env.step(action)


def interrupting(env_id: str, **kwargs) -> gym.Env:
    return Interrupting(gym.make(env_id, **kwargs))


gym.register(
    "Interrupting/CartPole-v1",
    entry_point=lambda **kwargs: interrupting("CartPole-v1", **kwargs),
)
gym.register(
    "Interrupting/Pendulum-v1",
    entry_point=lambda **kwargs: interrupting("Pendulum-v1", max_episode_steps=30, **kwargs),
)


def env_of(algo: str) -> str:
    continuous = ALGORITHMS[algo].action_spaces == (spaces.Box,)
    return f"Interrupting/{'Pendulum' if continuous else 'CartPole'}-v1"


def command(algo: str, out: Path, settings: list[str], env: str | None = None) -> list[str]:
    typed = f"train --algo {algo} --env {env or env_of(algo)} --norm ln+rn --timesteps 160 "
    typed += "--eval-freq 64 --eval-episodes 1 --n-envs 2 --quiet --out"
    return [*typed.split(), str(out), "--set", *settings]


def the_run(out: Path) -> Run:
    return Run(next(out.glob("*/*/*")))


SDE = ["use_sde=true", "sde_sample_freq=-1"]
MODERN = ["policy_kwargs.obs_norm=rsnorm", "policy_kwargs.value_norm=popart"]
WALKING_NOISE = ["noise_type=ornstein-uhlenbeck", "noise_std=0.3"]
VARIANTS = [
    *((algo, env_of(algo), settings) for algo, settings in SETTINGS.items()),
    ("sac", "Interrupting/Pendulum-v1", [*OFF_POLICY, *SDE, "ent_coef=0.1", "normalize=true"]),
    ("ppo_lstm", "Interrupting/Pendulum-v1", [*SETTINGS["ppo_lstm"], *SDE]),
    ("td3", "Interrupting/Pendulum-v1", [*OFF_POLICY, *WALKING_NOISE]),
    ("sac", "Interrupting/Pendulum-v1", [*OFF_POLICY, "policy_kwargs.net=simba"]),
    ("ppo", "Interrupting/CartPole-v1", [*PPO_LIKE, *MODERN]),
]


def is_quick(algo, env, settings):
    return algo in ("dqn", "ppo", "ppo_lstm", "sac", "td3", "crossq", "ars")


@pytest.mark.parametrize(("algo", "env", "settings"), slow_unless(is_quick, VARIANTS))
def test_a_resumed_run_equals_the_uninterrupted_one_bit_for_bit(
    algo, env, settings, tmp_path, capsys
):
    Interrupting.at = -1
    assert main(command(algo, tmp_path / "whole", settings, env)) == 0
    Interrupting.steps, Interrupting.at = 0, 110
    assert main(command(algo, tmp_path / "parts", settings, env)) == 130
    whole, parts = the_run(tmp_path / "whole"), the_run(tmp_path / "parts")
    capsys.readouterr()
    assert main(["evaluate", str(parts.folder), "--episodes", "2", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["returns"]) == 2
    model, vec_env = parts.load_agent()
    assert type(model) is ALGORITHMS[algo].cls and phase_norms(model.policy)
    vec_env.close()
    stopped = load_file(parts.policy_file)
    assert main(["train", "--resume", str(parts.folder), "--quiet"]) == 0

    first, second = load_file(whole.policy_file), load_file(parts.policy_file)
    assert first.keys() == second.keys()
    assert [key for key in first if not torch.equal(first[key], second[key])] == []
    assert any(not torch.equal(first[key], stopped[key]) for key in first)  # it trained further
    for file in ("evaluations.npz", "code_length.npz"):
        a, b = np.load(whole.folder / file), np.load(parts.folder / file)
        assert all(np.array_equal(a[key], b[key]) for key in a.files), file
    for name in ("0.monitor.csv", "1.monitor.csv"):
        assert episodes(whole.folder / name) == episodes(parts.folder / name)


def episodes(monitor: Path) -> list[str]:
    """Returns and lengths in a monitor file, without the wall clock."""
    return [",".join(line.split(",")[:2]) for line in monitor.read_text().splitlines()[2:]]


def test_help_names_every_algorithm(capsys):
    with pytest.raises(SystemExit):
        main(["train", "--help"])
    assert set(ALGORITHMS) <= set(re.findall(r"\w+", capsys.readouterr().out))


def test_every_algorithm_is_tested_here():
    assert SETTINGS.keys() == ALGORITHMS.keys()


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("RecurrentPPO", "ppo_lstm"),
        ("MaskablePPO", "ppo_mask"),
        ("QR-DQN", "qrdqn"),
        ("ppo-lstm", "ppo_lstm"),
        ("TQC", "tqc"),
    ],
)
def test_algorithms_have_aliases(typed, name):
    assert algorithm(typed).name == name
    env = "CartPole-v1" if name != "tqc" else "Pendulum-v1"
    assert resolve(TrainConfig(algo=typed, env=env)).algo == name


class Mixed(gym.Env):
    """Environment with any combination of spaces; actions have no effect."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 30}  # noqa: RUF012

    def __init__(self, observations: str, actions: spaces.Space, render_mode=None):
        vector = spaces.Box(-1, 1, (3,), np.float32)
        image = spaces.Box(0, 255, (36, 36, 3), np.uint8)
        self.observation_space = {
            "vector": vector,
            "image": image,
            "dict": spaces.Dict({"vector": vector, "place": spaces.Discrete(4)}),
        }[observations]
        self.action_space = actions
        self.render_mode = render_mode
        self.t = 0

    def observe(self):
        def draw(space):
            if isinstance(space, spaces.Dict):
                return {key: draw(part) for key, part in space.items()}
            if isinstance(space, spaces.Discrete):
                return self.np_random.integers(space.n)
            if space.dtype == np.uint8:
                return self.np_random.integers(0, 256, space.shape).astype(np.uint8)
            return self.np_random.uniform(-1, 1, space.shape).astype(np.float32)

        return draw(self.observation_space)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self.observe(), {}

    def step(self, action):
        assert self.action_space.contains(action), action
        self.t += 1
        return self.observe(), float(np.sum(action)), False, self.t >= 7, {}

    def render(self):
        frame = np.zeros((16, 16, 3), np.uint8)
        frame[self.t] = 255
        return frame


KINDS = {
    "discrete": spaces.Discrete(3),
    "multidiscrete": spaces.MultiDiscrete([2, 3]),
    "multibinary": spaces.MultiBinary(3),
    "box": spaces.Box(np.array([-1, 0]), np.array([1, 5]), dtype=np.float32),
}
for kind, space in KINDS.items():
    for seen in ("vector", "image", "dict"):
        gym.register(
            f"{seen.title()}-{kind}-v0",
            entry_point=Mixed,
            kwargs={"observations": seen, "actions": space},
        )


@pytest.mark.parametrize(
    ("algo", "seen", "kind"),
    [
        ("qrdqn", "dict", "discrete"),
        ("sac", "dict", "box"),
        ("td3", "image", "box"),
        ("tqc", "image", "box"),
        ("crossq", "image", "box"),
        ("ars", "image", "discrete"),
        ("a2c", "dict", "multidiscrete"),
        ("trpo", "image", "multibinary"),
        ("ppo", "vector", "multibinary"),
        ("ppo_lstm", "dict", "multidiscrete"),
        ("ppo_mask", "image", "multidiscrete"),
        ("ppo_mask", "dict", "multibinary"),
    ],
)
def test_any_observations_and_actions(algo, seen, kind, tmp_path, capsys):
    env = f"{seen.title()}-{kind}-v0"
    settings = [s for s in SETTINGS[algo] if s != "normalize=true"]
    assert main([*command(algo, tmp_path, settings, env), "--timesteps", "48"]) == 0
    run = the_run(tmp_path)
    assert main(["train", "--resume", str(run.folder), "--timesteps", "80", "--quiet"]) == 0
    stored = np.load(run.code_length_file)
    sizes = [*stored["commit_kl"], *stored["commit_action"]]
    assert np.isfinite(stored["gains"]).all() and np.isfinite(sizes).all()
    capsys.readouterr()
    assert main(["evaluate", str(run.folder), "--episodes", "2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lengths"] == [7, 7]


class OneValid(Mixed):
    """Environment where one action is valid at each step, and any other one fails."""

    def __init__(self, render_mode=None):
        super().__init__("vector", spaces.Discrete(5), render_mode)

    def action_masks(self):
        return np.arange(5) == self.t % 5

    def step(self, action):
        assert action == self.t % 5
        return super().step(action)


gym.register("OneValid-v0", entry_point=OneValid)


def test_masks_are_used_wherever_the_agent_acts(tmp_path, capsys):
    assert main(command("ppo_mask", tmp_path, PPO_LIKE, "OneValid-v0")) == 0
    assert "without masks" not in capsys.readouterr().out
    run = the_run(tmp_path)
    for stochastic in ([], ["--stochastic"]):
        assert main(["evaluate", str(run.folder), "--episodes", "9", *stochastic]) == 0
        clip = ["video", str(run.folder), "--out", str(tmp_path / "clip.gif")]
        assert main([*clip, "--stochastic", str(bool(stochastic))]) == 0
    commits = np.load(run.code_length_file)["commit_kl"]
    assert len(commits) and (commits == 0).all()  # with one valid action, no commit can matter


def test_masks_are_used_wherever_a_seed_batch_acts(tmp_path, capsys):
    words = [*command("ppo_mask", tmp_path, PPO_LIKE, "OneValid-v0"), "--seeds", "2"]
    assert main([*words, "--engine", "batch"]) == 0
    assert "without masks" not in capsys.readouterr().out
    for folder in {path.parent for path in tmp_path.rglob("run.yaml")}:
        commits = np.load(Run(folder).code_length_file)["commit_kl"]
        assert len(commits) and (commits == 0).all()


@pytest.mark.parametrize("seeds", [["--seeds", "1"], ["--seeds", "2", "--engine", "batch"]])
def test_without_masks_maskable_ppo_says_so(seeds, tmp_path, capsys):
    arguments = [a for a in command("ppo_mask", tmp_path, PPO_LIKE) if a != "--quiet"]
    assert main([*arguments, *seeds]) == 0
    assert "has no action_masks(): trained without masks" in capsys.readouterr().out


def test_a_video_of_a_recurrent_agent_carries_its_state(tmp_path, monkeypatch):
    settings = SETTINGS["ppo_lstm"]
    assert main(command("ppo_lstm", tmp_path, settings, "Vector-discrete-v0")) == 0
    calls = []
    predict = RecurrentPPO.predict

    def spy(self, observation, state=None, episode_start=None, deterministic=False):
        action, new = predict(self, observation, state, episode_start, deterministic)
        calls.append((state, episode_start, new))
        return action, new

    monkeypatch.setattr(RecurrentPPO, "predict", spy)
    folder, clip = the_run(tmp_path).folder, tmp_path / "clip.gif"
    assert main(["video", str(folder), "--out", str(clip), "--episodes", "2"]) == 0
    assert [bool(starts[0]) for _, starts, _ in calls] == ([True] + [False] * 6) * 2
    for (_, _, left), (taken, _, _) in pairwise(calls):
        assert all(np.array_equal(a, b) for a, b in zip(left, taken, strict=True))


def test_ars_says_that_its_normalizers_keep_their_first_state(tmp_path, capsys):
    arguments = [a for a in command("ars", tmp_path, SETTINGS["ars"]) if a != "--quiet"]
    assert main(arguments) == 0
    assert "the normalizers of ln+rn keep their first state" in capsys.readouterr().out
    assert (np.load(the_run(tmp_path).code_length_file)["gains"] == 1).all()


def test_ars_with_a_falling_schedule_refuses_to_resume(tmp_path, capsys):
    settings = [*SETTINGS["ars"], "delta_std=lin_0.1"]
    assert main(command("ars", tmp_path, settings)) == 0
    capsys.readouterr()
    run = the_run(tmp_path)
    assert main(["train", "--resume", str(run.folder), "--timesteps", "400"]) == 2
    said = capsys.readouterr().err
    assert "delta_std falls over the run" in said and said.count("\n") == 1


def test_ars_starts_from_the_weights_it_is_given(tmp_path):
    assert main(command("ars", tmp_path, SETTINGS["ars"])) == 0
    run = the_run(tmp_path)
    spec = run.read_spec()
    env = spec.make_env()
    model = spec.make_model(env)
    assert isinstance(model, ARS)
    load_policy(model, run.policy_file)
    stored = load_file(run.policy_file)
    expected = torch.cat([stored[name].flatten() for name, _ in model.policy.named_parameters()])
    assert torch.equal(model.weights, expected)
    env.close()


def test_number_of_phases_of_a_run():
    def count(algo, **settings):
        env = env_of(algo).removeprefix("Interrupting/")
        given = tuple(f"{k}={v}" for k, v in settings.items())
        spec = resolve(TrainConfig(algo=algo, env=env, timesteps=1000, n_envs=1, set=given))
        vec_env = spec.make_env()
        model = spec.make_model(vec_env)
        model._setup_learn(1000)
        vec_env.close()
        return phases(spec, model)

    assert count("ars") == 0
    assert count("sac", learning_starts=100, train_freq=3) == 300
    assert count("td3", train_freq="[1,episode]") is None
    assert count("a2c", n_steps=7) == 143


def test_the_checkpoint_holds_the_entropy_coefficient_and_its_optimizer(tmp_path):
    settings = SETTINGS["sac"]
    assert main(command("sac", tmp_path, settings)) == 0
    run = the_run(tmp_path)
    stock = SAC.load(run.zip_file(env_of("sac")))
    assert stock.log_ent_coef.item() != 0
    with np.load(run.checkpoint / "state.npz") as stored:
        assert stored["tensor/log_ent_coef"] == stock.log_ent_coef.detach().numpy()
        assert "ent_coef_optimizer/0/exp_avg" in stored.files
