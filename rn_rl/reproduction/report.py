"""What a reproduction gave: a table beside the paper's, answers, and a picture."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from rn_rl import statistics
from rn_rl.analysis import plots
from rn_rl.analysis.comparison import Comparison, compare, correct
from rn_rl.analysis.metrics import Estimate, decimals
from rn_rl.analysis.report import write_rows, write_text
from rn_rl.errors import UserError
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.runs.io import markdown_table, whole
from rn_rl.experiment.settings.shipped import shipped
from rn_rl.reproduction.protocol import Arm, Protocol, Study

LAST_EPISODES = 50
"""Of a run, whose mean training return counts."""

PARTS = 20
"""Of a run, in each of which the mean training return is a point of its curve."""


@dataclass(frozen=True)
class Trained:
    """A run, as a row of the CSV file."""

    arm: str
    seed: int
    timesteps: int
    last: float
    """Mean return of its last 50 episodes."""
    seconds: float
    """Wall time of one process, its share if it was trained together with others; or not a number."""
    command: str
    """That trained it."""
    parts: tuple[float, ...]
    """Mean return in each of the PARTS of the timesteps; not a number where no episode ended."""


@dataclass
class Result:
    """Training returns of the runs of one arm."""

    arm: Arm
    runs: list[Trained]

    @property
    def last(self) -> np.ndarray:
        """Mean return of the last 50 episodes of each run."""
        return np.array([run.last for run in self.runs])

    @property
    def curves(self) -> np.ndarray:
        """Mean return in each part of the timesteps, ``(runs, PARTS)``; not a number where none ended."""
        return np.array([run.parts for run in self.runs]).reshape(len(self.runs), PARTS)

    @property
    def fifths(self) -> np.ndarray:
        """Mean of the parts in each fifth of the timesteps, ``(runs, 5)``."""
        return np.stack([mean_of(part) for part in np.split(self.curves, 5, axis=1)], 1)

    @property
    def estimate(self) -> Estimate:
        """Mean over runs."""
        return Estimate(float(self.last.mean()), *statistics.bootstrap_interval(self.last))


def in_arms(study: Study, runs: Iterable[Trained]) -> list[Result]:
    """Runs by arm, in the order of the study and then of their names; each seed once, the last of it."""
    found: dict[str, dict[int, Trained]] = {arm.name: {} for arm in study.arms}
    for run in runs:
        found.setdefault(run.arm, {})[run.seed] = run
    arms = {arm.name: arm for arm in study.arms}
    return [
        Result(arms.get(name) or study.make(name), [by_seed[seed] for seed in sorted(by_seed)])
        for name, by_seed in found.items()
        if by_seed
    ]


def mean_of(rows: np.ndarray) -> np.ndarray:
    """Mean of each row over what is a number in it; not a number where nothing is."""
    there = np.isfinite(rows)
    total = np.where(there, rows, 0.0).sum(1)
    return np.divide(total, there.sum(1), out=np.full(len(rows), np.nan), where=there.any(1))


def compare_arms(protocol: Protocol, study: Study, results: list[Result]) -> list[Comparison]:
    """The questions that these arms can answer."""
    by_name = {result.arm.name: result for result in results}
    task = f"{protocol.algo} on {protocol.env}"
    asked = [pair for pair in study.questions if pair[0] in by_name and pair[1] in by_name]
    comparisons = [compare(task, x, y, by_name[x].last, by_name[y].last) for x, y in asked]
    correct(comparisons)
    return comparisons


COLUMNS = ["arm", "seeds", "last 50 episodes", "95% interval", "by fifths of the run", "paper"]


def table_rows(what: str, results: list[Result]) -> list[list[str]]:
    """Our figures, mean ± standard error over runs as the paper has them, beside the paper's."""
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


def costs(protocol: Protocol, results: list[Result]) -> str:
    """What the trainings took, and what the published code would need for those it has."""
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
    """In the unit that suits."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.1f} seconds"


def length_of(protocol: Protocol) -> str:
    """Length of each run, in the unit in which it ends."""
    if protocol.episodes is not None:
        return f"{protocol.episodes:,} episodes"
    return f"{protocol.timesteps:,} timesteps"


@dataclass
class Reproduction:
    """A study of one task, as far as it was run."""

    what: str
    protocol: Protocol
    study: Study
    results: list[Result]
    rough: bool = False
    """--quick."""


def write(found: Reproduction, stem: Path, console: Console) -> None:
    """``.md``, ``.csv`` and ``.svg`` of this stem, and the same on the terminal."""
    protocol, study, results = found.protocol, found.study, found.results
    comparisons = compare_arms(protocol, study, results)
    rows = table_rows(found.what, results)
    length = length_of(protocol)
    paper = "otherwise the paper's" if protocol.algo == "dqn" else "the paper's"
    about = f"{protocol.algo} on {protocol.env}{protocol.about}, {paper} configuration, {length}"
    rough = f"Rough: --quick, runs of {length}, few seeds; ramps and half-lives are those of a whole run."
    notes = [costs(protocol, results), rough if found.rough else ""]
    answers = [each.sentence(len(comparisons)) for each in comparisons]
    runs = [run for result in results for run in result.runs]
    commands = "\n".join(dict.fromkeys(run.command for run in runs))
    lines = [
        f"# {found.what}: {study.title}",
        f"{about}; mean training return of the last {LAST_EPISODES} episodes of each run, mean ± "
        "standard error over runs.",
        notes[1],
        markdown_table(COLUMNS, rows),
        f"![{study.title}]({stem.name}.svg)",
        "\n".join(f"- {answer}" for answer in answers),
        notes[0],
        f"Made by\n\n```\n{commands}\n```",
    ]
    with whole(Path(f"{stem}.md")) as temporary:
        write_text(temporary, "\n\n".join(line for line in lines if line) + "\n")
    write_rows(
        Path(f"{stem}.csv"),
        [*LEADING, *(f"part_{i}" for i in range(1, PARTS + 1))],
        (
            [run.arm, run.seed, run.timesteps, run.last, run.seconds, run.command, *run.parts]
            for run in runs
        ),
    )
    draw(Path(f"{stem}.svg"), found)
    table = Table(title=about)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("arm", "paper") else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in (*notes, *answers):
        if line:
            say(console, line)
    say(console, f"written: {stem}.md, .csv and .svg")


def draw(path: Path, found: Reproduction) -> None:
    """The intervals of all arms, and the curves of some."""
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
    with whole(path) as temporary:
        write_text(temporary, text)


LEADING = ["arm", "seed", "timesteps", "last_50_episodes", "seconds", "command"]
"""Columns of a CSV file before the parts of the curve."""


def read_runs(path: Path) -> list[Trained]:
    """The rows of a CSV file that :func:`write` wrote.

    Raises:
        UserError: it is none of those.
    """
    runs = []
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            header, *rows = csv.reader(stream)
        if header[: len(LEADING)] != LEADING or len(header) != len(LEADING) + PARTS:
            raise ValueError(f"expected {', '.join(LEADING)}, and {PARTS} parts")
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f"a row has {len(row)} of {len(header)} cells")
            arm, seed, timesteps, last, seconds, command, *parts = row
            figures = tuple(float(part) for part in parts)
            run = (arm, int(seed), int(timesteps), float(last), float(seconds), command, figures)
            runs.append(Trained(*run))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a table of 'rn-rl reproduce' ({error})") from None
    return runs
