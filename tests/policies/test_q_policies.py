"""The warning that the gain of a regularity normalizer has no bound in DQN."""

from __future__ import annotations

import csv
import warnings
from pathlib import Path

import pytest
from sb3_contrib import QRDQN
from stable_baselines3 import DQN

from rn_rl.cli import main
from rn_rl.policies import NormDQNPolicy, NormQRDQNPolicy
from tests.trust.killing import run_limited

SHORT = {"learning_starts": 8, "train_freq": 4, "buffer_size": 50, "batch_size": 4, "seed": 0}


def warned(norm, algorithm=DQN, policy=NormDQNPolicy):
    """Return the warnings of a short training, all of which are shown."""
    kwargs = {"norm": norm, "net_arch": [8]}
    model = algorithm(policy, "CartPole-v1", policy_kwargs=kwargs, **SHORT)
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        model.learn(40)
    return [str(warning.message) for warning in found]


@pytest.mark.parametrize("norm", ["rn", "ln+rn", "rln", "rn-paper"])
def test_dqn_warns_once_that_the_gain_has_no_bound(norm):
    (message,) = warned(norm)
    assert message.startswith(f"the gain of {norm} has no bound in DQN")
    assert "rn(half_life=2000)" in message and "\n" not in message


def test_the_numbers_of_the_warning_are_those_on_record():
    """Interquartile means of DQN's last policies on whole LunarLander."""
    (message,) = warned("rn")
    file = Path(__file__).parents[2] / "results" / "standard-lunarlander-dqn-figures.csv"
    with file.open() as stream:
        found = {
            row["normalizer"]: row
            for row in csv.DictReader(stream)
            if "IQM" in row["figure"] and row["figure"].startswith("last return")
        }
    told = f"{float(found['rn']['value']):.0f} with rn and at {float(found['none']['value']):.0f}"
    assert told in message


def test_qrdqn_warns_too():
    assert len(warned("rn", QRDQN, NormQRDQNPolicy)) == 1


@pytest.mark.parametrize("norm", ["none", "ln", "rn(half_life=50)", "rsn(half_life=50)", "gain(5)"])
def test_no_warning_where_the_gain_is_bounded(norm):
    assert warned(norm) == []


TRAIN = ["train", "--algo", "dqn", "--env", "CartPole-v1", "--norm", "rn", "--quiet"]
TRAIN += ["--timesteps", "64", "--eval-freq", "0"]
TRAIN += ["--set", "learning_starts=8", "gradient_steps=1", "batch_size=4", "train_freq=4"]


@pytest.mark.parametrize("ends", [(), ("--episodes", "1")])
def test_a_seed_batch_warns_too(tmp_path, ends):
    """Once, although the seeds end their episodes, and leave the batch, at different times."""
    with pytest.warns(UserWarning, match="the gain of rn has no bound in DQN") as found:
        together = [*TRAIN, "--seeds", "3", "--engine", "batch", *ends]
        assert main([*together, "--out", str(tmp_path)]) == 0
    assert len([each for each in found if "bound" in str(each.message)]) == 1


def test_the_command_prints_it_as_one_line(tmp_path):
    """In a process of its own, since pytest takes over what warnings print."""
    status, error = run_limited([*TRAIN, "--out", str(tmp_path)])
    assert status == 0
    [line] = [line for line in error.splitlines() if "bound" in line or "warn" in line.lower()]
    assert line.startswith("rn-rl: warning: the gain of rn has no bound in DQN")
