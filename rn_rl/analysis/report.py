"""Reports: a self-contained HTML page, the same in Markdown, and CSV files of all figures."""

from __future__ import annotations

import base64
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from rn_rl import statistics
from rn_rl.analysis import drawing, plots
from rn_rl.analysis.comparison import ENDPOINTS, SHOWN
from rn_rl.analysis.export import (
    csv_file,
    data_of,
    write_curves,
    write_data,
    write_figures,
    write_run_figures,
)
from rn_rl.analysis.metrics import METRICS
from rn_rl.analysis.summary import Summary, Task, last_policy
from rn_rl.analysis.tables import Estimate, markdown_table, signed
from rn_rl.errors import UserError
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.runs.io import write_text
from rn_rl.experiment.runs.name_table import name_table
from rn_rl.experiment.settings.options import DecisionOptions
from rn_rl.normalization import canonical_spec


@dataclass
class Section:
    """Part of a page about one task. Plots are SVG text; None where there is nothing to plot."""

    task: Task
    """The task."""
    anchor: str
    """Id of the part in the page."""
    sentences: list[str]
    """Conclusions, one for each comparison."""
    columns: list[str]
    """Headers of the table of figures."""
    rows: list[list[str]]
    """Rows of the table: arms, then references."""
    curves: str | None
    """Learning curves."""
    intervals: str
    """The endpoint of each arm with its interval."""
    improvements: str | None
    """Probabilities of improvement over the baseline."""
    gains: str | None
    """Gains of the layers over time."""
    how: str
    """How last policies were measured."""


SORT = (files("rn_rl") / "analysis" / "templates" / "sort.js").read_text("utf-8")
"""Script of a page: a click on the head of a column sorts its table. The page allows no other."""


def print_summary(summary: Summary, out: Path, console: Console) -> None:
    """Print a table of each task, the conclusions, notes, problems, and the path of the page."""
    for task in summary.tasks:
        console.print(Padding(last_policies(summary, task, console.width), (1, 0)))
    for sentence in summary.sentences():
        say(console, f"  {sentence}")
    for note in summary.notes:
        say(console, f"  note: {note}")
    for problem in summary.problems:
        kept = "counted" if problem.counted else "not counted"
        say(console, f"  {kept}: {problem.run}: {problem.what}", style="yellow")
    say(console, f"report: {out}")


def last_policies(summary: Summary, task: Task, width: int) -> Table:
    """Return the table of a task for a terminal of so many columns, with the figures that fit."""
    figures = (SHOWN[summary.endpoint], "worst run")
    columns = ["normalizer", "seeds", *figures, "P(better)"]
    better = summary.improvements()
    rows = []
    for norm, arm in task.arms.items():
        found = [arm.figures[name] for name in figures]
        rows.append([norm, str(len(arm.runs)), *map(str, found), better.get((task.name, norm), "")])
    for each in task.references:
        value = str(Estimate(each.value)) if summary.endpoint == "last" else ""
        rows.append([each.label, "1", value, "", ""])
    left_out = ("worst run", "seeds", "P(better)")
    return name_table(columns, rows, width, expendable=left_out, title=Text(task.name))


