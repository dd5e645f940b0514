"""Runs with a probe, sorted into arms, and the figures of their curves."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from rn_rl import statistics
from rn_rl.analysis.metrics import estimate
from rn_rl.analysis.tables import Estimate, counted
from rn_rl.errors import UserError
from rn_rl.experiment.runs.folder import Run, find_run
from rn_rl.experiment.runs.records import (
    find_runs,
    read_episodes,
    read_evaluations,
    read_probe,
)
from rn_rl.experiment.runs.spec import RunSpec, as_told, differences, flatten
from rn_rl.probe import ProbeRecord, find_stages, recurring
from rn_rl.probe.measures import explained_code
from rn_rl.probe.stages import RecurringStage, window_of

POINTS = 200
"""Points of a curve on the page."""

BLOCKS = 20
"""Blocks of a training whose changes are correlated with those of the return."""

RESOLUTION = 1e-6
"""Share of a measure's size below which its changes are rounding: records are float32."""

CORRELATED = ("residual", "shift", "ratio", "dead", "rank", "step", "churn")
"""Measures that are correlated with the return."""


class NoRows(UserError):
    """A record has no rows: no phase has ended."""


HOW = "record one with 'rn-rl train --probe' or 'rn-rl compare --probe'"


@dataclass
class ProbedRun:
    """A training, its probe and its returns.

    Attributes:
        name: name of the run.
        arm: normalizer, algorithm and environment; the name of a file for a record without a run.
        seed: seed of the run.
        length: last timestep of the training.
        record: record of the probe.
        return_steps: timesteps at which training episodes ended; of evaluations without any.
        returns: their returns.
        identity: text that runs share that differ in their seed alone; the path of a file by itself.
        settings: settings of the run, by name.
    """

    name: str
    arm: str
    seed: int
    length: float
    record: ProbeRecord
    return_steps: np.ndarray
    returns: np.ndarray
    identity: str = ""
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def online(self) -> np.ndarray:
        """Residuals of the online layers, ``(rows, columns)``."""
        names = self.record.columns
        columns = [i for i, name in enumerate(names) if is_online_layer(name, names)]
        found: np.ndarray = self.record.values["residual"][:, columns]
        return found

    @property
    def has_end(self) -> bool:
        """True if the last row has a number, which it has not after a run diverged."""
        return bool(np.isfinite(self.online[-1]).any())

    @cached_property
    def stages(self) -> list[float]:
        """Positions of the stages of the residuals of the online layers, as shares of the training."""
        table = self.online
        return [float(self.record.timesteps[s.row] / self.length) for s in find_stages(table)]

    @cached_property
    def return_stages(self) -> list[float]:
        """Positions of the stages of the return."""
        middle, values = blocks(self.return_steps, self.returns, self.length, POINTS)
        known = np.isfinite(values)
        if known.sum() < 2:
            return []
        filled = np.interp(middle, middle[known], values[known])
        return [float(middle[s.row] / self.length) for s in find_stages(filled)]

    @property
    def is_long_enough(self) -> bool:
        """True if the record has enough rows for stages."""
        return window_of(len(self.record.timesteps)) is not None

    def explained(self, column: str) -> float:
        """Share of the residual's variance that follows from m and v alone; NaN without both."""
        values, i = self.record.values, self.record.columns.index(column)
        if "shift" not in values or "ratio" not in values:
            return math.nan
        rows = np.isfinite(values["shift"][:, i]) & np.isfinite(values["ratio"][:, i])
        rows &= np.isfinite(values["residual"][:, i])
        found = values["residual"][rows, i]
        code = values["code"][rows, i]  # whose rounding the residual has
        if len(found) < 10 or np.ptp(found) <= 10 * RESOLUTION * np.abs(code).max():
            return math.nan
        shift, ratio = values["shift"][rows, i], values["ratio"][rows, i]
        # a thinned record lacks the phases between its rows, over which the mass decayed too
        expected = explained_code(shift, ratio, self.record.decay**self.record.stride)
        return float(1 - (found - expected).var() / found.var())

    def correlation(self, measure: str, column: str) -> float:
        """Spearman correlation of the changes between blocks of a measure with those of the return."""
        table = self.record.values.get(measure)
        if table is None or not len(self.returns):
            return math.nan
        series = table[:, self.record.columns.index(column)]
        _, one = blocks(self.record.timesteps, series, self.length, BLOCKS)
        _, other = blocks(self.return_steps, self.returns, self.length, BLOCKS)
        a, b = changes(one), changes(other)
        both = np.isfinite(a) & np.isfinite(b)
        if both.sum() < 8 or not np.ptp(a[both]) or not np.ptp(b[both]):
            return math.nan
        return float(stats.spearmanr(a[both], b[both]).statistic)


