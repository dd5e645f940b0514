"""``env_wrapper: module:Class``: wrappers from a file of the current folder."""

import json
import sys
from pathlib import Path

import pytest
import yaml

from rn_rl.cli import main
from rn_rl.errors import UserError
from rn_rl.experiment.envs.make import make_env
from rn_rl.experiment.envs.wrappers import wrappers_of

MODULE = """
import gymnasium as gym


class Noop(gym.Wrapper):
    pass


class Short(gym.Wrapper):
    def __init__(self, env, steps=9):
        super().__init__(env)
        self.steps = steps

    def reset(self, **options):
        self.t = 0
        return self.env.reset(**options)

    def step(self, action):
        self.t += 1
        observation, reward, terminated, truncated, info = self.env.step(action)
        return observation, reward, terminated, truncated or self.t >= self.steps, info


def short(env, steps=7):
    return Short(env, steps)


NotCallable = 3
Nothing = dict
"""
TRAIN = "train --algo a2c --env CartPole-v1 --timesteps 40 --eval-freq 0 --quiet --out runs"


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_wraps.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as the command does
    yield
    sys.modules.pop("own_wraps", None)


def evaluated(capsys) -> list[int]:
    """Return the lengths of the episodes of the only run."""
    [folder] = {path.parent for path in Path("runs").rglob("run.yaml")}
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--episodes", "2", "--json"]) == 0  # without --trust
    lengths: list[int] = json.loads(capsys.readouterr().out)["lengths"]
    return lengths


@pytest.mark.parametrize(
    ("wrapper", "length"),
    [
        ("own_wraps:Short", 9),
        ("own_wraps:short", 7),
        ("{own_wraps:Short: {steps: 5}}", 5),
        ("[own_wraps:Noop, {own_wraps:Short: {steps: 5}}]", 5),
        (
            "[{own_wraps:Short: {steps: 5}}, gymnasium.wrappers.TimeLimit: {max_episode_steps: 4}]",
            4,
        ),
    ],
)
def test_set_takes_it_alone_in_lists_and_with_arguments(wrapper, length, capsys):
    assert main([*TRAIN.split(), "--set", f"env_wrapper={wrapper}"]) == 0
    assert evaluated(capsys) == [length] * 2
    [spec] = Path("runs").rglob("run.yaml")
    assert yaml.safe_load(spec.read_text())["hyperparameters"]["env_wrapper"] == yaml.safe_load(
        wrapper
    )
    assert main(["train", "--resume", str(spec.parent), "--timesteps", "60", "--quiet"]) == 0


@pytest.mark.parametrize(
    "wrapper",
    [
        "own_wraps:Short",
        "'own_wraps:Short'",
        "\n    - own_wraps:Noop\n    - own_wraps:Short:\n        steps: 9",
    ],
)
def test_a_conf_file_takes_it(wrapper, capsys):
    Path("own.yml").write_text(f"CartPole-v1:\n  policy: MlpPolicy\n  env_wrapper: {wrapper}\n")
    assert main([*TRAIN.split(), "--conf-file", "own.yml"]) == 0
    assert evaluated(capsys) == [9, 9]


@pytest.mark.parametrize(
    ("wrapper", "said"),
    [
        ("own_wraps.Noop", "env_wrapper 'own_wraps.Noop': expected a class from one of rn_rl, "),
        ("own_wraps.Noop", "name one of your own 'own_wraps:Noop'"),
        ("Noop", "name one of your own 'module:Noop'"),
        ("own_wraps:Nope", "'own_wraps' has no class 'Nope'; expected module:Class"),
        ("own_wraps:NotCallable", "'own_wraps' has no class 'NotCallable'"),
        ("no_such_wraps:Noop", "cannot import 'no_such_wraps' (ModuleNotFoundError"),
        (":Noop", "env_wrapper ':Noop': expected module:Class"),
        ("own_wraps:Nothing", "environment CartPole-v1 cannot be made: "),
        ("{own_wraps:Short: {stops: 5}}", "unexpected keyword argument 'stops'"),
        ("{own_wraps:Short: 5}", "expected a name such as"),
        ("3", "env_wrapper=3: expected a name such as"),
    ],
)
def test_a_mistake_is_one_line_and_trains_nothing(wrapper, said, capsys):
    assert main([*TRAIN.split(), "--set", f"env_wrapper={wrapper}"]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
    assert not Path("runs").exists()


def test_what_is_no_environment_is_refused():
    Path("own_wraps.py").write_text("def number(env): return 3\n")
    with pytest.raises(UserError, match=r"'own_wraps:number' made a int: expected an environment"):
        make_env("CartPole-v1", {"env_wrapper": "own_wraps:number"}, n_envs=1, seed=0)


def test_none_gives_none():
    assert wrappers_of(None) == wrappers_of([]) == []