def write_report(
    summary: Summary, out: Path, *, title: str | None = None, commands: Iterable[str] = ()
) -> None:
    """Write the page, and beside it ``.md`` and CSV files: figures, runs, curves and data.

    Args:
        summary: content.
        out: path of the HTML page.
        title: headline; default: normalizers and environments.
        commands: commands that made the runs; default: those that the runs recorded.

    Raises:
        UserError: a file cannot be written.
    """
    palette = drawing.Palette(summary.norms)
    content = {
        "title": title or headline(summary),
        "summary": summary,
        "verdicts": verdicts(summary),
        "sort": Markup(SORT),
        "sort_hash": base64.b64encode(hashlib.sha256(SORT.encode()).digest()).decode(),
        "sections": [section(summary, task, palette) for task in summary.tasks],
        "overall_columns": ["normalizer", "IQM of scores", "mean", "optimality gap", "P(better)"],
        "overall": overall_rows(summary) if len(summary.tasks) > 1 else [],
        "profiles": plots.performance_profiles(summary, palette),
        "commands": list(commands) or run_commands(summary),
        "facts": facts(summary),
        "metrics": METRICS,
        "endpoint": ENDPOINTS[summary.endpoint],
        "margin": next((each.margin for each in summary.comparisons), None),
        "exploratory": statistics.EXPLORATORY,
        "colors": palette.colors(),
        "palette": Markup(drawing.page_css()),
        "csv": [csv_file(out, name).name for name in ("figures", "runs", "curves", "data")],
    }
    try:
        write_text(out, template("report.html.jinja", escape=True).render(content))
        write_text(
            out.with_suffix(".md"), template("report.md.jinja", escape=False).render(content)
        )
        write_figures(summary, csv_file(out, "figures"))
        write_run_figures(summary, csv_file(out, "runs"))
        write_curves(summary, csv_file(out, "curves"))
        write_data(data_of(summary), csv_file(out, "data"))
    except OSError as error:
        raise UserError(
            f"--out {out}: cannot be written ({error.strerror or error}); choose another file"
        ) from None


def check_page(page: Path, flag: str) -> None:
    """Raise a :class:`UserError` if a path is no HTML file, before the work begins."""
    if page.suffix not in (".html", ".htm") or page.is_dir():
        raise UserError(f"{flag} {page}: expected the name of a page, such as report.html")


def check_baseline(baseline: str, norms: Iterable[str]) -> str:
    """Return the baseline in the spelling of the runs.

    Raises:
        UserError: none of several normalizers is the baseline.
    """
    norms = list(dict.fromkeys(norms))
    # a run may have a normalizer of the user that this process does not know
    known = baseline if baseline in norms else canonical_spec(baseline)
    if known not in norms and len(norms) > 1:
        raise UserError(f"--baseline {baseline}: expected one of {', '.join(norms)}")
    return known


def check_decision(options: DecisionOptions) -> None:
    """Raise a :class:`UserError` if an option about decisions cannot be used."""
    threshold, margin = options.threshold, options.equivalence
    if threshold is not None and not math.isfinite(threshold):
        raise UserError(f"--threshold {threshold}: expected a return")
    if options.endpoint not in ENDPOINTS:
        raise UserError(f"--endpoint {options.endpoint}: expected {' or '.join(ENDPOINTS)}")
    if margin is not None and not 0 < margin < math.inf:
        raise UserError(f"--equivalence {margin}: expected a difference of returns above 0")


