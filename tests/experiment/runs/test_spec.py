"""Descriptions of runs: immutable, and their folder names valid on every system."""

from __future__ import annotations

import dataclasses
import ntpath
import posixpath
from pathlib import PureWindowsPath
from typing import Any

import pytest

from rn_rl.experiment.runs.console import command_line
from rn_rl.experiment.runs.folder import find_run, new_run, parent_folder
from rn_rl.experiment.runs.spec import RunSpec, file_name


def spec(**options: Any) -> RunSpec:
    settings = dict.fromkeys(("seed", "timesteps", "n_envs", "eval_freq", "eval_episodes"), 1)
    names = {"algo": "dqn", "env": "CartPole-v1", "norm": "rn", "device": "cpu", "config": "zoo"}
    return RunSpec(**{**settings, **names, "threads": 1, "hyperparameters": {}, **options})  # type: ignore[arg-type]


def test_a_spec_is_immutable_and_replace_makes_another() -> None:
    first = spec()
    with pytest.raises(dataclasses.FrozenInstanceError):
        first.seed = 2  # type: ignore[misc]
    assert dataclasses.replace(first, seed=2) == spec(seed=2) != first


@pytest.mark.parametrize(
    "name",
    [
        r"yoked(C:\runs\rn\dqn\CartPole-v1_1)",
        "yoked(/home/me/runs/a:b*c?d|e)",
        'rn(x="<y>")',
        "yoked(runs)...",
        "ln ",
        "tab\tand\nline",
    ],
)
def test_a_file_name_is_one_component_that_windows_accepts(name: str) -> None:
    safe = file_name(name)
    assert PureWindowsPath(safe).parts == (safe,) and ntpath.basename(safe) == safe
    assert posixpath.basename(safe) == safe
    assert not set(safe) & set('<>:"/\\|?*\t\n')
    assert safe == safe.rstrip(". ")
    assert file_name(safe) == safe


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("CartPole-v1", "CartPole-v1"),
        ("ALE/Pong-v5", "ALE-Pong-v5"),
        ("package:Name-v0", "package-Name-v0"),
        ("ln+rn(half_life=2000)", "ln+rn(half_life=2000)"),
        ("yoked(runs/rn/dqn/CartPole-v1_1)", "yoked(runs-rn-dqn-CartPole-v1_1)"),
    ],
)
def test_names_of_folders_that_exist_already_stay(name: str, expected: str) -> None:
    assert file_name(name) == expected


def test_runs_of_a_norm_with_a_windows_path_lie_at_the_usual_depth(tmp_path) -> None:
    one = spec(norm=r"yoked(C:\runs\rn.npz)", env="package:Name-v0")
    runs = [new_run(tmp_path, one), new_run(tmp_path, one)]
    assert [run.folder.name for run in runs] == ["package-Name-v0_1", "package-Name-v0_2"]
    for run in runs:
        assert run.folder.parent == parent_folder(tmp_path, one)
        assert run.folder.relative_to(tmp_path).parts[:2] == ("yoked(C--runs-rn.npz)", "dqn")
    assert find_run(runs[0].folder) == (runs[0], None)


@pytest.mark.parametrize(
    ("program", "expected"),
    [
        ("rn-rl", "rn-rl"),
        ("rn-rl.exe", "rn-rl"),
        ("__main__.py", "rn-rl"),
        ("train.py", "train.py"),
    ],
)
def test_the_recorded_command_names_the_program(monkeypatch, program, expected) -> None:
    monkeypatch.setattr("sys.argv", [program, "train", "--out", "a b"])
    assert command_line() == f"{expected} train --out 'a b'"


def test_none_of_an_algorithm_is_a_setting_and_none_of_the_environment_is_not() -> None:
    usual = spec(algo="rndqn").settings()
    off = spec(algo="rndqn", hyperparameters={"max_grad_norm": None}).settings()
    assert off != usual and off["hyperparameters"] == {"max_grad_norm": None}
    assert (
        spec(hyperparameters={"normalize": None, "noise_type": None}).settings()
        == spec().settings()
    )
