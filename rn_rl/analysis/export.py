"""Figures, runs and learning curves of a report as CSV files."""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from rn_rl.analysis.comparison import SHOWN
from rn_rl.analysis.summary import Summary
from rn_rl.analysis.tables import Estimate
from rn_rl.analysis.tidy import tidy_columns
from rn_rl.experiment.runs import io


def csv_file(out: Path, name: str) -> Path:
    """Return the path of a CSV file beside the page."""
    return out.with_name(f"{out.stem}-{name}.csv")


def write_rows(path: Path, columns: list[str], rows: Iterable[list[Any]]) -> None:
    """Write a CSV file; a number that is missing or not finite is an empty cell.

    Such a number is a return after a training diverged, or the timesteps to a threshold that was never
    reached; most programs that read CSV files do not take "inf" for a number.
    """

    def shown(value: Any) -> Any:
        return "" if isinstance(value, float) and not math.isfinite(value) else value

    io.write_rows(path, columns, ([shown(value) for value in row] for row in rows))


def data_of(summary: Summary) -> dict[str, list[Any]]:
    """Return the evaluations of all runs of a report as the columns of tidy data."""
    runs = [run for task in summary.tasks for arm in task.arms.values() for run in arm.runs]
    return tidy_columns(runs)


def write_data(columns: dict[str, list[Any]], path: Path) -> None:
    """Write the columns of tidy data as a CSV file."""
    rows = (list(values) for values in zip(*columns.values(), strict=True))
    write_rows(path, list(columns), rows)


def write_figures(summary: Summary, path: Path) -> None:
    """Write every figure of every arm, every comparison, and the scores over all tasks."""
    rows: list[list[Any]] = []

    def add(task: str, norm: str, seeds: Any, name: str, found: Estimate) -> None:
        rows.append([task, norm, seeds, name, found.value, found.low, found.high])

    for task in summary.tasks:
        for norm, arm in task.arms.items():
            for name, found in arm.figures.items():
                add(task.name, norm, len(arm.runs), name, found)
    for each in summary.comparisons:
        what = f"probability of improvement over {each.baseline}"
        seeds = f"{each.runs[0]} and {each.runs[1]}"
        add(each.task, each.norm, seeds, what, each.improvement)
        name = f"{SHOWN[summary.endpoint]}, minus that of {each.baseline}"
        add(each.task, each.norm, seeds, name, each.effect)
        add(each.task, each.norm, seeds, f"p against {each.baseline}", Estimate(each.p))
        corrected = f"p against {each.baseline}, corrected"
        add(each.task, each.norm, seeds, corrected, Estimate(each.corrected))
        if each.other is not None:
            add(each.task, each.norm, seeds, f"{what}, {each.other[0]}", each.other[1])
        if each.margin is not None:
            add(each.task, each.norm, seeds, f"mean minus that of {each.baseline}", each.difference)
            name = f"p of equivalence to {each.baseline} within {each.margin:g}"
            add(each.task, each.norm, seeds, name, Estimate(each.p_equivalence))
            name += ", corrected"
            add(each.task, each.norm, seeds, name, Estimate(each.corrected_equivalence))
    if len(summary.tasks) > 1:
        for norm, figures in summary.overall().items():
            for name, found in figures.items():
                add("all tasks", norm, "", f"score, {name}", found)
    write_rows(path, ["task", "normalizer", "seeds", "figure", "value", "low", "high"], rows)


def write_run_figures(summary: Summary, path: Path) -> None:
    """Write one row for each run."""
    columns = ["task", "normalizer", "seed", "last_return", "score", "area_under_curve"]
    columns += ["steps_to_threshold", "episodes", "after_training", "seconds", "folder"]
    rows = []
    for task in summary.tasks:
        for norm, arm in task.arms.items():
            figures = zip(arm.runs, arm.last, arm.scores, arm.areas, arm.steps, strict=True)
            for run, *found in figures:
                one = [task.name, norm, run.spec.seed, *found, run.episodes]
                rows.append([*one, run.held_out, run.seconds, str(run.run.folder)])
    write_rows(path, columns, rows)


def write_curves(summary: Summary, path: Path) -> None:
    """Write the mean learning curves with their intervals, as they are plotted."""
    rows = []
    for task in summary.tasks:
        for norm, arm in task.arms.items():
            steps, values = arm.curves
            if len(steps):
                low, high = arm.band
                line = zip(steps, values.mean(0), low, high, strict=True)
                rows += [[task.name, norm, *map(float, each), len(values)] for each in line]
    write_rows(path, ["task", "normalizer", "timesteps", "mean", "low", "high", "seeds"], rows)
