"""``rn-rl status``: the progress of runs from their files."""

import json
import os
import time

import numpy as np
import pytest

from rn_rl.cli import main
from rn_rl.commands.status import progress_of
from rn_rl.experiment.runs.records import find_runs
from tests.factories import made_up_run


def test_progress_is_that_of_the_files(tmp_path, capsys):
    half = made_up_run(tmp_path, "ln", 0, np.ones((4, 1)))
    stored = dict(np.load(half.evaluations_file))
    np.savez(half.evaluations_file, **{name: value[:2] for name, value in stored.items()})
    whole = made_up_run(tmp_path, "ln", 1, np.ones((4, 1)))
    final = {"timesteps": 50_000, "mean_return": 1.0, "episodes": 5}
    whole.final_file.write_text(json.dumps(final))
    made_up_run(tmp_path, "rn", 0, np.ones((4, 1))).spec_file.write_text("algo: x\n")
    folders = find_runs(tmp_path)
    found, problems = progress_of(folders, time.time())
    each = found["ln", "dqn", "CartPole-v1"]
    assert (each.shares, each.done, each.training, each.diverged) == ([0.5, 1.0], 1, 1, 0)
    assert len(found) == 1 and "run.yaml cannot be read" in problems[0]
    later, _ = progress_of(folders, time.time() + 1000)
    assert later["ln", "dqn", "CartPole-v1"].training == 0
    assert main(["status", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "1 of 2 runs are done, 75% of their timesteps" in " ".join(told.split())
    assert max(map(len, told.splitlines()[:2])) <= 80


@pytest.mark.parametrize(("name", "message"), [("no", "no such folder"), ("", "no run in it yet")])
def test_no_runs_is_one_line(tmp_path, capsys, name, message):
    assert main(["status", os.path.join(tmp_path, name)]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
