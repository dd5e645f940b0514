"""The figures of an arm, that is of the runs of one normalizer on one task, with their intervals."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from scipy import stats

from rn_rl import statistics
from rn_rl.experiment.runs.records import RunRecord
from rn_rl.experiment.settings.shipped import shipped


@dataclass(frozen=True)
class Estimate:
    """A figure and its 95% interval, whose bounds are not numbers where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "-"
        if math.isnan(self.low) or math.isnan(self.high):
            return number(self.value)
        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}]"


def number(value: float) -> str:
    """As many digits as a return or a timestep needs."""
    if math.isinf(value):
        return "never"
    return f"{value:,.{decimals(value)}f}"


def decimals(value: float) -> int:
    """Digits after the point that a return or a timestep needs."""
    size = abs(value)
    return 0 if size >= 1000 else 1 if size >= 20 else 2


@dataclass
class Arm:
    """The runs of one normalizer on one task."""

    norm: str
    runs: list[RunRecord]
    scale: Scale
    last: np.ndarray
    """Return of the last policy of each run."""

    @cached_property
    def curves(self) -> tuple[np.ndarray, np.ndarray]:
        """Timesteps (of the run with the fewest evaluations), and the returns of all runs at them."""
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
        """Pointwise 95% interval of the mean curve."""
        return statistics.bands(self.curves[1])

    def filled(self, run: RunRecord) -> np.ndarray:
        """Returns of a run's evaluations, the worst of the task where one is not finite."""
        return np.where(np.isfinite(run.returns), run.returns, self.scale.worst)

    def complete(self, run: RunRecord) -> bool:
        """Whether a run was evaluated up to its end, so that its area covers what others' do."""
        every = run.spec.eval_freq or run.spec.timesteps
        return bool(len(run.timesteps)) and run.timesteps[-1] > run.spec.timesteps - every

    @property
    def unequal(self) -> bool:
        """Whether its runs were evaluated at different timesteps."""
        grids = {run.timesteps.tobytes() for run in self.runs if len(run.timesteps)}
        return len(grids) > 1

    @property
    def scores(self) -> np.ndarray:
        """Last returns on the scale of 0 (random) to 1."""
        return self.scale.score(self.last)

    @cached_property
    def areas(self) -> np.ndarray:
        """Area under the learning curve of each run; not a number where it has no whole curve."""
        return np.array(
            [
                statistics.area_under_curve(run.timesteps, self.filled(run))
                if self.complete(run)
                else math.nan
                for run in self.runs
            ]
        )

    @cached_property
    def steps(self) -> np.ndarray:
        """Timesteps to the threshold of each run, infinity if it was never reached.

        Not a number where there is no threshold, or no whole curve.
        """
        threshold = self.scale.threshold
        return np.array(
            [
                statistics.steps_to_threshold(run.timesteps, self.filled(run), threshold)
                if threshold is not None and self.complete(run)
                else math.nan
                for run in self.runs
            ]
        )

    @cached_property
    def figures(self) -> dict[str, Estimate]:
        """Every figure of the arm, by its name in :data:`METRICS`."""
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


METRICS = {
    "last return, IQM": "return of the last policy, interquartile mean over runs",
    "last return, mean": "return of the last policy, mean over runs",
    "area under curve, IQM": "area under the learning curve over its timesteps, interquartile mean",
    "steps to threshold, median": "timesteps to the first evaluation that reaches the threshold, median",
    "reached threshold": "share of runs with an evaluation at the threshold",
    "optimality gap": "how far scores (0 random, 1 full) fall short of 1, mean over runs",
    "spread of runs": "standard deviation of the last return over runs",
    "worst run": "lowest last return",
    "best run": "highest last return",
}


def estimate(statistic: statistics.Statistic, *tasks: np.ndarray) -> Estimate:
    """A statistic with its stratified bootstrap interval."""
    if any(len(task) == 0 or np.isnan(task).any() for task in tasks):
        return Estimate(math.nan)
    return Estimate(float(statistic(*tasks)), *statistics.interval(statistic, *tasks))


def median_steps(steps: np.ndarray) -> Estimate:
    """Median with the exact interval of order statistics, which knows no trouble with infinity."""
    if len(steps) == 0:
        return Estimate(math.nan)
    value = float(np.quantile(steps, 0.5, method="inverted_cdf"))
    if len(steps) < 2:
        return Estimate(value)
    order = np.arange(len(steps), dtype=float)  # ranks, since infinities have no differences
    found: Any = stats.quantile_test(order, p=0.5).confidence_interval(0.95)
    if not math.isfinite(found.low) or not math.isfinite(found.high):
        return Estimate(value)  # too few runs for any
    ranked = np.sort(steps)
    return Estimate(value, float(ranked[int(found.low)]), float(ranked[int(found.high)]))


@dataclass(frozen=True)
class Scale:
    """What returns of a task are worth."""

    random: float
    one: float
    threshold: float | None
    worst: float
    """Lowest return of all evaluations of all runs, or of a random policy: what NaN counts for."""
    known: bool
    """False where 0 and 1 are the lowest and highest return of this comparison."""

    def score(self, returns: np.ndarray) -> np.ndarray:
        """0 for a random policy, 1 for a full score."""
        width = self.one - self.random
        return (returns - self.random) / width if width else np.full_like(returns, math.nan)


def scale_of(env: str, runs: list[RunRecord], threshold: float | None) -> Scale:
    """The known scale of an environment; else lowest and highest last return, and no threshold."""
    last = np.array([run.last_return for run in runs])
    last = last[np.isfinite(last)]
    every = np.concatenate([last, *(run.returns[np.isfinite(run.returns)] for run in runs)])
    worst = float(every.min()) if len(every) else 0.0
    known = shipped("scores.yml").get(env)
    if known is None:
        low, high = (float(last.min()), float(last.max())) if len(last) else (0.0, 0.0)
        return Scale(low, high, threshold, worst, known=False)
    reached = known["threshold"] if threshold is None else threshold
    return Scale(known["random"], known["one"], reached, min(worst, known["random"]), known=True)
