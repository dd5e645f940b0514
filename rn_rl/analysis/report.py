"""Reports: one self-contained HTML page, the same in Markdown, and CSV files of every figure."""

from __future__ import annotations

import csv
import math
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
from rn_rl.analysis import plots
from rn_rl.analysis.comparison import Summary, Task, last_policy
from rn_rl.analysis.metrics import METRICS, Estimate
from rn_rl.errors import UserError
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.runs.io import markdown_table, whole
from rn_rl.normalization import canonical_spec


@dataclass
class Section:
    """A task, as a page shows it."""

    task: Task
    anchor: str
    sentences: list[str]
    columns: list[str]
    rows: list[list[str]]
    curves: str | None
    intervals: str
    improvements: str | None
    gains: str | None
    how: str


def print_summary(summary: Summary, out: Path, console: Console) -> None:
    """Last policies, what was concluded, what to mind, and where the pages are."""
    for task in summary.tasks:
        console.print(Padding(last_policies(summary, task), (1, 0)))
    for sentence in summary.sentences():
        say(console, f"  {sentence}")
    for note in summary.notes:
        say(console, f"  note: {note}")
    for problem in summary.problems:
        kept = "counted" if problem.counted else "not counted"
        say(console, f"  {kept}: {problem.run}: {problem.what}", style="yellow")
    say(console, f"report: {out}")


def last_policies(summary: Summary, task: Task) -> Table:
    """As much about a task as a terminal has room for."""
    table = Table(title=task.name, title_justify="left", box=None, padding=(0, 2, 0, 0))
    table.add_column("normalizer")
    for name in ("seeds", "last return, IQM", "worst run", "P(better)"):
        table.add_column(name, justify="right")
    better = summary.improvements()
    for norm, arm in task.arms.items():
        found = [arm.figures[name] for name in ("last return, IQM", "worst run")]
        row = [norm, str(len(arm.runs)), *map(str, found), better.get((task.name, norm), "")]
        table.add_row(*map(Text, row))
    for each in task.references:
        table.add_row(Text(each.label), "1", str(Estimate(each.value)))
    return table


def write_report(
    summary: Summary, out: Path, *, title: str | None = None, commands: Iterable[str] = ()
) -> None:
    """``out`` (HTML), and beside it ``.md``, ``-figures.csv``, ``-runs.csv`` and ``-curves.csv``."""
    palette = plots.Palette(summary.norms)
    content = {
        "title": title or headline(summary),
        "summary": summary,
        "sections": [section(summary, task, palette) for task in summary.tasks],
        "overall_columns": ["normalizer", "IQM of scores", "mean", "optimality gap", "P(better)"],
        "overall": overall_rows(summary) if len(summary.tasks) > 1 else [],
        "profiles": plots.performance_profiles(summary, palette),
        "commands": list(commands) or run_commands(summary),
        "facts": facts(summary),
        "metrics": METRICS,
        "exploratory": statistics.EXPLORATORY,
        "colors": palette.colors(),
        "palette": Markup(plots.css()),
        "csv": [csv_file(out, name).name for name in ("figures", "runs", "curves")],
    }
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        with whole(out) as temporary:
            write_text(temporary, template("report.html.jinja", escape=True).render(content))
        with whole(out.with_suffix(".md")) as temporary:
            write_text(temporary, template("report.md.jinja", escape=False).render(content))
        write_figures(summary, csv_file(out, "figures"))
        write_runs(summary, csv_file(out, "runs"))
        write_curves(summary, csv_file(out, "curves"))
    except OSError as error:
        raise UserError(
            f"--out {out}: cannot be written ({error.strerror or error}); choose another file"
        ) from None


def write_text(path: Path, text: str) -> None:
    """UTF-8 wherever we are; bytes of a path that are no text are shown as such."""
    path.write_text(text, encoding="utf-8", errors="backslashreplace")


def check_page(page: Path, flag: str) -> None:
    """Raise a :class:`UserError` where no page can be written, before anything long is done."""
    if page.suffix not in (".html", ".htm") or page.is_dir():
        raise UserError(f"{flag} {page}: expected the name of a page, such as report.html")


def check_baseline(baseline: str, norms: Iterable[str]) -> str:
    """In the spelling in which runs have it.

    Raises:
        UserError: it is none of the several normalizers that there are.
    """
    norms = list(dict.fromkeys(norms))
    known = canonical_spec(baseline)
    if known not in norms and len(norms) > 1:
        raise UserError(f"--baseline {baseline}: expected one of {', '.join(norms)}")
    return known


def check_threshold(threshold: float | None) -> None:
    """Raise a :class:`UserError` for what no return can reach or miss."""
    if threshold is not None and not math.isfinite(threshold):
        raise UserError(f"--threshold {threshold}: expected a return")


