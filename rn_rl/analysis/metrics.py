"""Figures of an arm (the runs of one normalizer on one task), with their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from rn_rl import statistics
from rn_rl.analysis.tables import Estimate
from rn_rl.experiment.runs.records import RunRecord
from rn_rl.experiment.settings.shipped import shipped


@dataclass
class ArmMetrics:
    """Runs of one normalizer on one task, and their figures."""

    norm: str
    """Normalizer."""
    runs: list[RunRecord]
    """Runs, by seed."""
    scale: Scale
    """Scale of the task."""
    last: np.ndarray
    """Return of the last policy of each run, ``(runs,)``."""
    span: tuple[float, float]
    """First and last timestep of the areas, those that the complete curves of all arms have in common."""

    @cached_property
    def curves(self) -> tuple[np.ndarray, np.ndarray]:
        """Timesteps ``(points,)`` and the returns of all runs at them ``(runs, points)``.

        The timesteps are those of the run with the fewest evaluations; others are interpolated.
        """
        curves = [run for run in self.runs if len(run.timesteps)]
        if not curves:
            return np.empty(0), np.empty((0, 0))
        common = min((run.timesteps for run in curves), key=len)
        first = max(run.timesteps[0] for run in curves)
        end = min(run.timesteps[-1] for run in curves)
        common = common[(common >= first) & (common <= end)]
        if not len(common):
            common = np.array([end])
        rows = [np.interp(common, run.timesteps, self.filled(run)) for run in curves]
        return common, np.stack(rows)

    @cached_property
    def band(self) -> tuple[np.ndarray, np.ndarray]:
        """Pointwise 95% interval of the mean curve: two arrays ``(points,)``."""
        return statistics.bands(self.curves[1])

    def filled(self, run: RunRecord) -> np.ndarray:
        """Return the returns of a run's evaluations; the task's worst replaces those not finite."""
        return np.where(np.isfinite(run.returns), run.returns, self.scale.worst)

    @property
    def grids(self) -> set[tuple[float, ...]]:
        """Timesteps of the runs' evaluations, each once."""
        return {tuple(run.timesteps) for run in self.runs if len(run.timesteps)}

    @property
    def scores(self) -> np.ndarray:
        """Last returns on the scale of 0 (random) to 1 (full), ``(runs,)``."""
        return self.scale.score(self.last)

    @cached_property
    def areas(self) -> np.ndarray:
        """Area under the learning curve of each run over :attr:`span`, ``(runs,)``.

        NaN where the curve is incomplete.
        """
        return np.array(
            [
                statistics.area_within(run.timesteps, self.filled(run), *self.span)
                if is_complete(run)
                else math.nan
                for run in self.runs
            ]
        )

    @cached_property
    def steps(self) -> np.ndarray:
        """Timesteps to the threshold of each run, ``(runs,)``; infinity if it was never reached.

        NaN where there is no threshold, or the curve is incomplete.
        """
        threshold = self.scale.threshold
        return np.array(
            [
                statistics.steps_to_threshold(run.timesteps, self.filled(run), threshold)
                if threshold is not None and is_complete(run)
                else math.nan
                for run in self.runs
            ]
        )

    @cached_property
    def figures(self) -> dict[str, Estimate]:
        """All figures of the arm, by their names in :data:`METRICS`."""
        areas, steps = (values[~np.isnan(values)] for values in (self.areas, self.steps))
        found = {
            "last return, IQM": estimate(statistics.interquartile_mean, self.last),
            "last return, mean": estimate(statistics.mean, self.last),
            "area under curve, IQM": estimate(statistics.interquartile_mean, areas),
            "steps to threshold, median": median_steps(steps),
            "reached threshold": estimate(statistics.mean, np.isfinite(steps).astype(float)),
            "optimality gap": estimate(statistics.optimality_gap, self.scores),
            "spread of runs": estimate(statistics.spread, self.last)
            if len(self.last) > 1
            else Estimate(math.nan),
            "worst run": Estimate(float(self.last.min())),
            "best run": Estimate(float(self.last.max())),
        }
        return found


