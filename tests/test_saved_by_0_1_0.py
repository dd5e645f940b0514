"""Run folders and agents that version 0.1.0 saved open, evaluate, resume, film and report for ever."""

import importlib.util
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import safetensors.torch
import torch

from rn_rl.cli import main

DATA = Path(__file__).parent / "data" / "v0.1.0"
EVALUATIONS = json.loads((DATA / "evaluations.json").read_text())


def record():
    """The script that recorded them."""
    spec = importlib.util.spec_from_file_location("record_0_1_0", DATA / "record.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def runs(tmp_path):
    shutil.copytree(DATA / "runs_of", tmp_path / "saved")
    return tmp_path / "saved"


@pytest.mark.parametrize("name", EVALUATIONS)
def test_a_run_evaluates_as_it_did(name, runs, capsys):
    assert main(["evaluate", str(runs / name), "--episodes", "3", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["returns"]
    assert found == pytest.approx(EVALUATIONS[name], rel=1e-3)


def assert_same_policy(folder, stored):
    """The policy of a run equals a stored one; rounding differs between machines."""
    mine = safetensors.torch.load_file(folder / "policy.safetensors")
    theirs = safetensors.torch.load_file(DATA / "resumed" / f"{stored}.safetensors")
    assert set(mine) == set(theirs)
    for key, tensor in mine.items():
        torch.testing.assert_close(tensor, theirs[key], rtol=1e-2, atol=1e-3, msg=key)


def test_a_run_stopped_half_way_ends_as_one_that_never_stopped(tmp_path):
    run = tmp_path / "half" / "rn/dqn/CartPole-v1_1"
    shutil.copytree(DATA / "half", tmp_path / "half")
    assert main(["train", "--resume", str(run), "--quiet"]) == 0
    assert_same_policy(run, "half")


@pytest.mark.parametrize("name", EVALUATIONS)
def test_a_run_goes_on(name, runs):
    """Resume a run as version 0.1.0 resumed it; a seed batch resumes all its seeds."""
    assert main(["train", "--resume", str(runs / name), "--timesteps", "512", "--quiet"]) == 0
    assert main(["evaluate", str(runs / name), "--episodes", "1", "--json"]) == 0
    lines = (runs / name / "0.monitor.csv").read_text().splitlines()
    before = (DATA / "runs_of" / name / "0.monitor.csv").read_text().splitlines()
    assert len(lines) >= len(before) and lines[1] == before[1]
    assert_same_policy(runs / name, name.replace("/", "-"))


def test_runs_are_filmed_and_reported(runs, tmp_path):
    clip = tmp_path / "clip.gif"
    assert main(["video", str(runs / "rn/dqn/CartPole-v1_1"), "--out", str(clip)]) == 0
    assert clip.stat().st_size > 1000
    page = tmp_path / "report.html"
    assert main(["report", str(runs), "--baseline", "ln", "--out", str(page)]) == 0
    assert "CartPole-v1" in page.read_text()


@pytest.mark.parametrize("name", [path.stem for path in sorted((DATA / "zips").glob("*.zip"))])
def test_a_saved_agent_gives_the_values_that_it_gave(name):
    module = record()
    agent = module.ZIPS[name][0].load(DATA / "zips" / f"{name}.zip", device="cpu")
    agent.policy.set_training_mode(False)
    with np.load(DATA / "zips" / f"{name}.npz") as stored:
        values = module.values_of(agent, stored["observations"])
        np.testing.assert_allclose(values, stored["values"], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ["norm-dqn", "norm-ppo", "policy_kwargs-ppo", "norm-sac"])
def test_a_short_training_gives_the_weights_that_it_gave(name):
    """Train for few updates, so that rounding on another machine makes a small difference."""
    module = record()
    old = module.ZIPS[name][0].load(DATA / "zips" / f"{name}.zip", device="cpu")
    new = module.agent_of(name)
    for (key, mine), theirs in zip(
        new.policy.state_dict().items(), old.policy.state_dict().values(), strict=True
    ):
        np.testing.assert_allclose(mine, theirs, rtol=1e-3, atol=1e-4, err_msg=key)
