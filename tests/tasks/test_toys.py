"""draw, babi, handwriting and adaptation: same bits in any process; pages, figures; one line of error."""

from __future__ import annotations

import math
import re
from functools import cache

import pytest

from rn_rl.cli import main
from rn_rl.tasks.babi.baselines import BASELINES
from rn_rl.tasks.page import rows_of
from rn_rl.tasks.registry import find_task
from rn_rl.tasks.results import Results
from rn_rl.tasks.run import Job, side_by_side
from rn_rl.tasks.store import Run

ARMS = {
    "draw": ("ln", "rn+ln"),
    "babi": ("ln+rn", "degree", "forest"),
    "handwriting": ("ln+rn",),
    "adaptation": ("bn(half_life=2)",),
}


def jobs(name=None):
    return [
        Job(task, arm, find_task(task).settings[0], 3, None, True, None, "toy")
        for task, arms in ARMS.items()
        for arm in arms
        if name in (None, task)
    ]


@cache
def trained(name=None):
    runs = list(side_by_side(iter(jobs(name)), 1))
    return {(run.arm, str(run.metrics), str(run.curves)) for run in runs}, runs


@pytest.mark.slow  # two processes that import torch
def test_a_pool_of_processes_equals_one_process():
    runs = list(side_by_side(iter(jobs()), 2))
    assert {(run.arm, str(run.metrics), str(run.curves)) for run in runs} == set.union(
        *(trained(name)[0] for name in ARMS)
    )


@pytest.mark.parametrize("name", ARMS)
def test_the_same_seed_gives_the_same_bits(name):
    first, _ = trained(name)
    again = list(side_by_side(iter(jobs(name)), 1))
    assert {(run.arm, str(run.metrics), str(run.curves)) for run in again} == first


@pytest.mark.parametrize(
    ("name", "suffixes", "told"),
    [
        ("draw", {"", "samples", "glimpses"}, "rn+ln"),
        ("babi", {""}, "counting facts answers"),
        ("handwriting", {"", "lines"}, ""),
        ("adaptation", {""}, "digits: adapting changes"),
    ],
)
def test_figures_and_finding(name, suffixes, told):
    task, (_, runs) = find_task(name), trained(name)
    results = Results(task, runs, ARMS[name], task.settings[:1], toy=True)
    for metric in task.metrics:
        assert len(results.values(ARMS[name][0], task.settings[0], metric.key)) == 1
    figures = task.figures(results)
    assert figures.keys() == suffixes
    for text in figures.values():
        drawn = re.sub(r'="data:image/png;base64[^"]*"', "", text)
        assert text.startswith("<svg") and "nan" not in drawn
    for arm in ARMS[name]:
        assert any(arm in text for text in figures.values())
    if name == "babi":
        for line in set(ARMS[name]) & set(BASELINES):
            assert f">{line}<" in figures[""], "a baseline is a line with its name"
    assert told in task.finding(results) and task.finding(results).endswith(".")


@pytest.mark.parametrize(
    ("name", "setting", "values", "told"),
    [
        ("handwriting", "strokes", {"none": [1.0]}, "Test nats per point: none has 1.00."),
        ("babi", "19", {"degree": [math.nan]}, "On 19, degree has no number."),
        ("babi", "18", {"ln": [90.0], "forest": [70.0]}, "On 18, ln has 90.0; forest has 70.0."),
        ("draw", "digits", {"rn": [math.nan]}, "Test bound: rn has no number."),
    ],
)
def test_a_finding_without_a_pair_says_the_means(name, setting, values, told):
    task = find_task(name)
    assert task.finding(results_of(task, setting, values)) == told


def results_of(task, setting, values):
    """Results with these values of the first metric by arm and seed."""
    key = task.metrics[0].key
    runs = [
        Run(
            arm, setting, seed, None, "", 0.0, {m.key: 5.0 for m in task.metrics} | {key: value}, {}
        )
        for arm, given in values.items()
        for seed, value in enumerate(given)
    ]
    return Results(task, runs, values, [setting])


@pytest.mark.parametrize("lost", [math.nan, math.inf])
def test_runs_that_are_not_finite_are_counted(lost):
    task = find_task("handwriting")
    results = results_of(
        task, "strokes", {"none": [1.0, 2, 3], "rn": [1.0, lost, 2], "ln": [1.0, 2, 2]}
    )
    rows = {row[0]: row for row in rows_of(results, "strokes")}
    assert rows["rn"][2:5] == ["1 of 3 not finite", "5.00 [5.00, 5.00]", "-"]
    assert rows["none"][5] == "+0.33 [-1.10, 1.77]"
    told = task.finding(results)
    assert "rn is not finite in 1 of 3 seeds" in told and told.count("rn is not finite") == 1
    assert "never" not in told and "one seed" not in told and "nan" not in told


def test_the_sentence_of_steps_says_that_an_epoch_ends_a_phase_too(tmp_path):
    out = tmp_path / "out"
    words = ["task", "babi", "--toy", "--norms", "none", "--settings", "18", "--seeds", "1"]
    assert main([*words, "--quiet", "--out", str(out)]) == 0
    page = (out / "babi-toy.md").read_text()
    assert "commit every K optimizer steps and at the end of each epoch" in page


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["babi"], "expected a folder with qa18_..._train.txt"),
        (["handwriting"], "no .xml file with 6 points"),
        (["draw"], "there is no such file; expected an IDX file"),
        (["adaptation"], "there is no such file; expected an IDX file"),
        (["babi", "--settings", "20"], "unknown setting '20'"),
        (["babi", "--norms", "degre"], "unknown normalizer 'degre'"),
    ],
)
def test_mistakes_are_one_line(words, told, tmp_path, capsys):
    data = ["--data", str(tmp_path)] if len(words) == 1 else []
    assert main(["task", *words, "--toy", *data, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and told in error
