"""Options of the commands that train: their order in ``--help``, and imports that are quick."""

import subprocess
import sys
from dataclasses import fields

import pytest

from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.training.config import SharedOptions, TrainConfig


@pytest.mark.parametrize(
    ("config", "first"),
    [
        (TrainConfig, ["algo", "env", "norm", "seed", "seeds"]),
        (CompareConfig, ["algo", "env", "norms", "seeds", "seed"]),
    ],
)
def test_help_begins_with_what_is_trained(config, first):
    names = [field.name for field in fields(config)]
    shared = [field.name for field in fields(SharedOptions)]
    assert names[:5] == first and names[5 : 5 + len(shared)] == shared


def test_options_are_read_without_torch():
    """``rn-rl --help`` and the handling of Ctrl-C load none of the heavy libraries."""
    code = (
        "import sys\n"
        "import rn_rl.experiment.grid.config, rn_rl.experiment.training.interrupts\n"
        "heavy = {'torch', 'stable_baselines3', 'gymnasium', 'scipy', 'matplotlib', 'joblib'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
