"""Statistics of many runs: what they have in common, how sure that is, and which of two is better.

Definitions are those of Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical
Precipice" (NeurIPS 2021) and of rliable, its library. A *task* is what is trained on, a *run* one
seed of it. Every statistic takes one array of runs a task; runs lie along ``axis``, which is how SciPy
asks for whole stacks of resamples at once, so one function serves figures and intervals.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

Statistic = Callable[..., np.ndarray]
"""``statistic(*tasks, axis=-1)``."""

EXPLORATORY = 10
"""With fewer runs than this a comparison is a hint and no result."""

RESAMPLES = 2000
"""Of a bootstrap."""


def mean(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean over tasks of the mean over runs."""
    return np.mean([task.mean(axis) for task in tasks], axis=0)


def interquartile_mean(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
    """IQM: mean of the middle half of all runs of all tasks (25% trimmed at both ends)."""
    return np.asarray(stats.trim_mean(np.concatenate(tasks, axis=axis), 0.25, axis=axis))


def optimality_gap(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
    """``1 - mean(min(score, 1))``: how far scores fall short of 1, what exceeds it being no gain."""
    return 1 - mean(*(np.minimum(task, 1) for task in tasks), axis=axis)


def spread(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
    """Run-to-run spread: standard deviation over runs (n - 1), mean over tasks."""
    return np.mean([task.std(axis, ddof=1) for task in tasks], axis=0)


def probability_of_improvement(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
    """``P(X > Y) + P(X = Y) / 2`` for random runs of X and Y, mean over tasks.

    Args:
        tasks: the runs of X on every task, then those of Y on every task.
        axis: along which runs lie.
    """
    half = len(tasks) // 2
    found = []
    for x, y in zip(tasks[:half], tasks[half:], strict=True):
        mine, theirs = (
            np.moveaxis(x, axis, -1)[..., :, None],
            np.moveaxis(y, axis, -1)[..., None, :],
        )
        found.append(((mine > theirs).mean((-2, -1)) + (mine >= theirs).mean((-2, -1))) / 2)
    return np.mean(found, axis=0)


def performance_profile(*tasks: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of runs that score above each threshold, mean over tasks: ``(len(thresholds),)``."""
    return np.mean([(task[:, None] > thresholds).mean(0) for task in tasks], axis=0)


def interval(
    statistic: Statistic,
    *tasks: np.ndarray,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Stratified percentile bootstrap: runs are drawn anew within every task. Seeded.

    Returns:
        Lower and upper bound. Where a task has one run there is no interval: ``(nan, nan)``.
    """
    if min(len(task) for task in tasks) < 2:
        return float("nan"), float("nan")
    if all(np.ptp(task) == 0 for task in tasks):  # every resample is the sample
        return float(statistic(*tasks)), float(statistic(*tasks))
    found = stats.bootstrap(
        tasks,
        statistic,
        n_resamples=resamples,
        batch=max(min(resamples, 2_000_000 // max(len(task) ** 2 for task in tasks)), 1),
        vectorized=True,
        axis=-1,
        confidence_level=level,
        method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval
    return float(found.low), float(found.high)


def bands(
    values: np.ndarray, statistic: Statistic = mean, resamples: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise 95% bootstrap intervals of curves ``(runs, points)``; whole runs are drawn anew."""
    runs, points = values.shape
    if runs < 2:
        return np.full(points, np.nan), np.full(points, np.nan)
    drawn = np.random.default_rng(seed).integers(0, runs, (resamples, runs))
    found = np.stack([statistic(values[drawn, point], axis=-1) for point in range(points)], -1)
    low, high = np.quantile(found, (0.025, 0.975), axis=0)
    return low, high


def profile_bands(
    *tasks: np.ndarray, thresholds: np.ndarray, resamples: int = 1000, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Pointwise 95% stratified bootstrap intervals of a performance profile."""
    rng = np.random.default_rng(seed)
    found = np.zeros((resamples, len(thresholds)))
    for task in tasks:
        drawn = np.sort(task[rng.integers(0, len(task), (resamples, len(task)))], -1)
        above = [len(task) - np.searchsorted(row, thresholds, side="right") for row in drawn]
        found += np.array(above) / len(task) / len(tasks)
    low, high = np.quantile(found, (0.025, 0.975), axis=0)
    return low, high


def p_value(x: np.ndarray, y: np.ndarray) -> float:
    """Two-sided Mann-Whitney test of ``P(X > Y) = P(X < Y)``; 1 where all runs are equal."""
    if np.ptp(np.concatenate([x, y])) == 0:
        return 1.0
    # by permutations where a normal distribution would be a poor stand-in, above all with ties
    few = 2 <= min(len(x), len(y)) <= 8
    method: Any = stats.PermutationMethod(rng=np.random.default_rng(0)) if few else "auto"
    return float(stats.mannwhitneyu(x, y, alternative="two-sided", method=method).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for how many there are (Holm 1979): the chance of one false alarm in all."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(corrected, 1).tolist()


def area_under_curve(timesteps: np.ndarray, returns: np.ndarray) -> float:
    """Mean height of a learning curve, by trapezia, over the timesteps that were evaluated."""
    if len(timesteps) < 2:
        return float(returns[0])
    return float(np.trapezoid(returns, timesteps) / (timesteps[-1] - timesteps[0]))


def steps_to_threshold(timesteps: np.ndarray, returns: np.ndarray, threshold: float) -> float:
    """Timesteps at the first evaluation that reaches the threshold; infinity if none does."""
    reached = np.flatnonzero(returns >= threshold)
    return float(timesteps[reached[0]]) if len(reached) else float("inf")


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95% bootstrap interval of a mean, of 10,000 resamples; of one value, the value itself."""
    if len(values) < 2:
        return float(np.mean(values)), float(np.mean(values))
    return interval(mean, np.asarray(values, dtype=float), resamples=10_000, seed=seed)