def is_complete(run: RunRecord) -> bool:
    """Return True if a run was evaluated from its beginning to its end, so that it has an area."""
    every = run.spec.eval_freq or run.trained
    steps = run.timesteps
    return bool(len(steps)) and steps[0] < 2 * every and steps[-1] > run.trained - every


def common_span(runs: list[RunRecord]) -> tuple[float, float]:
    """Return the first and the last timestep that all complete curves have in common."""
    curves = [run.timesteps for run in runs if is_complete(run)]
    first = max((float(steps[0]) for steps in curves), default=math.nan)
    return first, min((float(steps[-1]) for steps in curves), default=math.nan)


METRICS = {
    "last return, IQM": "return of the last policy, interquartile mean over runs",
    "last return, mean": "return of the last policy, mean over runs",
    "area under curve, IQM": "mean height of the learning curve over the timesteps that the curves of "
    "all arms have in common, interquartile mean",
    "steps to threshold, median": "timesteps to the first evaluation that reaches the threshold, median",
    "reached threshold": "share of runs with an evaluation at the threshold",
    "optimality gap": "how far scores (0 random, 1 full) fall short of 1, mean over runs",
    "spread of runs": "standard deviation of the last return over runs",
    "worst run": "lowest last return",
    "best run": "highest last return",
}


def estimate(statistic: statistics.Statistic, *tasks: np.ndarray) -> Estimate:
    """Return a statistic with its stratified bootstrap interval; NaN if there are no values."""
    if any(len(task) == 0 or np.isnan(task).any() for task in tasks):
        return Estimate(math.nan)
    return Estimate(float(statistic(*tasks)), *statistics.interval(statistic, *tasks))


def median_steps(steps: np.ndarray) -> Estimate:
    """Return the median with the exact interval of order statistics; values may be infinite."""
    if len(steps) == 0:
        return Estimate(math.nan)
    value = float(np.quantile(steps, 0.5, method="inverted_cdf"))
    if len(steps) < 2:
        return Estimate(value)
    order = np.arange(len(steps), dtype=float)  # ranks, since differences of infinities are NaN
    found: Any = stats.quantile_test(order, p=0.5).confidence_interval(0.95)
    if not math.isfinite(found.low) or not math.isfinite(found.high):
        return Estimate(value)  # too few runs for an interval
    ranked = np.sort(steps)
    return Estimate(value, float(ranked[int(found.low)]), float(ranked[int(found.high)]))


@dataclass(frozen=True)
class Scale:
    """Scale of the returns of a task."""

    random: float
    """Return of a random policy: score 0."""
    one: float
    """Return of a full score: 1."""
    threshold: float | None
    """Return that counts as learned."""
    worst: float
    """Lowest return of all evaluations and of a random policy; replaces NaN."""
    known: bool
    """False if 0 and 1 are the lowest and highest return of this comparison."""

    def score(self, returns: np.ndarray) -> np.ndarray:
        """Return scores: 0 for a random policy, 1 for a full score; NaN if the scale has no width."""
        width = self.one - self.random
        return (returns - self.random) / width if width else np.full_like(returns, math.nan)


def scale_of(runs: list[RunRecord], threshold: float | None) -> Scale:
    """Return the known scale of the runs' environment; else that of the lowest and highest last return.

    Arguments of an environment may change its returns, so with them its scale is not known.
    """
    last = np.array([run.last_return for run in runs])
    last = last[np.isfinite(last)]
    every = np.concatenate([last, *(run.returns[np.isfinite(run.returns)] for run in runs)])
    worst = float(every.min()) if len(every) else 0.0
    spec = runs[0].spec
    changed = spec.hyperparameters.get("env_kwargs")
    known = None if changed else shipped("scores.yml").get(spec.env)
    if known is None:
        low, high = (float(last.min()), float(last.max())) if len(last) else (0.0, 0.0)
        return Scale(low, high, threshold, worst, known=False)
    reached = known["threshold"] if threshold is None else threshold
    return Scale(known["random"], known["one"], reached, min(worst, known["random"]), known=True)
