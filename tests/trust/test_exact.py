"""Resumed runs, and runs that begin from another one, are exact or refused."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from rich.console import Console

from rn_rl.errors import TrainingStopped, UserError
from rn_rl.experiment.runs.console import Watch
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.launch import train_seeds
from rn_rl.experiment.training.single import train
from tests.odd_envs import OddEnv
from tests.trust.killing import check_equal, contents

QUIET = Console(quiet=True)


class GlobalRandom(OddEnv):
    """Draws from NumPy's global generator, as many environments do."""

    def observation(self) -> Any:
        return np.random.uniform(-1, 1, 4).astype(np.float32)


class OwnRandom(OddEnv):
    """Draws from a generator of its own."""

    def __init__(self, render_mode: str | None = None) -> None:
        super().__init__(render_mode)
        self.random = np.random.default_rng()

    def observation(self) -> Any:
        return self.random.uniform(-1, 1, 4).astype(np.float32)


class Goal(gym.Env):
    """Walk along a line to a goal, for hindsight replay."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 30}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        line = spaces.Box(0, 7, (1,), np.float32)
        names = ("observation", "achieved_goal", "desired_goal")
        self.observation_space = spaces.Dict(dict.fromkeys(names, line))
        self.action_space = spaces.Discrete(2)

    def render(self) -> Any:
        return np.zeros((8, 8, 3), np.uint8)

    def _observation(self) -> dict[str, np.ndarray]:
        here = np.array([self.x], np.float32)
        goal = np.array([self.goal], np.float32)
        return {"observation": here, "achieved_goal": here, "desired_goal": goal}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.x, self.t, self.goal = 0, 0, int(self.np_random.integers(1, 8))
        return self._observation(), {}

    def compute_reward(self, achieved: Any, desired: Any, info: Any) -> Any:
        return -(np.abs(achieved - desired).sum(-1) > 0.5).astype(np.float32)

    def step(self, action: Any) -> Any:
        self.x = int(np.clip(self.x + (1 if action else -1), 0, 7))
        self.t += 1
        seen = self._observation()
        reward = float(self.compute_reward(seen["achieved_goal"], seen["desired_goal"], {}))
        return seen, reward, reward == 0, self.t >= 12, {}


for cls in (GlobalRandom, OwnRandom, Goal):
    gym.register(f"Exact{cls.__name__}-v0", cls)

REPLAY = ("learning_starts=20", "train_freq=4", "gradient_steps=1", "batch_size=8")
ROLLOUT = ("n_steps=32", "batch_size=32", "n_epochs=1")


def options(env: str, algo: str, out: Path, *sets: str, **more: Any) -> TrainConfig:
    base = {"n_envs": 1, "timesteps": 128, "eval_freq": 0, "quiet": True, "out": out}
    more = {**base, "set": (*(ROLLOUT if algo == "ppo" else REPLAY), *sets), **more}
    return TrainConfig(algo=algo, env=env, **more)


class StopAt(Watch):
    """Requests a stop when a training has had so many timesteps."""

    def __init__(self, timesteps: int) -> None:
        self.until, self.timesteps = timesteps, 0

    @property
    def stop(self) -> bool:
        return self.timesteps >= self.until

    @stop.setter
    def stop(self, value: bool) -> None:
        pass


@pytest.mark.parametrize("name", ["GlobalRandom", "OwnRandom"])
@pytest.mark.parametrize("seeds", [1, 2])
def test_an_environment_that_does_not_repeat_an_episode_is_not_resumed(name, seeds, tmp_path):
    given = options(f"Exact{name}-v0", "dqn", tmp_path, timesteps=70, seeds=seeds)
    run = train(given) if seeds == 1 else train_seeds(given, QUIET)[0]
    again = TrainConfig(resume=run.folder, timesteps=128, quiet=True)
    with pytest.raises(UserError, match=f"Exact{name}-v0 does not repeat its episode"):
        train(again) if seeds == 1 else train_seeds(again, QUIET)


HER = (
    "replay_buffer_class=stable_baselines3.her.her_replay_buffer.HerReplayBuffer",
    "buffer_size=60",  # wraps around
)


@pytest.mark.parametrize(
    ("env", "sets"),
    [
        ("ExactGoal-v0", HER),
        ("CartPole-v1", ("optimize_memory_usage=true", "buffer_size=500")),
        ("CartPole-v1", ("optimize_memory_usage=true", "buffer_size=50")),
        ("CartPole-v1", ("n_steps=3", "buffer_size=50")),
    ],
)
def test_replay_buffers_come_back_exactly(env, sets, tmp_path):
    if "optimize_memory_usage=true" in sets:
        sets = (*sets, "replay_buffer_kwargs={handle_timeout_termination: false}")
    evaluated = {"eval_freq": 50, "eval_episodes": 1}
    whole = train(options(env, "dqn", tmp_path / "whole", *sets, **evaluated))
    with pytest.raises(TrainingStopped):
        train(options(env, "dqn", tmp_path / "parts", *sets, **evaluated), watch=StopAt(70))
    [folder] = (tmp_path / "parts").glob("*/*/*")
    train(TrainConfig(resume=folder, quiet=True))
    check_equal(contents(folder), contents(whole.folder))


def test_a_replay_buffer_that_is_not_saved_whole_is_refused(tmp_path):
    sets = (*HER, "replay_buffer_kwargs={copy_info_dict: true}")
    run = train(options("ExactGoal-v0", "dqn", tmp_path, *sets, timesteps=64))
    with pytest.raises(UserError, match="HerReplayBuffer with copy_info_dict=true is not saved"):
        train(TrainConfig(resume=run.folder, timesteps=128, quiet=True))


def count_of(stored: str) -> float:
    return float(json.loads(stored)["obs"]["count"])


def test_statistics_of_observations_belong_to_their_weights(tmp_path):
    """``best_model.zip`` keeps those of its timestep; ``--from RUN`` starts with the last ones."""
    given = options(
        "OddEnvNormalized-v0", "ppo", tmp_path / "a", "normalize=true", eval_freq=32, timesteps=256
    )
    gym.register("OddEnvNormalized-v0", OddEnv)
    run = train(given)
    last = count_of(run.vecnormalize_file.read_text())
    with zipfile.ZipFile(run.best_model_file) as archive:
        best = count_of(archive.read("vecnormalize.json").decode())
    assert best < last
    for weights, count in ((run.best_model_file, best), (None, last)):
        _, env = run.load_agent(weights=weights)
        assert env.obs_rms.count == count
        env.close()
    more = options(
        "OddEnvNormalized-v0",
        "ppo",
        tmp_path / "b",
        "normalize=true",
        timesteps=32,
        from_agent=run.folder,
    )
    assert count_of(train(more).vecnormalize_file.read_text()) > last
    plain = options("OddEnvNormalized-v0", "ppo", tmp_path / "c", from_agent=run.folder)
    with pytest.raises(UserError, match="add --set normalize=true"):
        train(plain)


def test_resume_takes_no_other_option(tmp_path, capsys):
    from rn_rl.cli import main

    run = train(options("CartPole-v1", "ppo", tmp_path))
    for words in ("--norm rn", "--seed 0", "--set learning_rate=1", "--eval-freq=0", "--from x"):
        assert main(["train", "--resume", str(run.folder), *words.split()]) == 2
        error = capsys.readouterr().err
        assert f"expected no {words.split()[0].partition('=')[0]}" in error
    with pytest.raises(UserError, match="expected no --norm"):
        train(TrainConfig(resume=run.folder, norm="rn"))


def test_a_run_with_an_old_policy_is_rebuilt_from_its_checkpoint(tmp_path):
    """As one that was killed between its last checkpoint and its policy, before version 0.2.0."""
    run = train(options("CartPole-v1", "ppo", tmp_path))
    whole = contents(run.folder)
    run.policy_file.unlink()
    assert not Run(run.folder).has_policy_of(128)
    train(TrainConfig(resume=run.folder, quiet=True))
    check_equal(contents(run.folder), whole)