def blocks(
    steps: np.ndarray, values: np.ndarray, length: float, count: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return the middle of each of ``count`` equal parts of a training, and the mean of values in it."""
    middle = (np.arange(count) + 0.5) * length / count
    known = np.isfinite(values)
    where = np.minimum((steps[known] * count / max(length, 1)).astype(int), count - 1)
    number = np.bincount(where, minlength=count)
    total = np.bincount(where, values[known], minlength=count)
    with np.errstate(invalid="ignore"):
        return middle, np.where(number > 0, total / np.maximum(number, 1), np.nan)


def changes(values: np.ndarray) -> np.ndarray:
    """Return the differences of neighbours, as multiples of :data:`RESOLUTION` of the largest value.

    So neighbours that are equal but for rounding have no difference, and ranks of differences are not
    those of rounding.
    """
    known = np.abs(values[np.isfinite(values)])
    unit = RESOLUTION * float(known.max(initial=0)) or 1.0
    return np.asarray(np.round(np.diff(values) / unit))


def is_online_layer(column: str, columns: Collection[str]) -> bool:
    """Return True for columns of online networks, without the inputs of normalizers.

    Args:
        column: name of the column.
        columns: names of all columns of the record.
    """
    is_input = column.endswith(".in") and is_of_normalizer(column, columns)
    return "_target." not in column and not is_input


def is_of_normalizer(column: str, columns: Collection[str]) -> bool:
    """Return True for the input or output of a normalizer: a column whose counterpart is there too.

    Names of layers may end in ``.in`` or ``.out`` by themselves.
    """
    layer, _, end = column.rpartition(".")
    return end in ("in", "out") and f"{layer}.in" in columns and f"{layer}.out" in columns


@dataclass
class ProbedArm:
    """Runs that differ in their seed alone."""

    name: str
    runs: list[ProbedRun]
    notes: list[str] = field(default_factory=list)

    @cached_property
    def columns(self) -> list[str]:
        """Columns that every run has."""
        return [
            name
            for name in self.runs[0].record.columns
            if all(name in run.record.columns for run in self.runs)
        ]

    @cached_property
    def layers(self) -> list[str]:
        """Columns without time step."""
        return [name for name in self.columns if "@" not in name]

    @cached_property
    def recurrent(self) -> dict[str, list[str]]:
        """Columns of each recurrent layer, by time step."""
        found: dict[str, list[str]] = {}
        for name in self.columns:
            if "@" in name:
                found.setdefault(name.partition("@")[0], []).append(name)
        return found

    @property
    def length(self) -> float:
        """Length of the shortest run."""
        return min(run.length for run in self.runs)

    def curve(self, measure: str, column: str) -> tuple[np.ndarray, np.ndarray]:
        """Return timesteps ``(points,)`` and a measure of every run at them, ``(runs, points)``.

        A value is NaN before the first known one of a run, and after the last, as of a run that diverged.
        """
        records = [run.record for run in self.runs]
        first = max(record.timesteps[0] for record in records)
        last = min(record.timesteps[-1] for record in records)
        most = min(min(len(record.timesteps) for record in records), POINTS)
        steps = np.linspace(first, last, max(most, 2)) if last > first else np.array([first])
        rows = []
        for record in records:
            values = record.values.get(measure)
            one = (
                np.full(len(record.timesteps), np.nan)
                if values is None
                else values[:, record.columns.index(column)]
            )
            known = np.isfinite(one)
            if not known.any():
                rows.append(np.full(len(steps), np.nan))
                continue
            at = record.timesteps[known]
            row = np.interp(steps, at, one[known])
            rows.append(np.where((steps < at[0]) | (steps > at[-1]), np.nan, row))
        return steps, np.stack(rows)

    def has(self, measure: str) -> bool:
        """Return True if every run has a measure with a number in it."""
        return all(
            measure in run.record.values and np.isfinite(run.record.values[measure]).any()
            for run in self.runs
        )

    @cached_property
    def stages(self) -> list[RecurringStage]:
        """Stages of the residuals that most runs share."""
        return recurring([run.stages for run in self.runs])

    @cached_property
    def return_stages(self) -> list[RecurringStage]:
        """Stages of the return that most runs share."""
        return recurring([run.return_stages for run in self.runs])

    def last(self, measure: str, column: str) -> Estimate:
        """Mean over runs of the last tenth of a measure's curve."""
        _, rows = self.curve(measure, column)
        tail = rows[:, -max(rows.shape[1] // 10, 1) :]
        known = np.isfinite(tail).any(1)
        if not known.any():
            return Estimate(math.nan)
        return estimate(statistics.mean, np.nanmean(tail[known], axis=1))

    def explained(self, column: str) -> Estimate:
        """Mean over runs of :meth:`ProbedRun.explained`."""
        return mean_of([run.explained(column) for run in self.runs])

    def correlation(self, measure: str, column: str) -> Estimate:
        """Mean over runs of :meth:`ProbedRun.correlation`, and its interval over seeds."""
        return mean_of([run.correlation(measure, column) for run in self.runs])

    def sentences(self) -> list[str]:
        """Say which stages there are, in how many seeds, and where nothing can be told."""
        told = []
        diverged = sum(not run.has_end for run in self.runs)
        if diverged:
            told.append(
                f"{diverged} of {len(self.runs)} runs end without numbers, as where a layer diverged: "
                "means of the last tenth leave them out."
            )
        if not all(run.is_long_enough for run in self.runs):
            return [*told, "Too few rows to tell stages: expected at least 48 in each run."]
        both = (("residual", self.stages), ("return", self.return_stages))
        for what, found in both if any(len(run.returns) for run in self.runs) else both[:1]:
            places = ", ".join(
                f"at {stage.position:.0%} of the training ({stage.seeds} of {stage.of} seeds)"
                for stage in found
            )
            told.append(
                f"Stages of the {what}: {places}."
                if places
                else f"No stage of the {what} beats chance in most seeds ({len(self.runs)} in all). "
                "That does not show that there is none."
            )
        single = sum(len(run.stages) for run in self.runs) / len(self.runs)
        told.append(f"A run by itself has {single:.1f} stages of the residual on average.")
        if len(self.runs) < statistics.EXPLORATORY:
            told.append(
                f"Fewer than {statistics.EXPLORATORY} seeds: exploratory, whatever the intervals say."
            )
        return told


def mean_of(values: Sequence[float]) -> Estimate:
    """Return the mean of the values that are known, and its interval."""
    known = np.array([value for value in values if math.isfinite(value)])
    return estimate(statistics.mean, known)


def find_probed(paths: Sequence[Path]) -> list[tuple[Run | None, Path]]:
    """Find the records of runs, of zips in them, of folders that hold runs, and of npz files.

    Returns:
        Each run once, None for a file by itself, and the path where its record is or would be.

    Raises:
        UserError: there is no such path.
    """
    found: list[tuple[Run | None, Path]] = []
    for path in paths:
        if path.suffix == ".npz":
            if not path.is_file():
                raise UserError(f"{path}: no such file; {HOW}")
            found.append((None, path))
            continue
        run, _ = find_run(path)
        if run.spec_file.is_file() or not run.folder.is_dir():
            found.append((run, run.probe_file))
        else:
            inside = find_runs(run.folder)
            found += [(Run(folder), Run(folder).probe_file) for folder in inside] or [
                (run, run.probe_file)
            ]
    once: dict[Path, tuple[Run | None, Path]] = {}
    for run_and_path in found:
        once.setdefault(run_and_path[1].resolve(), run_and_path)
    return list(once.values())


def read_run(run: Run | None, path: Path) -> ProbedRun:
    """Read a record and the returns beside it.

    Raises:
        UserError: the record or ``run.yaml`` is missing or damaged.
    """
    if run is None:
        record = checked_length(path, read_probe(path))
        nothing = np.empty(0)
        found = nothing, nothing, str(path.resolve())
        return ProbedRun(str(path), path.stem, 0, record.timesteps[-1], record, *found)
    spec = run.read_spec()
    if not path.is_file():
        raise UserError(f"run {run.folder} has no probe.npz{missing(spec)}")
    record = checked_length(path, read_probe(path))
    try:
        steps, returns = read_episodes(run)
    except (ValueError, IndexError):
        steps, returns = np.empty(0), np.empty(0)
    if len(returns) < BLOCKS:
        steps, returns, _ = read_evaluations(run, [])
    name = f"{spec.norm} {spec.algo} {spec.env}"
    length = float(max(record.timesteps[-1], 1))
    known = steps <= length
    identity, settings = replace(spec, seed=0).identity(), flatten(spec.settings())
    more = steps[known], returns[known], identity, settings
    return ProbedRun(str(run.folder), name, spec.seed, length, record, *more)


def missing(spec: RunSpec) -> str:
    """Say why a run has no record, and what to do."""
    if not spec.probe:
        return f": {HOW}"
    return (
        ", although it was trained with --probe: its training has not written one yet; let it go on"
    )


def checked_length(path: Path, record: ProbeRecord) -> ProbeRecord:
    """Return the record; raise :class:`NoRows` if it has no rows."""
    if not len(record.timesteps) or not record.columns:
        raise NoRows(
            f"{path} has no rows: the training has not ended a phase; expected one that has learned"
        )
    return record


def read_arms(paths: Sequence[Path]) -> list[ProbedArm]:
    """Read the runs with a probe, and sort those that differ in their seed alone into arms.

    Of several runs, those without a probe or without a row are left out and named in the notes, and so
    are repetitions of a run with the same seed: the one that got furthest counts.

    Raises:
        UserError: no run has a probe; a record is damaged.
    """
    arms: dict[str, dict[int, ProbedRun]] = {}
    places = find_probed(paths)
    without: list[str] = []
    left_out: Counter[str] = Counter()
    for run, path in places:
        if run is not None and len(places) > 1 and not path.is_file():
            without.append(str(run.folder))
            left_out["without a probe"] += 1
            continue
        try:
            found = read_run(run, path)
        except NoRows:
            if len(places) == 1:
                raise
            left_out["no rows yet"] += 1
            continue
        seeds = arms.setdefault(found.identity, {})
        other = seeds.get(found.seed)
        if other is not None:
            left_out["repeats another one with its seed"] += 1
        if other is None or found.record.timesteps[-1] > other.record.timesteps[-1]:
            seeds[found.seed] = found
    if not arms:
        told = f", such as {without[0]}" if without else ""
        raise UserError(
            f"runs {', '.join(map(str, paths))}: none of {len(places)} has a probe.npz"
            f"{' with rows' if left_out['no rows yet'] else ''}{told}; {HOW}"
        )
    notes = [f"{counted(count, 'run')} left out: {which}." for which, count in left_out.items()]
    sorted_runs = [sorted(seeds.values(), key=lambda run: run.seed) for seeds in arms.values()]
    found_arms = [ProbedArm(runs[0].arm, runs, list(notes)) for runs in sorted_runs]
    name_arms(found_arms)
    return found_arms


def name_arms(arms: Sequence[ProbedArm]) -> None:
    """Add to equal names of arms the settings that differ; files of one name get their paths."""
    names: dict[str, list[ProbedArm]] = {}
    for arm in arms:
        names.setdefault(arm.name, []).append(arm)
    for like in names.values():
        each = [arm.runs[0].settings for arm in like]
        differ = differences(each)
        for arm, mine in zip(like, each, strict=True):
            which = as_told(differ, mine)
            if len(like) > 1:
                arm.name = f"{arm.name} ({which})" if which else arm.runs[0].name