def template(name: str, *, escape: bool) -> jinja2.Template:
    """Return the template of the HTML or the Markdown page."""
    environment = jinja2.Environment(
        autoescape=escape,
        finalize=None if escape else without_html,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters["table"] = lambda rows, columns: markdown_table(columns, rows)
    return environment.from_string(
        (files("rn_rl") / "analysis" / "templates" / name).read_text("utf-8")
    )


def without_html(value: Any) -> Any:
    """Escape the ``<`` of HTML tags in text, which Markdown would pass on to a browser."""
    return re.sub(r"<(?=[A-Za-z/!?])", "&lt;", value) if isinstance(value, str) else value


def headline(summary: Summary) -> str:
    """Return the default headline: the tasks, or their number if there are more than two."""
    names = [task.name for task in summary.tasks]
    return " and ".join(names) if len(names) < 3 else f"{len(names)} tasks"


def verdicts(summary: Summary) -> tuple[list[str], list[tuple[str, list[str]]]]:
    """Return the columns of the table of verdicts, and its rows with the classes of each.

    The classes are the verdict, and ``first`` for the first row of a task. Of several tasks, each has
    its rows together, with its name in the first column.

    Args:
        summary: content of the page.
    """
    figure = SHOWN[summary.endpoint]
    columns = ["normalizer", "verdict", figure, summary.baseline, "difference", "P(better)", "p"]
    columns.append("seeds")
    rows: list[tuple[str, list[str]]] = []
    several = len({task.env for task in summary.tasks}) == len(summary.tasks) > 1
    before = None
    for each in summary.comparisons:
        task = next(task for task in summary.tasks if task.name == each.task)
        mine, theirs = (task.arms[norm].figures[figure] for norm in (each.norm, summary.baseline))
        figures = [str(mine), str(theirs), signed(each.effect), str(each.improvement)]
        row = [each.norm, each.verdict, *figures, f"{each.corrected:.2g}", str(min(each.runs))]
        name = task.env if several else task.name
        classes = each.verdict if before in (None, each.task) else f"{each.verdict} first"
        rows.append((classes, row if len(summary.tasks) == 1 else [name, *row]))
        before = each.task
    return columns if len(summary.tasks) == 1 else ["task", *columns], rows


def section(summary: Summary, task: Task, palette: drawing.Palette) -> Section:
    """Return the part of the page about one task."""
    mine = [each for each in summary.comparisons if each.task == task.name]
    columns = ["normalizer", "seeds", *METRICS]
    rows = [
        [norm, str(len(arm.runs)), *(str(arm.figures[name]) for name in METRICS)]
        for norm, arm in task.arms.items()
    ]
    figure = SHOWN[summary.endpoint]
    shown = [(norm, arm.figures[figure]) for norm, arm in task.arms.items()]
    for each in task.references:
        rows.append([each.label, "1", str(Estimate(each.value)), *[""] * (len(METRICS) - 1)])
        if summary.endpoint == "last":  # they have no curve
            shown.append((each.label, Estimate(each.value, each.low, each.high)))
    better = [(each.norm, each.improvement) for each in mine]
    runs = [run for arm in task.arms.values() for run in arm.runs]
    ways = {(run.held_out, run.episodes) for run in runs if run.episodes}
    return Section(
        task=task,
        anchor=f"task-{summary.tasks.index(task) + 1}",
        sentences=[each.sentence(len(summary.comparisons)) for each in mine],
        columns=columns,
        rows=rows,
        curves=plots.learning_curves(task, palette),
        intervals=plots.intervals(
            shown, palette, f"{figure}, 95% interval", f"{summary.endpoint} {task.name}"
        ),
        improvements=plots.intervals(
            better,
            palette,
            f"probability of improvement over {summary.baseline}",
            f"improvement {task.name}",
            middle=0.5,
        )
        if better
        else None,
        gains=plots.gain_curves(task, palette),
        how="; ".join(sorted(last_policy(*way) for way in ways)),
    )


def overall_rows(summary: Summary) -> list[list[str]]:
    """Return the rows of the table of scores over all tasks."""
    none = Estimate(math.nan)
    names = ("IQM", "mean", "optimality gap", "probability of improvement")
    return [
        [norm, *(str(found.get(name, none)) for name in names)]
        for norm, found in summary.overall().items()
    ]


def run_commands(summary: Summary) -> list[str]:
    """Return the commands that made the runs, each once."""
    runs = [run for task in summary.tasks for arm in task.arms.values() for run in arm.runs]
    return list(dict.fromkeys(run.spec.command for run in runs if run.spec.command))


def facts(summary: Summary) -> list[tuple[str, str]]:
    """Return facts about the runs by name: their number, wall time, versions, and kind of training."""
    runs = [run for task in summary.tasks for arm in task.arms.values() for run in arm.runs]
    found = [("runs", f"{len(runs):,}")]
    seconds = [run.seconds for run in runs if run.seconds is not None]
    if seconds:
        hours = sum(seconds) / 3600
        told = f"{hours:.1f} hours" if hours >= 1 else f"{hours * 60:.1f} minutes"
        found.append(("wall time of all trainings, one after the other", told))
    for name in runs[0].spec.versions:
        versions = Counter(run.spec.versions.get(name, "unknown") for run in runs)
        told = ", ".join(f"{v} ({n} runs)" if len(versions) > 1 else v for v, n in versions.items())
        found.append((name, told))
    engines = Counter(
        f"{run.spec.vector_env}, {'in a batch of seeds' if run.spec.together else 'by itself'}"
        for run in runs
    )
    found.append(("environments and training", "; ".join(f"{k}: {n}" for k, n in engines.items())))
    return found
