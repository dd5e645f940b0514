"""A killed training, continued, equals one that was never stopped: every file, bit for bit."""

from __future__ import annotations

import random
import re
import shutil
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from rn_rl.errors import UserError
from rn_rl.experiment.grid.disk import find_cell_runs
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.training.config import TrainConfig
from tests.trust.killing import (
    check_equal,
    contents,
    killed_after,
    killed_at_write,
    run_training,
)

DQN = ("learning_starts=40", "train_freq=4", "gradient_steps=1", "batch_size=8", "buffer_size=200")
PPO = ("n_steps=16", "batch_size=16", "n_epochs=1")
KINDS: dict[str, dict[str, Any]] = {
    "dqn": {"algo": "dqn", "set": DQN},
    "rndqn": {"algo": "rndqn", "set": DQN},
    "ppo": {"algo": "ppo", "set": (*PPO, "normalize=true"), "n_envs": 2},
    "ppo_lstm": {
        "algo": "ppo_lstm",
        "set": (*PPO, "policy_kwargs.lstm_hidden_size=8"),
        "n_envs": 2,
    },
    "sac": {"algo": "sac", "env": "Pendulum-v1", "set": (*DQN, "policy_kwargs.net_arch=[8]")},
    "batch of dqn": {"algo": "dqn", "set": DQN, "seeds": 2, "engine": "batch"},
    "batch of ppo": {
        "algo": "ppo",
        "set": (*PPO, "normalize=true"),
        "n_envs": 2,
        "seeds": 5,
        "engine": "batch",
    },
    "batch that seeds leave": {
        "algo": "dqn",
        "set": DQN,
        "seeds": 3,
        "engine": "batch",
        "episodes": 4,
        "timesteps": 1000,
        "eval_freq": 60,
    },
}
QUICK = ("ppo",)


def config(kind: str, out: Path) -> TrainConfig:
    options: dict[str, Any] = {
        "env": "CartPole-v1",
        "norm": "ln+rn",
        "timesteps": 128,
        "eval_freq": 48,
        "eval_episodes": 1,
        "vector_env": "gymnasium",
        "quiet": True,
        "out": out,
        **KINDS[kind],
    }
    return TrainConfig(**options)


def folders(out: Path) -> list[Path]:
    return sorted(out.glob("*/*/*"))


def without_names(found: dict[str, Any]) -> dict[str, Any]:
    """Return contents without what a resumed run may have otherwise: nothing but its hidden files."""
    assert found.pop("hidden files") == []
    return found


def check_resumes(killed: TrainConfig, whole: list[dict[str, Any]]) -> None:
    """Continue a killed training, or begin it again where nothing was saved, and compare."""
    found = folders(killed.out)
    readable = [folder for folder in found if (folder / "run.yaml").is_file()]
    cell = find_cell_runs(killed.out, Run(readable[0]).read_spec()) if readable else {}
    if len(cell) < len(found) or not all(each.trained for each in cell.values()):
        try:
            run_training(TrainConfig(resume=found[0], quiet=True))
        except UserError as error:
            assert re.search(r"no run\.yaml|no checkpoint", str(error))
            assert not list(killed.out.rglob("state.npz"))
            shutil.rmtree(killed.out)
            return
    for mine, theirs in zip(folders(killed.out), whole, strict=True):
        check_equal(without_names(contents(mine)), theirs)
    shutil.rmtree(killed.out)


@pytest.fixture
def whole(request, tmp_path):
    """The contents of the runs of a kind that were never stopped, and the seconds they took."""
    begin = time.perf_counter()
    run_training(config(request.param, tmp_path / "whole"))
    seconds = time.perf_counter() - begin
    return (
        request.param,
        [without_names(contents(folder)) for folder in folders(tmp_path / "whole")],
        seconds,
    )


def kill_at_writes(whole, out: Path, step: int) -> None:
    kind, runs, _ = whole
    for n in count(step, step):
        killed = config(kind, out / "killed")
        if not killed_at_write(killed, n):
            break
        check_resumes(killed, runs)
    assert n > 13  # so many files are written


@pytest.mark.parametrize("whole", QUICK, indirect=True)
def test_killed_at_some_writes(whole, tmp_path):
    kill_at_writes(whole, tmp_path, 13)


@pytest.mark.slow
@pytest.mark.parametrize("whole", KINDS, indirect=True)
def test_killed_at_any_write(whole, tmp_path):
    kill_at_writes(whole, tmp_path, 1)


@pytest.mark.slow
@pytest.mark.parametrize("whole", KINDS, indirect=True)
def test_killed_at_random_moments(whole, tmp_path):
    kind, runs, seconds = whole
    moments = random.Random(0)
    for _ in range(20):
        killed = config(kind, tmp_path / "killed")
        killed_after(killed, moments.uniform(0, 1.1 * seconds))
        if folders(killed.out):
            check_resumes(killed, runs)