def template(name: str, *, escape: bool) -> jinja2.Template:
    """One of the two pages."""
    environment = jinja2.Environment(
        autoescape=escape, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.filters["table"] = lambda rows, columns: markdown_table(columns, rows)
    return environment.from_string(
        (files("rn_rl") / "analysis" / "templates" / name).read_text("utf-8")
    )


def headline(summary: Summary) -> str:
    """Of a report that was not given one."""
    envs = list(dict.fromkeys(task.env for task in summary.tasks))
    return f"{', '.join(summary.norms)} on {', '.join(envs)}"


def section(summary: Summary, task: Task, palette: plots.Palette) -> Section:
    """Everything about one task."""
    mine = [each for each in summary.comparisons if each.task == task.name]
    columns = ["normalizer", "seeds", *METRICS]
    rows = [
        [norm, str(len(arm.runs)), *(str(arm.figures[name]) for name in METRICS)]
        for norm, arm in task.arms.items()
    ]
    last = [(norm, arm.figures["last return, IQM"]) for norm, arm in task.arms.items()]
    for each in task.references:
        rows.append([each.label, "1", str(Estimate(each.value)), *[""] * (len(METRICS) - 1)])
        last.append((each.label, Estimate(each.value, each.low, each.high)))
    better = [(each.norm, each.improvement) for each in mine]
    ways = {(run.held_out, run.episodes) for arm in task.arms.values() for run in arm.runs}
    return Section(
        task=task,
        anchor=f"task-{summary.tasks.index(task) + 1}",
        sentences=[each.sentence(len(summary.comparisons)) for each in mine],
        columns=columns,
        rows=rows,
        curves=plots.learning_curves(task, palette),
        intervals=plots.intervals(
            last, palette, "return of the last policy, IQM and 95% interval", f"last {task.name}"
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


def short(summary: Summary) -> str:
    """The last policies of each task, and what can be concluded, as Markdown."""
    better = summary.improvements()
    rows = [
        [
            task.name,
            norm,
            str(len(arm.runs)),
            str(arm.figures["last return, IQM"]),
            str(arm.figures["area under curve, IQM"]),
            better.get((task.name, norm), ""),
        ]
        for task in summary.tasks
        for norm, arm in task.arms.items()
    ]
    columns = ["training", "normalizer", "seeds", "last return, IQM", "area under curve, IQM"]
    columns.append(f"better than {summary.baseline} with probability")
    sentences = "\n".join(f"- {sentence}" for sentence in summary.sentences())
    return f"{markdown_table(columns, rows)}\n\n{sentences}"


def overall_rows(summary: Summary) -> list[list[str]]:
    """Scores over all tasks."""
    none = Estimate(math.nan)
    names = ("IQM", "mean", "optimality gap", "probability of improvement")
    return [
        [norm, *(str(found.get(name, none)) for name in names)]
        for norm, found in summary.overall().items()
    ]


def run_commands(summary: Summary) -> list[str]:
    """The commands that made the runs, each once."""
    runs = [run for task in summary.tasks for arm in task.arms.values() for run in arm.runs]
    return list(dict.fromkeys(run.spec.command for run in runs if run.spec.command))


def facts(summary: Summary) -> list[tuple[str, str]]:
    """Versions, wall time, environments."""
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


def csv_file(out: Path, name: str) -> Path:
    """Beside the page."""
    return out.with_name(f"{out.stem}-{name}.csv")


def write_rows(path: Path, columns: list[str], rows: Iterable[list[Any]]) -> None:
    """A CSV file."""
    with (
        whole(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows(rows)


def write_figures(summary: Summary, path: Path) -> None:
    """Every figure of every arm, every comparison, and scores over all tasks."""
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
        add(each.task, each.norm, seeds, f"p against {each.baseline}", Estimate(each.p))
        corrected = f"p against {each.baseline}, corrected"
        add(each.task, each.norm, seeds, corrected, Estimate(each.corrected))
    if len(summary.tasks) > 1:
        for norm, figures in summary.overall().items():
            for name, found in figures.items():
                add("all tasks", norm, "", f"score, {name}", found)
    write_rows(path, ["task", "normalizer", "seeds", "figure", "value", "low", "high"], rows)


def write_runs(summary: Summary, path: Path) -> None:
    """One line a run."""
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
    """Learning curves with their intervals, as they are drawn."""
    rows = []
    for task in summary.tasks:
        for norm, arm in task.arms.items():
            steps, values = arm.curves
            if len(steps):
                low, high = arm.band
                line = zip(steps, values.mean(0), low, high, strict=True)
                rows += [[task.name, norm, *map(float, each), len(values)] for each in line]
    write_rows(path, ["task", "normalizer", "timesteps", "mean", "low", "high", "seeds"], rows)
