"""Page of a reproduction: a table beside the paper's, answers to questions, and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from rn_rl.analysis import plots
from rn_rl.analysis.tables import decimals, markdown_table
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.runs.io import write_text
from rn_rl.experiment.settings.shipped import shipped
from rn_rl.reproduction.protocol import Protocol, Study
from rn_rl.reproduction.results import (
    LAST_EPISODES,
    Result,
    compare_arms,
    write_answers,
    write_runs,
)

REPRODUCTION_COLUMNS = [
    "arm",
    "seeds",
    "last 50 episodes",
    "95% interval",
    "by fifths of the run",
    "paper",
]


EQUIVALENCE = (
    "The margin of an equivalence is a tenth of the effect against none, of the arm that has the larger "
    "one. Two one-sided Welch tests, corrected for their number."
)
"""Sentence below the answers."""


def reproduction_rows(what: str, results: list[Result]) -> list[list[str]]:
    """Return the table's rows: mean ± standard error, interval, fifths, and the paper's figures."""
    rows = []
    digits = decimals(max(abs(result.estimate.value) for result in results))
    rough = 2 if digits == 2 else 0
    for result in results:
        error = f" ± {stats.sem(result.last):.{digits}f}" if len(result.last) > 1 else ""
        found = result.estimate
        fifths = ", ".join(f"{value:.{rough}f}" for value in result.fifths.mean(0))
        paper = shipped("paper_results.yml")[what].get(result.arm.name)
        published = f"{paper[0]} ± {paper[1]}" if paper else ""
        shown = f"{found.value:.{digits}f}{error}"
        interval = f"[{found.low:.{digits}f}, {found.high:.{digits}f}]"
        rows.append([result.arm.name, str(len(result.last)), shown, interval, fifths, published])
    return rows


def best_rates(results: list[Result]) -> str:
    """Return a sentence about the best learning rate of each normalizer of a grid; "" without one."""
    grid: dict[str, dict[str, Result]] = {}
    for result in results:
        norm, at, rate = result.arm.name.partition(" at ")
        if at:
            grid.setdefault(norm, {})[rate] = result
    told = []
    for norm, by_rate in grid.items():
        rates = sorted(by_rate, key=float)
        best = max(rates, key=lambda rate: by_rate[rate].estimate.value)
        edge = ", at the edge of its grid" if best in (rates[0], rates[-1]) else ""
        told.append(f"{norm} {best} ({by_rate[best].estimate}{edge})")
    return f"Best learning rates: {'; '.join(told)}." if told else ""


def costs(protocol: Protocol, results: list[Result]) -> str:
    """Return a sentence about the wall time, and that of the published code for the arms it has."""
    runs = [run for result in results for run in result.runs]
    known = [run for run in runs if np.isfinite(run.seconds)]
    if not known:
        return ""
    seconds = sum(run.seconds for run in known)
    speed = f"{sum(run.timesteps for run in known) / seconds:,.0f} timesteps/s of a process"
    of = "" if len(known) == len(runs) else f" of {len(runs)}"
    told = f"Cost: {len(known)}{of} trainings took {duration(seconds)} of one process ({speed})."
    published = shipped("paper_results.yml")["timesteps_per_second"]
    theirs = [
        (r.arm.norm, run.timesteps) for r in results for run in r.runs if r.arm.norm in published
    ]
    if protocol.algo not in ("dqn", "rndqn") or not theirs:
        return told
    needed = sum(timesteps / published[norm] for norm, timesteps in theirs)
    names = ", ".join(dict.fromkeys(norm for norm, _ in theirs))
    return (
        f"{told} The published code would need {duration(needed)} for {names}, at the speed that was "
        "measured of it (RLN and LN+RN at RN's)."
    )


def duration(seconds: float) -> str:
    """Format seconds as hours, minutes or seconds."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.1f} seconds"


def length_of(protocol: Protocol) -> str:
    """Return the length of a run as text, in the unit in which it ends."""
    if protocol.episodes is not None:
        return f"{protocol.episodes:,} episodes"
    return f"{protocol.timesteps:,} timesteps"


@dataclass
class Reproduction:
    """Study of one task, and its results so far."""

    what: str
    """Name of the task."""
    protocol: Protocol
    """The task."""
    study: Study
    """Arms and questions."""
    results: list[Result]
    """One for each arm that has runs."""
    rough: bool = False
    """True for runs of --quick."""


def write_reproduction(found: Reproduction, stem: Path, console: Console) -> None:
    """Write the page, tables and plot, and print the table and the answers.

    The page is ``.md``, the runs are ``.csv``, the answers ``-answers.csv``, and the plot ``.svg``.

    Args:
        found: the study and its results.
        stem: path of the files, without suffix.
        console: terminal.
    """
    protocol, study, results = found.protocol, found.study, found.results
    comparisons = compare_arms(protocol, study, results)
    rows = reproduction_rows(found.what, results)
    length = length_of(protocol)
    paper = "otherwise the paper's" if protocol.algo == "dqn" else "the paper's"
    about = f"{protocol.algo} on {protocol.env}{protocol.about}, {paper} configuration, {length}"
    rough = f"Rough: --quick, runs of {length}, few seeds; ramps and half-lives are those of a whole run."
    rates = best_rates(results)
    notes = [costs(protocol, results), rough if found.rough else "", rates]
    answers = [each.sentence(len(comparisons)) for each in comparisons]
    runs = [run for result in results for run in result.runs]
    commands = "\n".join(dict.fromkeys(run.command for run in runs))
    lines = [
        f"# {found.what}: {study.title}",
        f"{about}; mean training return of the last {LAST_EPISODES} episodes of each run, mean ± "
        "standard error over runs.",
        notes[1],
        markdown_table(REPRODUCTION_COLUMNS, rows),
        rates,
        f"![{study.title}]({stem.name}.svg)",
        "\n".join(f"- {answer}" for answer in answers),
        EQUIVALENCE if any(each.margin is not None for each in comparisons) else "",
        notes[0],
        f"Made by\n\n```\n{commands}\n```",
    ]
    write_text(Path(f"{stem}.md"), "\n\n".join(line for line in lines if line) + "\n")
    write_runs(Path(f"{stem}.csv"), runs)
    write_answers(Path(f"{stem}-answers.csv"), comparisons)
    draw(Path(f"{stem}.svg"), found)
    table = Table(title=about)
    for column in REPRODUCTION_COLUMNS:
        table.add_column(column, justify="left" if column in ("arm", "paper") else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in (*notes, *answers):
        if line:
            say(console, line)
    say(console, f"written: {stem}.md, .csv, -answers.csv and .svg")


def draw(path: Path, found: Reproduction) -> None:
    """Write the plot: intervals of all arms, training curves of the arms that the study names."""
    results = found.results
    drawn = found.study.drawn or [result.arm.name for result in results]
    curves = {r.arm.name: r.curves for r in results if r.arm.name in drawn}
    text = plots.training(
        [(r.arm.name, r.estimate) for r in results],
        curves,
        found.protocol.episodes or found.protocol.timesteps,
        found.study.title,
        "timesteps" if found.protocol.episodes is None else "training episodes",
    )
    write_text(path, text)
