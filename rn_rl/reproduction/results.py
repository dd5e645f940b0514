"""Results of a reproduction: runs by arm, answers to the study's questions, and their CSV file."""

from __future__ import annotations

import csv
from collections.abc import Iterable
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

    @property
    def estimate(self) -> Estimate:
        """Mean of :attr:`last` over runs, with its 95% bootstrap interval."""
        return Estimate(float(self.last.mean()), *statistics.bootstrap_interval(self.last))


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


def mean_of(rows: np.ndarray) -> np.ndarray:
    """Return the mean of each row over its finite values; NaN where it has none."""
    there = np.isfinite(rows)
    total = np.where(there, rows, 0.0).sum(1)
    return np.divide(total, there.sum(1), out=np.full(len(rows), np.nan), where=there.any(1))


def compare_arms(protocol: Protocol, study: Study, results: list[Result]) -> list[Comparison]:
    """Answer the study's questions about arms that have results.

    Each compares the mean return of the last 50 episodes; p values are corrected for their number.
    """
    last = {result.arm.name: result.last for result in results}
    task = f"{protocol.algo} on {protocol.env}"
    comparisons = []
    for x, y in study.questions:
        if x in last and y in last:
            margin = equivalence_margin(last, x, y) if (x, y) in study.same else None
            comparisons.append(compare(task, x, y, last[x], last[y], margin))
            comparisons[-1].measure = f"mean return of the last {LAST_EPISODES} episodes"
    correct(comparisons)
    return comparisons


def equivalence_margin(last: dict[str, np.ndarray], x: str, y: str) -> float | None:
    """Return a tenth of the larger of the effects of two arms against ``none``.

    None if ``none`` has no runs, or there is no effect.
    """
    if "none" not in last:
        return None
    effects = [abs(float(last[arm].mean() - last["none"].mean())) for arm in (x, y)]
    return max(effects) / 10 or None


def write_answers(path: Path, comparisons: list[Comparison]) -> None:
    """Write the answers as a CSV file, with raw and corrected p values, one row each."""
    columns = ["arm", "compared_with", "seeds", "seeds_compared_with", "verdict"]
    columns += ["probability_of_improvement", "low", "high", "p", "p_corrected"]
    columns += ["margin", "mean_difference", "low_90", "high_90"]
    columns += ["p_equivalence", "p_equivalence_corrected"]
    rows: list[list[Any]] = []
    for each in comparisons:
        found, difference = each.improvement, each.difference
        row: list[Any] = [each.norm, each.baseline, *each.runs, each.verdict]
        row += [found.value, found.low, found.high, each.p, each.corrected]
        if each.margin is None:
            rows.append([*row, *[""] * 6])
        else:
            row += [each.margin, difference.value, difference.low, difference.high]
            rows.append([*row, each.p_equivalence, each.corrected_equivalence])
    write_rows(path, columns, rows)


LEADING = ["arm", "seed", "timesteps", "last_50_episodes", "seconds", "command"]
"""Columns of a CSV file before the parts of the curve."""

EPISODES = "episodes"
"""Last column of a CSV file; tables that were written before it existed lack it."""


def write_runs(path: Path, runs: list[Trained]) -> None:
    """Write runs as a CSV file, one row each."""
    parts = [f"part_{i}" for i in range(1, PARTS + 1)]
    rows = []
    for run in runs:
        leading = (run.arm, run.seed, run.timesteps, run.last, run.seconds, run.command)
        rows.append([*leading, *run.parts, run.episodes or ""])
    write_rows(path, [*LEADING, *parts, EPISODES], rows)


def read_runs(path: Path) -> list[Trained]:
    """Read the rows of a CSV file that :func:`write_runs` wrote.

    Raises:
        UserError: the file is none of those.
    """
    runs = []
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            header, *rows = csv.reader(stream)
        counted = header[-1:] == [EPISODES]
        if header[: len(LEADING)] != LEADING or len(header) != len(LEADING) + PARTS + counted:
            raise ValueError(f"expected {', '.join(LEADING)}, {PARTS} parts and {EPISODES}")
        for row in rows:
            if len(row) != len(header):
                raise ValueError(f"a row has {len(row)} of {len(header)} cells")
            arm, seed, timesteps, last, seconds, command, *figures = row
            episodes = int(figures.pop() or 0) or None if counted else None
            parts = tuple(float(part) for part in figures)
            run = (arm, int(seed), int(timesteps), float(last), float(seconds), command)
            runs.append(Trained(*run, parts, episodes))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: not a table of 'rn-rl reproduce' ({error})") from None
    return runs
