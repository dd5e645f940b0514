"""Results of a reproduction: runs by arm, answers to the study's questions, and their CSV file."""

from __future__ import annotations

import csv
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rn_rl import statistics
from rn_rl.analysis.comparison import Comparison, compare, correct
from rn_rl.analysis.tables import Estimate
from rn_rl.errors import UserError
from rn_rl.experiment.runs.io import write_rows
from rn_rl.reproduction.protocol import Arm, Protocol, Study

LAST_EPISODES = 50
"""Number of episodes at the end of a run over which its training return is averaged."""

PARTS = 20
"""Number of equal parts of a run; a learning curve has the mean training return in each."""

LEARNED = 0.8
"""Return of the last policy above which a seed has learned RedBlueDoors, whose returns are in [0, 1]."""


@dataclass(frozen=True)
class Trained:
    """Trained run: one row of the CSV file."""

    arm: str
    """Name of the arm."""
    seed: int
    """Seed of the run."""
    timesteps: int
    """Number of timesteps it was trained for."""
    last: float
    """Mean return of its last 50 episodes."""
    seconds: float
    """Wall time of one process, divided by the number of seeds trained together; NaN if unknown."""
    command: str
    """Command that trained it."""
    parts: tuple[float, ...]
    """Mean return in each of the PARTS of the run; NaN where no episode ended."""
    episodes: int | None = None
    """Number of training episodes after which the run ended; None: it ended by timesteps."""
    area: float = np.nan
    """Area under its evaluation curve; NaN where the study has no such curve."""
    final: float = np.nan
    """Mean return of its last policy in evaluation episodes; NaN likewise."""
    whole: float = np.nan
    """Mean return of its last policy in whole episodes; NaN where those of training are whole."""
    solved: float = np.nan
    """Share of those episodes that are solved; NaN likewise."""


@dataclass(frozen=True)
class Measure:
    """Number by which arms are compared."""

    about: str
    """Name in sentences."""
    column: str
    """Name in the head of a column."""
    of: Callable[[Trained], float]
    """Function that gives the number of a run."""


MEASURES = {
    "last": Measure(
        f"mean return of the last {LAST_EPISODES} episodes",
        f"last {LAST_EPISODES} episodes",
        lambda run: run.last,
    ),
    "area": Measure(
        "area under the evaluation curve", "area under the curve", lambda run: run.area
    ),
    "learned": Measure(
        f"share of seeds whose last policy returns above {LEARNED}",
        f"share of seeds above {LEARNED}",
        lambda run: math.nan if math.isnan(run.final) else float(run.final > LEARNED),
    ),
}
"""Numbers by which arms can be compared, by the names that studies use."""


@dataclass
class Result:
    """Training returns of the runs of one arm."""

    arm: Arm
    """Normalizer and settings."""
    runs: list[Trained]
    """One for each seed."""

    @property
    def last(self) -> np.ndarray:
        """Mean return of the last 50 episodes of each run, ``(runs,)``."""
        return np.array([run.last for run in self.runs])

    @property
    def curves(self) -> np.ndarray:
        """Mean return in each part of the run, ``(runs, PARTS)``; NaN where no episode ended."""
        return np.array([run.parts for run in self.runs]).reshape(len(self.runs), PARTS)

    @property
    def fifths(self) -> np.ndarray:
        """Mean of the parts in each fifth of the run, ``(runs, 5)``."""
        return np.stack([mean_of(part) for part in np.split(self.curves, 5, axis=1)], 1)

    def values(self, measure: str) -> np.ndarray:
        """Return a measure (a key of :data:`MEASURES`) of each run, ``(runs,)``."""
        return np.array([MEASURES[measure].of(run) for run in self.runs])

    def estimate(self, measure: str = "last") -> Estimate:
        """Return the mean of a measure over runs, with its 95% bootstrap interval."""
        return mean_estimate(self.values(measure))


def in_arms(study: Study, runs: Iterable[Trained]) -> list[Result]:
    """Group runs by arm, in the order of the study; arms that it lacks follow.

    Args:
        study: arms, and the rule that makes one for another normalizer.
        runs: a later run replaces an earlier one of the same arm and seed.
    """
    found: dict[str, dict[int, Trained]] = {arm.name: {} for arm in study.arms}
    for run in runs:
        found.setdefault(run.arm, {})[run.seed] = run
    arms = {arm.name: arm for arm in study.arms}
    return [
        Result(arms.get(name) or study.make(name), [by_seed[seed] for seed in sorted(by_seed)])
        for name, by_seed in found.items()
        if by_seed
    ]


def mean_estimate(values: np.ndarray) -> Estimate:
    """Return the mean of the values that are not NaN, with its 95% bootstrap interval."""
    there = values[~np.isnan(values)]
    if not len(there):
        return Estimate(np.nan)
    return Estimate(float(there.mean()), *statistics.bootstrap_interval(there))


