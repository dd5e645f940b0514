"""A training that diverges ends with a message and status 1, and its run says so for ever."""

from __future__ import annotations

import json

import numpy as np
import pytest

from rn_rl.cli import main
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.records import read_record

PPO = "--algo ppo --env CartPole-v1 --timesteps 512 --eval-freq 128 --eval-episodes 1 --quiet"
DQN = PPO.replace("ppo", "dqn")
SETTINGS = {
    "ppo": f"{PPO} --n-envs 1 --set n_steps=32 batch_size=32",
    "dqn": f"{DQN} --set learning_starts=32 batch_size=16 train_freq=4 gradient_steps=1",
    "sac": "--algo sac --env Pendulum-v1 --timesteps 512 --eval-freq 128 --eval-episodes 1 --quiet "
    "--set learning_starts=32 batch_size=16 train_freq=4 policy_kwargs.net_arch=[8]",
}


@pytest.mark.parametrize("rate", ["1e6", "1e30"])
@pytest.mark.parametrize("algo", SETTINGS)
def test_a_single_run(algo, rate, tmp_path, capsys):
    words = f"train {SETTINGS[algo]} learning_rate={rate} --out {tmp_path}"
    assert main(words.split()) == 1
    said = capsys.readouterr().err
    [folder] = tmp_path.glob("*/*/*")
    run = Run(folder)
    found = run.divergence
    assert found is not None and found.timesteps <= 512 and not found.weight <= 1e6
    assert f"diverged at timestep {found.timesteps}: a weight of {found.layer} is" in said
    assert said.count("\n") == 1
    record = read_record(run)
    assert np.isnan(record.last_return) and any("diverged" in note for note in record.notes)
    assert record.timesteps[-1] == 512 and np.isnan(record.returns[-1])
    assert main(["train", "--resume", str(folder), "--quiet"]) == 2
    assert "cannot continue: it diverged at timestep" in capsys.readouterr().err
    if not np.isfinite(found.weight):
        assert main(["evaluate", str(folder), "--episodes", "1"]) == 2
        assert "not finite, since the training diverged" in capsys.readouterr().err


@pytest.mark.parametrize("algo", ["ppo", "dqn"])
def test_all_seeds_of_a_batch(algo, tmp_path, capsys):
    words = f"train {SETTINGS[algo]} learning_rate=1e30 --seeds 2 --engine batch --out {tmp_path}"
    assert main(words.split()) == 1
    assert "2 of 2 runs diverged, such as run" in capsys.readouterr().err
    for folder in tmp_path.glob("*/*/*"):
        assert json.loads((folder / "diverged.json").read_text())["timesteps"] <= 512


def test_a_comparison_counts_them_as_the_worst(tmp_path, capsys):
    words = f"compare {SETTINGS['ppo']} learning_rate=1e30 --seeds 2 --norms none,ln --jobs 1"
    main([*words.split(), "--out", str(tmp_path)])
    capsys.readouterr()
    main(["report", str(tmp_path), "--out", str(tmp_path / "report.html")])
    printed = " ".join(capsys.readouterr().out.split())
    assert "diverged at timestep" in printed
