"""Page of a task: a table with intervals, paired differences and published values; CSV files; figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.text import Text

from rn_rl.analysis.tables import Estimate, markdown_table, signed
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.runs.io import write_rows, write_text
from rn_rl.experiment.runs.name_table import name_table
from rn_rl.tasks.results import REFERENCES, Results

MOST_PRINTED = 4
"""Metrics in the printed table; the page has them all."""

TOLD = (
    "Means over seeds with 95% bootstrap intervals. Differences are of the first number: mean over seeds "
    "of the paired difference, with its 95% interval by Student's t; negative is {direction}. Arms with "
    "@K commit every K optimizer steps and at the end of each epoch, and their logt does too."
)
"""Sentences below the table."""


def header(results: Results) -> list[str]:
    """Return the heads of the table's columns."""
    titles = [f"{m.title}, {m.unit}" if m.unit else m.title for m in results.metrics]
    return ["arm", "seeds", *titles, *(f"minus {name}" for name in REFERENCES)]


def rows_of(results: Results, setting: str) -> list[list[str]]:
    """Return the table of one setting: a row for each arm, the published value beneath it."""
    task = results.task
    published = {} if results.toy else task.published(setting)
    rows = []
    for arm in results.arms:
        runs = results.runs(arm, setting)
        if not runs:
            continue
        row = [arm, str(len(runs))]
        row += [results.text(arm, setting, metric.key) for metric in results.metrics]
        row += [difference(results, arm, name, setting) for name in REFERENCES]
        rows.append(row)
        if arm in published:
            theirs = [published[arm].get(metric.key, "") for metric in results.metrics]
            name = f"{arm}, published, {task.published_on}"
            rows.append([name, "", *theirs, *[""] * len(REFERENCES)])
    return rows


def difference(results: Results, arm: str, name: str, setting: str) -> str:
    """Return the paired difference to a reference as a cell; empty for the reference itself."""
    other = results.reference(arm, name)
    found = results.difference(arm, other, setting, results.task.metrics[0].key)
    if found is None or arm == other:
        return ""
    return signed(found)


def write_page(
    results: Results, stem: Path, protocol: str, commands: list[str], console: Console
) -> None:
    """Write ``STEM.md``, ``STEM.csv``, ``STEM-curves.csv`` and figures, and print the table.

    Args:
        results: the finished runs.
        stem: path of the files without suffix.
        protocol: network, data and training, in one sentence.
        commands: the commands that made the runs.
        console: where the table and the finding are printed.
    """
    task = results.task
    figures = task.figures(results)
    for suffix, text in figures.items():
        write_text(figure_file(stem, suffix), text)
    finding = task.finding(results)
    if results.toy:
        finding = f"A toy run: these numbers mean nothing. {finding}"
    better = "better" if task.metrics[0].lower_is_better else "worse"
    parts = [f"# {task.title}", f"**{finding}**", protocol]
    for setting in results.settings:
        parts += [f"## {setting}", markdown_table(header(results), rows_of(results, setting))]
    parts += [f"![{suffix or task.name}]({figure_file(stem, suffix).name})" for suffix in figures]
    parts += [TOLD.format(direction=better)]
    parts += [f"Made by {', '.join(f'`{command}`' for command in commands)}."]
    write_text(Path(f"{stem}.md"), "\n\n".join(parts) + "\n")
    write_numbers(results, stem)
    print_tables(results, console)
    say(console, finding)
    say(console, f"{stem}.md, .csv and {len(figures)} figures written")


def figure_file(stem: Path, suffix: str) -> Path:
    """Return the path of a figure."""
    return Path(f"{stem}-{suffix}.svg" if suffix else f"{stem}.svg")


def write_numbers(results: Results, stem: Path) -> None:
    """Write the metrics of every run, and its curves with one row for each point."""
    runs = [run for s in results.settings for arm in results.arms for run in results.runs(arm, s)]
    names = list(dict.fromkeys(name for run in runs for name in run.metrics))
    leading = ["setting", "arm", "seed", "commit_every", "seconds"]
    rows: list[list[Any]] = []
    points: list[list[Any]] = []
    for run in runs:
        begin: list[Any] = [run.setting, run.arm, run.seed]
        own: list[Any] = [run.metrics.get(name, "") for name in names]
        rows.append([*begin, run.commit_every or "epoch", round(run.seconds, 2), *own])
        for name, curve in run.curves.items():
            values = np.asarray(curve, float)
            if values.ndim <= 2:  # pictures, such as samples, are in the figures alone
                for place, value in np.ndenumerate(values):
                    points.append([*begin, name, " ".join(map(str, place)), float(value)])
    write_rows(Path(f"{stem}.csv"), [*leading, *names], rows)
    write_rows(
        Path(f"{stem}-curves.csv"), ["setting", "arm", "seed", "curve", "index", "value"], points
    )


def print_tables(results: Results, console: Console) -> None:
    """Print the table of each setting without most intervals, which are in the page, in 80 columns."""
    task = results.task
    metrics = results.metrics[:MOST_PRINTED]
    for setting in results.settings:
        heads = header(results)
        columns = [*heads[: 2 + len(metrics)], *heads[-len(REFERENCES) :]]
        rows: list[list[str]] = []
        styles: list[str | None] = []
        published = {} if results.toy else task.published(setting)
        for arm in results.arms:
            if not results.runs(arm, setting):
                continue
            first, *others = (results.text(arm, setting, m.key) for m in metrics)
            row = [arm, str(len(results.runs(arm, setting))), first]
            row += [other.partition(" [")[0] for other in others]
            row += [starred(results, arm, name, setting) for name in REFERENCES]
            rows.append(row)
            styles.append(None)
            if arm in published:
                theirs = [published[arm].get(metric.key, "") for metric in metrics]
                rows.append([f"  on {task.published_on}", "", *theirs, *[""] * len(REFERENCES)])
                styles.append("dim")
        caption = "*: the interval of the difference excludes 0"
        if published:
            caption += f"; on {task.published_on}: as published"
        left_out = (*reversed(columns[3 : 2 + len(metrics)]), "seeds")
        table = name_table(
            columns, rows, console.width, expendable=left_out, styles=styles, title=Text(setting)
        )
        table.caption, table.caption_justify = caption, "left"
        console.print(table)


def starred(results: Results, arm: str, name: str, setting: str) -> str:
    """Return the paired difference to a reference, with a star if its interval excludes 0."""
    other = results.reference(arm, name)
    found = results.difference(arm, other, setting, results.task.metrics[0].key)
    if found is None or arm == other:
        return ""
    return signed(Estimate(found.value)) + ("*" if found.low > 0 or found.high < 0 else "")