def mean_of(rows: np.ndarray) -> np.ndarray:
    """Return the mean of each row over its finite values; NaN where it has none."""
    there = np.isfinite(rows)
    total = np.where(there, rows, 0.0).sum(1)
    return np.divide(total, there.sum(1), out=np.full(len(rows), np.nan), where=there.any(1))


def compare_arms(protocol: Protocol, study: Study, results: list[Result]) -> list[Comparison]:
    """Answer the study's questions about arms that have results.

    Each question is asked of each of the study's measures; p values are corrected for all of them.
    """
    comparisons = []
    for name in study.measures:
        values = {result.arm.name: result.values(name) for result in results}
        task = f"{protocol.algo} on {protocol.env}"
        if len(study.measures) > 1:
            task += f" by the {MEASURES[name].about}"
        for x, y in study.questions:
            if x in values and y in values:
                margin = equivalence_margin(values, x, y) if (x, y) in study.same else None
                comparisons.append(compare(task, x, y, values[x], values[y], margin))
                comparisons[-1].measure = MEASURES[name].about
    correct(comparisons)
    return comparisons


def equivalence_margin(values: dict[str, np.ndarray], x: str, y: str) -> float | None:
    """Return a tenth of the larger of the effects of two arms against ``none``.

    None if ``none`` has no runs, or there is no effect.
    """
    if "none" not in values:
        return None
    effects = [abs(float(values[arm].mean() - values["none"].mean())) for arm in (x, y)]
    return max(effects) / 10 or None


def write_answers(path: Path, comparisons: list[Comparison]) -> None:
    """Write the answers as a CSV file, with raw and corrected p values, one row each."""
    columns = ["arm", "compared_with", "measure", "seeds", "seeds_compared_with", "verdict"]
    columns += ["probability_of_improvement", "low", "high", "p", "p_corrected"]
    columns += ["margin", "mean_difference", "low_90", "high_90"]
    columns += ["p_equivalence", "p_equivalence_corrected"]
    rows: list[list[Any]] = []
    for each in comparisons:
        found, difference = each.improvement, each.difference
        row: list[Any] = [each.norm, each.baseline, each.measure, *each.runs, each.verdict]
        row += [found.value, found.low, found.high, each.p, each.corrected]
        if each.margin is None:
            rows.append([*row, *[""] * 6])
        else:
            row += [each.margin, difference.value, difference.low, difference.high]
            rows.append([*row, each.p_equivalence, each.corrected_equivalence])
    write_rows(path, columns, rows)


LEADING = ["arm", "seed", "timesteps", "last_50_episodes", "seconds", "command"]
"""Columns of a CSV file before the parts of the curve."""

TRAILING = ("episodes", "area", "final", "whole", "solved")
"""Columns after the parts, named as the fields of :class:`Trained`; older tables lack the last ones."""


def write_runs(path: Path, runs: list[Trained]) -> None:
    """Write runs as a CSV file, one row each; what a run does not have is an empty cell."""
    parts = [f"part_{i}" for i in range(1, PARTS + 1)]
    rows = []
    for run in runs:
        leading = (run.arm, run.seed, run.timesteps, run.last, run.seconds, run.command)
        more = [getattr(run, name) for name in TRAILING]
        shown = ["" if value is None or np.isnan(value) else value for value in more]
        rows.append([*leading, *run.parts, *shown])
    write_rows(path, [*LEADING, *parts, *TRAILING], rows)


def read_runs(path: Path) -> list[Trained]:
    """Read the rows of a CSV file that :func:`write_runs` wrote.

    Raises:
        UserError: the file is none of those.
    """
    runs = []
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            header, *rows = csv.reader(stream)
        first, last = len(LEADING), len(LEADING) + PARTS
        more = header[last:]
        names_fit = header[:first] == LEADING and more == [*TRAILING[: len(more)]]
        if not names_fit or len(header) < last:
            raise ValueError(f"expected {', '.join(LEADING)}, {PARTS} parts, {', '.join(TRAILING)}")
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f"a row has {len(row)} of {len(header)} cells")
            arm, seed, timesteps, mean, seconds, command = row[:first]
            run = (arm, int(seed), int(timesteps), float(mean), float(seconds), command)
            parts = tuple(float(part) for part in row[first:last])
            cells = dict(zip(more, row[last:], strict=True))
            episodes = int(cells.pop("episodes", "") or 0) or None
            found = [float(cells.get(name) or np.nan) for name in TRAILING[1:]]
            runs.append(Trained(*run, parts, episodes, *found))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a table of 'rn-rl reproduce' ({error})") from None
    return runs
