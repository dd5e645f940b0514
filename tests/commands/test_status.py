"""``rn-rl status``: the progress of runs from their files, leases and plans."""

import json
import os
import shutil
import time
from dataclasses import replace

import numpy as np
import pytest

from rn_rl.cli import main
from rn_rl.experiment.grid import leases
from rn_rl.experiment.grid.cells import Cell, key_of
from rn_rl.experiment.grid.plan import plans_folder, read_plans, write_plan
from rn_rl.experiment.grid.progress import grid_roots, progress_of
from rn_rl.experiment.runs.records import find_runs
from tests.factories import made_up_run

LN = ("ln", "dqn", "CartPole-v1")


def cut(run, evaluations):
    """Leave only the first evaluations of a run."""
    stored = dict(np.load(run.evaluations_file))
    np.savez(run.evaluations_file, **{name: value[:evaluations] for name, value in stored.items()})


def lines_of(capsys):
    return capsys.readouterr().out.splitlines()


def test_progress_is_that_of_the_files(tmp_path, capsys):
    cut(made_up_run(tmp_path, "ln", 0, np.ones((4, 1))), 2)
    whole = made_up_run(tmp_path, "ln", 1, np.ones((4, 1)))
    final = {"timesteps": 50_000, "mean_return": 1.0, "episodes": 5}
    whole.final_file.write_text(json.dumps(final))
    made_up_run(tmp_path, "rn", 0, np.ones((4, 1))).spec_file.write_text("algo: x\n")
    folders = find_runs(tmp_path)
    found = progress_of(folders, time.time())
    half, trained = found.cells()[LN]
    assert (half.share, half.done, half.training, half.diverged) == (0.5, False, True, False)
    assert (trained.share, trained.done, trained.training) == (1.0, True, False)
    assert list(found.cells()) == [LN] and "run.yaml cannot be read" in found.problems[0]
    assert not any(each.training for each in progress_of(folders, time.time() + 1000).trainings)
    assert main(["status", str(tmp_path)]) == 0
    told = " ".join(" ".join(lines_of(capsys)).split())
    assert "1 of 2 runs are done, 75% of their timesteps; runs that have not begun" in told


@pytest.mark.parametrize("width", ["80", "60", "30"])
def test_rows_of_long_names_differ(tmp_path, capsys, monkeypatch, width):
    """Names that identify a row are folded over lines, and never cut."""
    names = []
    for norm in ("ln+rn(half_life=500)", "ln+rn(half_life=2000)"):
        for env in ("MiniGrid-RedBlueDoors-6x6-v0", "MiniGrid-RedBlueDoors-8x8-v0"):
            made_up_run(tmp_path, norm, 0, np.ones((4, 1)), env=env)
            names.append(f"{norm}dqn{env}")
    monkeypatch.setenv("COLUMNS", width)
    assert main(["status", str(tmp_path)]) == 0
    table = lines_of(capsys)[:-1]
    assert max(map(len, table)) <= int(width)
    starts = [i for i, line in enumerate(table) if line.startswith("ln+rn")]
    wide = min(int(width), 34)
    rows = [table[a:b] for a, b in zip(starts, [*starts[1:], None], strict=True)]
    told = ["".join(line[:wide].split("   ")[0].strip() for line in row) for row in rows]
    assert sorted(text.replace(" ", "") for text in told) == sorted(names)


@pytest.fixture
def grid(tmp_path):
    """Folder and keys of four planned trainings: one done, one in work, two that have not begun.

    No file was written for minutes.
    """
    runs = [made_up_run(tmp_path, "ln", seed, np.ones((4, 1))) for seed in range(2)]
    specs = [run.read_spec() for run in runs]
    final = {"timesteps": 50_000, "mean_return": 1.0, "episodes": 5}
    runs[0].final_file.write_text(json.dumps(final))
    cut(runs[1], 1)
    specs += [replace(specs[0], seed=seed) for seed in (2, 3)]
    write_plan(tmp_path, [Cell(None, specs, together=False)], 50_000)
    [plan] = plans_folder(tmp_path).iterdir()
    for path, age in ((plan, 100), *((path, 500) for path in (tmp_path / "ln").rglob("*"))):
        os.utime(path, (time.time() - age, time.time() - age))
    return tmp_path, [key_of(spec) for spec in specs]


def test_leases_and_the_plan_tell_what_is_training_and_what_is_left(grid, capsys):
    root, keys = grid
    folders = find_runs(root)
    with leases.Leases(root, keys[1:3]) as held:
        held.watch.timesteps = 25_000
        held._beat()
        found = progress_of(folders, time.time(), grid_roots(root))
        shares = [(each.share, each.training) for each in found.trainings]
        assert shares == [(1.0, False), (0.5, True), (0.5, True), (0.0, False)]
        # 50,000 timesteps in 100 seconds, and 100,000 are left
        assert found.planned and found.seconds_left == pytest.approx(200, rel=0.05)
        assert main(["status", str(root)]) == 0
    *_, row, told = lines_of(capsys)
    assert row.split() == ["ln", "dqn", "CartPole-v1", "4", "1", "2", "0", "50%"]
    assert told.startswith("1 of 4 runs are done, 50% of their timesteps; about 3:")
    found = progress_of(folders, time.time(), grid_roots(root))  # the leases are given back
    assert not any(each.training for each in found.trainings) and found.seconds_left is None


def test_a_grid_without_a_plan_has_its_leases(grid):
    root, keys = grid
    [plan] = plans_folder(root).iterdir()
    plan.unlink()
    with leases.Leases(root, keys[1:3]) as held:
        held.watch.timesteps = 25_000
        held._beat()
        for folder in (root, root / "ln"):  # the leases of a part of the folder are above it
            found = progress_of(find_runs(folder), time.time(), grid_roots(folder))
            shares = [(each.share, each.training) for each in found.trainings]
            assert shares == [(1.0, False), (0.5, True)] and not found.planned


@pytest.mark.parametrize("damage", ["{", "[]", '{"cells": [{}], "behind": 0}', "null"])
def test_a_damaged_plan_is_no_plan(grid, damage):
    root, _ = grid
    [plan] = plans_folder(root).iterdir()
    assert len(read_plans(root)) == 1
    plan.write_text(damage)
    assert read_plans(root) == []


def test_a_plan_before_its_first_run(grid, capsys):
    root, _ = grid
    shutil.rmtree(root / "ln")
    assert main(["status", str(root)]) == 0
    assert "0 of 4 runs are done, 0% of their timesteps" in lines_of(capsys)[-1]


@pytest.mark.parametrize(("name", "message"), [("no", "no such folder"), ("", "no run in it yet")])
def test_no_runs_is_one_line(tmp_path, capsys, name, message):
    assert main(["status", os.path.join(tmp_path, name)]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
