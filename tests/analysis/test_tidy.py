"""Tidy data: ``read_runs``, and the CSV and Parquet files of a report."""

import csv
import math
import subprocess
import sys
import warnings

import numpy as np
import pandas as pd
import pytest

import rn_rl
from rn_rl.analysis import tidy
from rn_rl.cli import main
from rn_rl.errors import UserError
from rn_rl.experiment.runs.io import write_yaml
from rn_rl.experiment.runs.records import find_runs, read_records
from tests.factories import made_up_run


@pytest.fixture
def root(tmp_path):
    for seed in range(2):
        made_up_run(tmp_path / "runs", "ln", seed, np.array([[1.0, 3.0], [5.0, 7.0]]) + seed)
    run = made_up_run(tmp_path / "runs", "none", 0, np.array([[1.0], [2.0]]), env="Acrobot-v1")
    spec = vars(run.read_spec())
    spec["hyperparameters"] = {"learning_rate": "lin_0.01", "gamma": 0.9}
    write_yaml(run.spec_file, spec)
    return tmp_path / "runs"


def test_one_row_for_each_evaluation_with_every_setting(root):
    frame = rn_rl.read_runs(root)
    assert list(frame.columns[:4]) == ["algo", "env", "norm", "seed"]
    assert list(frame.columns[-2:]) == ["timestep", "return"]
    assert len(frame) == 6
    mine = frame[(frame["norm"] == "ln") & (frame["seed"] == 1)]
    assert mine["timestep"].tolist() == [25_000, 50_000]
    assert mine["return"].tolist() == [3.0, 7.0]
    assert set(mine["learning_rate"]) == {"0.001"}  # text, since another run has a schedule
    assert set(mine["policy_kwargs.net_arch"]) == {"[64, 64]"}
    assert set(mine["n_timesteps"]) == {50_000} and mine["gamma"].isna().all()
    other = frame[frame["env"] == "Acrobot-v1"]
    assert set(other["learning_rate"]) == {"lin_0.01"} and set(other["gamma"]) == {0.9}
    assert pd.api.types.is_integer_dtype(frame["timestep"])
    assert pd.api.types.is_float_dtype(frame["gamma"])


def test_last_returns_are_one_row_for_each_run(root):
    frame = rn_rl.read_runs(str(root), last=True)
    assert frame["return"].tolist() == [6.0, 7.0, 2.0]
    assert frame["episodes"].tolist() == [2, 2, 1] and set(frame["timestep"]) == {50_000}


def test_what_is_not_finite_is_missing(root):
    made_up_run(root, "rn", 0, np.array([[math.inf], [math.nan]]))
    frame = rn_rl.read_runs(root)
    assert frame[frame["norm"] == "rn"]["return"].isna().all()
    page = root / "page.html"
    assert main(["report", str(root), "--out", str(page)]) == 0
    for path in root.glob("page-*.csv"):
        cells = [cell.lower() for row in csv.reader(path.read_text().splitlines()) for cell in row]
        assert not {"inf", "-inf", "nan"}.intersection(cells), path


def test_csv_and_parquet_hold_the_frame(root):
    page = root / "page.html"
    assert main(["report", str(root), "--out", str(page), "--parquet"]) == 0
    frame = rn_rl.read_runs(root)
    keys = ["env", "norm", "seed", "timestep"]
    for stored in (
        pd.read_csv(root / "page-data.csv"),
        pd.read_parquet(root / "page-data.parquet"),
    ):
        assert list(stored.columns) == list(frame.columns)
        mine, theirs = (f.sort_values(keys, ignore_index=True) for f in (stored, frame))
        assert mine[[*keys, "return"]].values.tolist() == theirs[[*keys, "return"]].values.tolist()
        assert mine["gamma"].isna().tolist() == theirs["gamma"].isna().tolist()


def test_columns_of_ours_are_never_a_file_s(root):
    run = made_up_run(root, "rn", 7, np.array([[4.0]]))
    spec = vars(run.read_spec())
    spec["hyperparameters"] = {"seed": 99, "return": 99, "norm": "x", "timestep": 99}
    write_yaml(run.spec_file, spec)
    frame = rn_rl.read_runs(root)
    mine = frame[frame["norm"] == "rn"].iloc[0]
    assert (mine["seed"], mine["return"], mine["timestep"]) == (7, 4.0, 50_000)
    assert list(frame.columns).count("return") == 1


def test_a_run_that_is_left_out_is_named(root):
    made_up_run(root, "rn", 0, np.array([[1.0]])).evaluations_file.unlink()
    with pytest.warns(UserWarning, match=r"1 runs are left out, such as .*not finished"):
        assert len(rn_rl.read_runs(root)) == 6
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        rn_rl.read_runs(root / "ln")


def test_no_runs_and_no_pandas_are_one_line(root, tmp_path, monkeypatch):
    with pytest.raises(UserError, match="no such folder"):
        rn_rl.read_runs(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no finished run among 0 folders$"):
        rn_rl.read_runs(tmp_path / "empty")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(UserError, match=r"pip install 'rn-rl\[data\]'"):
        rn_rl.read_runs(root)
    records, _ = read_records(find_runs(root))
    assert len(tidy.tidy_columns(records)["seed"]) == 6  # the CSV file needs no pandas


@pytest.mark.slow
def test_a_report_and_the_library_load_no_pandas(root):
    code = (
        "import sys, rn_rl\n"
        "from rn_rl.cli import main\n"
        f"main(['report', {str(root)!r}, '--out', {str(root / 'x.html')!r}])\n"
        "assert 'pandas' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
