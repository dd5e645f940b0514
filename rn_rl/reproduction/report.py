"""Page of a reproduction: a table beside the paper's, answers to questions, and a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.text import Text
from scipy import stats

from rn_rl.analysis import plots
from rn_rl.analysis.tables import decimals, markdown_table
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.runs.io import write_text
from rn_rl.experiment.runs.name_table import name_table
from rn_rl.experiment.settings.shipped import shipped
from rn_rl.reproduction.protocol import Protocol, Study
from rn_rl.reproduction.results import (
    MEASURES,
    Result,
    compare_arms,
    mean_estimate,
    write_answers,
    write_runs,
)

EQUIVALENCE = (
    "The margin of an equivalence is a tenth of the effect against none, of the arm that has the larger "
    "one. Two one-sided Welch tests, corrected for their number."
)
"""Sentence below the answers."""


def table_of(
    what: str, protocol: Protocol, study: Study, results: list[Result]
) -> tuple[list[str], list[list[str]]]:
    """Return the columns and the rows of the table, one row for each arm.

    They are each measure of the study with its interval, the training returns by fifths of the run, the
    last policies in whole episodes, the time of a run, and the paper's figures, where there are some of
    this protocol.
    """
    columns = ["arm", "seeds"]
    for name in study.measures:
        columns += [MEASURES[name].column, "95% interval"]
    columns.append("by fifths of the run")
    whole = any(np.isfinite(run.whole) for result in results for run in result.runs)
    columns += ["whole episodes", "solved"] if whole else []
    columns.append("s a run")
    # SB3's own DQN is another protocol
    paper = {} if protocol.algo == "dqn" else shipped("paper_results.yml")[what]
    columns += ["paper"] if paper else []
    digits = {name: measure_decimals(results, name) for name in study.measures}
    rows = []
    for result in results:
        row = [result.arm.name, str(len(result.runs))]
        for name in study.measures:
            row += measured(result, name, digits[name])
        rough = 2 if measure_decimals(results, "last") == 2 else 0
        row.append(", ".join(f"{value:.{rough}f}" for value in result.fifths.mean(0)))
        if whole:
            row.append(str(mean_estimate(np.array([run.whole for run in result.runs]))))
            solved = mean_estimate(np.array([run.solved for run in result.runs]))
            row.append("" if np.isnan(solved.value) else f"{100 * solved.value:.0f}%")
        seconds = mean_estimate(np.array([run.seconds for run in result.runs])).value
        row.append("" if np.isnan(seconds) else f"{seconds:,.0f}")
        if paper:
            row.append(published(what, result.arm.name))
        rows.append(row)
    return columns, rows


def measure_decimals(results: list[Result], name: str) -> int:
    """Return the number of decimals with which a measure is shown, the same for all arms."""
    return decimals(max(abs(result.estimate(name).value) for result in results))


def measured(result: Result, name: str, digits: int) -> list[str]:
    """Return the cells of a measure: mean ± standard error, and the 95% interval of the mean."""
    values, found = result.values(name), result.estimate(name)
    error = f" ± {stats.sem(values):.{digits}f}" if len(values) > 1 else ""
    return [
        f"{found.value:.{digits}f}{error}",
        f"[{found.low:.{digits}f}, {found.high:.{digits}f}]",
    ]


def published(what: str, arm: str) -> str:
    """Return the paper's figure of an arm, mean ± standard error; "" if it has none."""
    figure = shipped("paper_results.yml")[what].get(arm)
    return f"{figure[0]} ± {figure[1]}" if figure else ""


def whole_sentence(protocol: Protocol, columns: list[str]) -> str:
    """Return a sentence about the column of whole episodes; "" without one."""
    if protocol.whole is None or "solved" not in columns:
        return ""
    return (
        f"Whole episodes: the last policies act greedily in {protocol.whole.episodes} episodes of at "
        f"most {protocol.whole.steps:,} steps, mean over seeds; solved: share of those episodes with a "
        f"return of at least {protocol.whole.solved:g}."
    )


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
        best = max(rates, key=lambda rate: by_rate[rate].estimate().value)
        edge = ", at the edge of its grid" if best in (rates[0], rates[-1]) else ""
        told.append(f"{norm} {best} ({by_rate[best].estimate()}{edge})")
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
    told = (
        f"Cost: {len(known)}{of} trainings took {duration(seconds)} of one process ({speed}). This and "
        'the column "s a run" are wall time, which is longer where other work shared the cores: they '
        "compare arms only if all of them ran alone."
    )
    published = shipped("paper_results.yml")["timesteps_per_second"]
    theirs = [
        (r.arm.norm, run.timesteps)
        for r in results
        for run in r.runs
        # an arm whose name is not that of its normalizer has something that theirs has not
        if r.arm.norm in published and r.arm.name.partition(" ")[0] == r.arm.norm
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
    columns, rows = table_of(found.what, protocol, study, results)
    length = length_of(protocol)
    paper = "otherwise the paper's" if protocol.algo == "dqn" else "the paper's"
    about = f"{protocol.algo} on {protocol.env}{protocol.about}, {paper} configuration, {length}"
    measures = " and ".join(MEASURES[name].about for name in study.measures)
    rough = f"Rough: --quick, runs of {length}, few seeds; ramps and half-lives are those of a whole run."
    rates = best_rates(results)
    notes = [costs(protocol, results), rough if found.rough else "", rates]
    answers = [each.sentence(len(comparisons)) for each in comparisons]
    runs = [run for result in results for run in result.runs]
    commands = "\n".join(dict.fromkeys(run.command for run in runs))
    lines = [
        f"# {found.what}: {study.title}",
        f"{about}; {measures}, mean ± standard error over runs.",
        notes[1],
        markdown_table(columns, rows),
        whole_sentence(protocol, columns),
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
    left_out = ("by fifths of the run", "s a run", "solved", "seeds")  # the page has them
    console.print(name_table(columns, rows, console.width, expendable=left_out, title=Text(about)))
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
        [(r.arm.name, r.estimate(found.study.measures[0])) for r in results],
        curves,
        found.protocol.episodes or found.protocol.timesteps,
        found.study.title,
        "timesteps" if found.protocol.episodes is None else "training episodes",
        MEASURES[found.study.measures[0]].about,
    )
    write_text(path, text)
