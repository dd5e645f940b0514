"""Commands with conflicting or repeated options, or onto existing files: nothing is lost silently."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from rn_rl.cli import main
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.records import read_records
from rn_rl.experiment.training.conf_file import for_algorithm
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.resolve import resolve
from rn_rl.experiment.tuning.config import TuneConfig
from rn_rl.experiment.tuning.space import ranges_of

DQN = ["train", "--algo", "dqn", "--env", "CartPole-v1", "--quiet", "--eval-episodes", "1"]
DQN += ["--set", "learning_starts=50", "train_freq=4", "gradient_steps=1"]


def trained(out: Path, *words: str) -> Path:
    """Train a DQN, and return its folder."""
    assert main([*DQN, "--out", str(out), *words]) == 0
    [settings] = out.rglob("run.yaml")
    return settings.parent


def problems_of(*folders: Path) -> list[str]:
    return [problem.what for problem in read_records(folders)[1]]


# which runs a report counts


def test_a_run_that_was_stopped_is_not_reported(tmp_path):
    folder = trained(tmp_path, "--timesteps", "400", "--eval-freq", "300")
    settings = yaml.safe_load((folder / "run.yaml").read_text())
    # as if the training had been planned longer, and stopped at timestep 400
    (folder / "run.yaml").write_text(yaml.safe_dump({**settings, "timesteps": 500}))
    assert problems_of(folder) == ["not finished: trained to timestep 400 of 500"]


def test_an_evaluation_long_before_the_end_is_told(tmp_path):
    early = trained(tmp_path / "a", "--timesteps", "400", "--eval-freq", "250")
    told = "its last policy was not evaluated: the policy of timestep 250 of 400 counts"
    assert problems_of(early) == [told]
    assert not problems_of(trained(tmp_path / "b", "--timesteps", "400", "--eval-freq", "200"))


def test_runs_of_some_episodes_are_reported(tmp_path):
    folder = trained(
        tmp_path,
        "--timesteps",
        "3000",
        "--episodes",
        "10",
        "--eval-freq",
        "50",
        "--eval-freq",
        "60",
    )
    [record], _ = read_records([folder])
    assert record.timesteps[-1] < 3000 and np.isfinite(record.last_return)


def test_without_an_evaluation_the_report_says_so(tmp_path):
    folder = trained(tmp_path, "--timesteps", "100", "--eval-freq", "0")
    assert problems_of(folder)[0].startswith("no return to report: no evaluation was recorded")


@pytest.mark.parametrize("seeds", [1, 2])
def test_an_extended_run_is_another_training(seeds, tmp_path):
    short = ["--timesteps", "200", "--eval-freq", "100", "--seeds", str(seeds)]
    assert main([*DQN, *short, "--out", str(tmp_path / "q")]) == 0
    first, *_ = sorted(path.parent for path in (tmp_path / "q").rglob("run.yaml"))
    assert main(["train", "--resume", str(first), "--timesteps", "400", "--quiet"]) == 0
    whole = trained(tmp_path / "w", "--timesteps", "400", "--eval-freq", "100")
    spec = Run(first).read_spec()
    assert spec.extended == [200] and spec.timesteps == 400
    assert spec.settings() != Run(whole).read_spec().settings()
    records, problems = read_records([first, whole])
    assert len(records) == 2 and not problems
    assert ";" in spec.command, "both commands made it"


# what was typed


def test_values_for_one_algorithm_win_in_any_order():
    for typed in (("a2c:gamma=0.5", "gamma=0.7"), ("gamma=0.7", "a2c:gamma=0.5")):
        config = TrainConfig(algo="a2c", env="CartPole-v1", set=typed)
        assert resolve(config).hyperparameters["gamma"] == 0.5
        assert for_algorithm(typed, "ppo") == ("gamma=0.7",)
    assert for_algorithm(("a=1", "ppo:a=2", "dqn:a=3"), "ppo") == ("a=1", "a=2")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--n-envs 2 --set n_envs=3", "--n-envs 2 and --set n_envs=3: expected one of them"),
        ("--timesteps 256 --set n_timesteps=300", "--timesteps 256 and --set n_timesteps=300"),
        (
            "--env-kwargs a=2 --set env_kwargs.a=5",
            "--env-kwargs a=2 and --set env_kwargs.a=5: expected one of them",
        ),
    ],
)
def test_two_values_for_one_thing_are_refused(words, message, capsys, tmp_path):
    command = ["train", "--algo", "ppo", "--env", "CartPole-v1", "--out", str(tmp_path)]
    assert main([*command, *words.split()]) == 2
    assert message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_typed_values_add_to_those_of_a_grid_file(tmp_path, monkeypatch):
    (tmp_path / "g.yml").write_text(
        "algo: ppo\nenv: CartPole-v1\nnorms: [none, ln]\nset: {learning_rate: 0.01, gamma: 0.5}\n"
    )
    seen: list[CompareConfig] = []
    monkeypatch.setattr("rn_rl.commands.compare.run_compare", seen.append)
    grid = ["compare", "--grid", str(tmp_path / "g.yml")]
    assert main([*grid, "--set", "gamma=0.9", "--norms", "rn", "--set", "n_steps=64"]) == 0
    assert seen[0].set == ("learning_rate=0.01", "gamma=0.5", "gamma=0.9", "n_steps=64")
    assert seen[0].norms == "rn", "a list that is typed takes the place of the file's"


def test_a_search_leaves_what_set_fixes(tmp_path):
    given = {"algo": "ppo", "env": "CartPole-v1", "out": tmp_path}
    every = {r.name for r in ranges_of(TuneConfig(**given))}
    assert {"learning_rate", "gamma", "ent_coef"} <= every
    fixed = ("learning_rate=0.5", "ppo:gamma=0.9", "policy_kwargs.net_arch=[8]", "dqn:n_epochs=0")
    left = {r.name for r in ranges_of(TuneConfig(**given, set=fixed))}
    assert every - left == {"learning_rate", "gamma"}
    command = "tune --algo ppo --env CartPole-v1 --trials 1 --set " + " ".join(
        f"{name}=1" for name in every
    )
    assert main([*command.split(), "--out", str(tmp_path)]) == 2


# files of the user


def test_an_export_keeps_what_is_not_its_own(tmp_path, capsys):
    folder = trained(tmp_path / "runs", "--timesteps", "100", "--norm", "rn")
    (folder / "video.mp4").write_bytes(b"film")
    mine = tmp_path / "mine"
    mine.mkdir()
    for name in ("README.md", "config.json", "replay.mp4"):
        (mine / name).write_text("mine")
        assert main(["export", str(folder), "--to", str(mine), "--episodes", "1"]) == 2
        assert f"its {name} would be lost" in capsys.readouterr().err
        assert [path.read_text() for path in mine.iterdir()] == ["mine"]
        (mine / name).unlink()
    card = tmp_path / "card"
    for filmed in (True, False):
        if not filmed:
            (folder / "video.mp4").unlink()
        assert main(["export", str(folder), "--to", str(card), "--episodes", "1"]) == 0
        assert ("replay.mp4" in (card / "README.md").read_text()) == filmed
        assert (card / "replay.mp4").exists() == filmed
    (card / "ppo-CartPole-v1.zip").write_bytes(b"")
    assert main(["export", str(folder), "--to", str(card), "--episodes", "1"]) == 2
    assert "another agent, ppo-CartPole-v1.zip, is there" in capsys.readouterr().err
    assert main(["probe", str(card), "--json"]) == 0, "gains come with an exported run"
    assert json.loads(capsys.readouterr().out.splitlines()[0])["gain"]


def test_settings_that_were_changed_are_not_overwritten(tmp_path, capsys):
    path = tmp_path / "own.yml"
    command = ["zoo", "--export", str(path), "--algo", "ppo"]
    assert main(command) == 0 and main(command) == 0  # unchanged
    for text in (path.read_text().replace("learning_rate:", "learning_rate: 1 #"), "{no: [yaml"):
        path.write_text(text)
        assert main(command) == 2 and path.read_text() == text
        assert "it exists, with other settings" in capsys.readouterr().err


def test_files_of_a_run_can_be_read_by_all_who_can_read_its_others(tmp_path):
    folder = trained(tmp_path, "--timesteps", "60")
    assert (folder / "policy.safetensors").stat().st_mode == (folder / "run.yaml").stat().st_mode


def test_an_evaluation_says_of_which_timesteps_the_weights_are(tmp_path, capsys):
    folder = trained(tmp_path, "--timesteps", "400", "--eval-freq", "300")  # its only evaluation
    capsys.readouterr()
    found = {}
    for name in ("", "best_model.zip"):
        assert main(["evaluate", str(folder / name), "--episodes", "1", "--json"]) == 0
        found[name] = json.loads(capsys.readouterr().out)
    assert found[""]["timesteps"] == 400 and found["best_model.zip"]["timesteps"] == 300
    best = str(folder / "best_model.zip")
    assert main(["export", best, "--to", str(tmp_path / "hub"), "--episodes", "1"]) == 0
    card = (tmp_path / "hub" / "README.md").read_text()
    assert "| timesteps of the training | 300 |" in card and "nan" not in card


def test_one_episode_has_no_interval(tmp_path, capsys):
    folder = trained(tmp_path, "--timesteps", "60")
    capsys.readouterr()
    assert main(["evaluate", str(folder), "--episodes", "1", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["ci_low"] is None
    assert main(["evaluate", str(folder), "--episodes", "1"]) == 0
    assert "nan" not in capsys.readouterr().out


# one line


def test_a_fault_of_the_users_normalizer_is_one_line(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import torch\nfrom torch import nn\n\n\nclass Bad(nn.Module):\n    def __init__(self, n):\n"
        "        super().__init__()\n\n    def forward(self, x):\n        return x[:, :1]\n\n\n"
        "class Nan(Bad):\n    def forward(self, x):\n        return x * float('nan')\n"
    )
    command = [sys.executable, "-m", "rn_rl", "train", "--algo", "ppo", "--env", "CartPole-v1"]
    command += ["--timesteps", "64", "--set", "n_steps=32", "--quiet", "--norm"]
    for name in ("Bad", "Nan"):
        done = subprocess.run(
            [*command, f"mine:{name}"], cwd=tmp_path, capture_output=True, text=True
        )
        assert done.returncode in (1, 2), done.stderr
        assert "Traceback" not in done.stderr and len(done.stderr.strip().splitlines()) == 1


def test_a_fault_in_the_users_code_says_where(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import os\nfrom torch import nn\n\n\nclass Own(nn.Module):\n    def __init__(self, n):\n"
        "        super().__init__()\n\n    def forward(self, x):\n"
        "        if os.path.exists('now'):\n            raise KeyError('a\\nb')\n        return x\n"
    )
    rn_rl = [sys.executable, "-m", "rn_rl"]
    command = [*rn_rl, "train", "--algo", "ppo", "--env", "CartPole-v1", "--timesteps", "64"]
    command += ["--set", "n_steps=32", "--quiet", "--norm", "mine:Own", "--out", "runs"]
    subprocess.run(command, cwd=tmp_path, check=True)
    (tmp_path / "now").touch()
    run = "runs/mine-Own/ppo/CartPole-v1_1"
    more = ["train", "--resume", run, "--timesteps", "512"]
    for arguments in (command[3:], more, ["evaluate", run], ["export", run, "--to", "hub"]):
        done = subprocess.run([*rn_rl, *arguments], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 2
        assert "mine.py:11, in forward: KeyError" in done.stderr.strip().splitlines()[-1]
        assert "Traceback" not in done.stderr


def test_a_closed_standard_output_is_no_fault(tmp_path):
    command = f"exec {shlex.quote(sys.executable)} -m rn_rl train --algo ppo --env CartPole-v1 "
    command += "--timesteps 32 --set n_steps=32 --out runs >&-"
    done = subprocess.run(["bash", "-c", command], cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert "Traceback" not in done.stderr and list(tmp_path.rglob("run.yaml"))


@pytest.mark.parametrize("text", ["", "[1]", "3"])
def test_a_run_yaml_that_is_no_table_is_one_line(text, tmp_path, capsys):
    (tmp_path / "run.yaml").write_text(text)
    assert main(["evaluate", str(tmp_path)]) == 2
    assert "expected names and values" in capsys.readouterr().err


def test_a_grid_says_which_options_its_old_trainings_keep(tmp_path, capsys):
    command = (
        "compare --algo dqn --env CartPole-v1 --norms none,ln --seeds 2 --timesteps 60 --jobs 1"
    )
    words = [
        *command.split(),
        "--eval-episodes",
        "1",
        "--final-episodes",
        "1",
        "--out",
        str(tmp_path),
    ]
    assert main([*words, "--eval-freq", "30"]) == 0
    assert "they stay so" not in capsys.readouterr().out
    assert main([*words, "--eval-freq", "60", "--probe"]) == 0
    told = capsys.readouterr().out
    assert "4 done with --eval-freq 30: they stay so; another --out trains them again" in told
    assert "4 done with no --probe" in told
