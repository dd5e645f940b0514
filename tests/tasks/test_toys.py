"""draw, babi, handwriting and adaptation: same bits in any process; pages, figures; one line of error."""

from __future__ import annotations

import re
from functools import cache

import pytest

from rn_rl.cli import main
from rn_rl.tasks.babi.baselines import BASELINES
from rn_rl.tasks.registry import find_task
from rn_rl.tasks.results import Results
from rn_rl.tasks.run import Job, side_by_side

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
