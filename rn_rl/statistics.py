"""Statistics of many runs: averages, bootstrap intervals, comparisons of two methods.

Definitions are those of Agarwal et al., "Deep Reinforcement Learning at the Edge of the Statistical
Precipice" (NeurIPS 2021) and of their library rliable. A *task* is an environment (or data set) to train
on, a *run* is a training on it with one seed. Every statistic takes one array of scores for each task,
with runs along ``axis``; other axes may hold resamples, as in SciPy's vectorized bootstrap.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import stats

Statistic = Callable[..., np.ndarray]
"""``statistic(*tasks, axis=-1)``."""

EXPLORATORY = 10
"""Number of runs below which a comparison is called exploratory."""

RESAMPLES = 2000
"""Number of bootstrap resamples."""


def mean(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
    """Mean over tasks of the mean over runs."""
    return np.mean([task.mean(axis) for task in tasks], axis=0)


def interquartile_mean(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
    """IQM: mean of the middle half of all runs of all tasks (25% trimmed at both ends)."""
    return np.asarray(stats.trim_mean(np.concatenate(tasks, axis=axis), 0.25, axis=axis))


def optimality_gap(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
    """``1 - mean(min(score, 1))``: mean distance of scores below 1; scores above 1 count as 1."""
    return 1 - mean(*(np.minimum(task, 1) for task in tasks), axis=axis)


def spread(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
    """Run-to-run spread: standard deviation over runs (divided by n - 1), mean over tasks."""
    return np.mean([task.std(axis, ddof=1) for task in tasks], axis=0)


def probability_of_improvement(*tasks: np.ndarray, axis: int = -1) -> np.ndarray:
    """``P(X > Y) + P(X = Y) / 2`` for random runs of X and Y, mean over tasks.

    Args:
        tasks: scores of X on every task, then scores of Y on the same tasks.
        axis: axis of the runs.
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


def difference_of_interquartile_means(
    x: np.ndarray, y: np.ndarray, *, axis: int = -1
) -> np.ndarray:
    """``IQM(X) - IQM(Y)``, for :func:`interval`, which resamples the runs of X and of Y.

    Args:
        x: scores of one method.
        y: scores of the other on the same task.
        axis: axis of the runs.
    """
    return interquartile_mean(x, axis=axis) - interquartile_mean(y, axis=axis)


def performance_profile(*tasks: np.ndarray, thresholds: np.ndarray) -> np.ndarray:
    """Share of runs with a score above each threshold, mean over tasks: ``(len(thresholds),)``."""
    return np.mean([(task[:, None] > thresholds).mean(0) for task in tasks], axis=0)


def interval(
    statistic: Statistic,
    *tasks: np.ndarray,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> tuple[float, float]:
    """Stratified percentile bootstrap interval: runs are resampled within every task.

    Args:
        statistic: for example :func:`mean`, or any function of the same signature.
        tasks: scores, ``(runs,)`` for each task.
        level: confidence level.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.

    Returns:
        Lower and upper bound; ``(nan, nan)`` if a task has fewer than two runs.
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
    """Pointwise 95% bootstrap intervals of curves; whole runs are resampled.

    Args:
        values: ``(runs, points)``.
        statistic: statistic over the runs of one point.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.

    Returns:
        Lower and upper bounds, ``(points,)`` each; NaN for fewer than two runs.
    """
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
    """Pointwise 95% stratified bootstrap intervals of a performance profile.

    Args:
        tasks: scores, ``(runs,)`` for each task.
        thresholds: scores at which the profile is evaluated.
        resamples: number of bootstrap resamples.
        seed: seed of the resampling.

    Returns:
        Lower and upper bounds, ``(len(thresholds),)`` each.
    """
    rng = np.random.default_rng(seed)
    found = np.zeros((resamples, len(thresholds)))
    for task in tasks:
        drawn = np.sort(task[rng.integers(0, len(task), (resamples, len(task)))], -1)
        above = [len(task) - np.searchsorted(row, thresholds, side="right") for row in drawn]
        found += np.array(above) / len(task) / len(tasks)
    low, high = np.quantile(found, (0.025, 0.975), axis=0)
    return low, high


def p_value(x: np.ndarray, y: np.ndarray) -> float:
    """P value of the two-sided Mann-Whitney test of ``P(X > Y) = P(X < Y)``; 1 if all scores equal."""
    if np.ptp(np.concatenate([x, y])) == 0:
        return 1.0
    # by permutations for few runs, where the normal approximation is poor, above all with ties
    few = 2 <= min(len(x), len(y)) <= 8
    method: Any = stats.PermutationMethod(rng=np.random.default_rng(0)) if few else "auto"
    return float(stats.mannwhitneyu(x, y, alternative="two-sided", method=method).pvalue)


def difference_of_means(
    x: np.ndarray, y: np.ndarray, level: float = 0.9
) -> tuple[float, float, float]:
    """``mean(X) - mean(Y)`` and its interval by Welch's t; NaN bounds for fewer than two runs."""
    difference = float(np.mean(x) - np.mean(y))
    if min(len(x), len(y)) < 2:
        return difference, float("nan"), float("nan")
    if np.ptp(x) == np.ptp(y) == 0:
        return difference, difference, difference
    bounds: Any = welch(x, y).confidence_interval(level)
    return difference, float(bounds.low), float(bounds.high)


def welch(x: np.ndarray, y: np.ndarray, alternative: str = "two-sided") -> Any:
    """Welch's t test; SciPy doubts its precision if all scores of one method are equal, and is exact."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Precision loss", RuntimeWarning)
        return stats.ttest_ind(x, y, equal_var=False, alternative=alternative)


def paired_difference(
    x: np.ndarray, y: np.ndarray, level: float = 0.95
) -> tuple[float, float, float]:
    """Mean of ``x - y`` over pairs and its interval by Student's t; NaN bounds for fewer than two pairs.

    For runs that share a seed, hence data and initial weights: the differences between seeds cancel.

    Args:
        x: scores of one method, ``(pairs,)``.
        y: scores of the other on the same seeds.
        level: confidence level.
    """
    d = np.asarray(x, float) - np.asarray(y, float)
    difference = float(d.mean())
    if len(d) < 2:
        return difference, float("nan"), float("nan")
    if np.ptp(d) == 0:
        return difference, difference, difference
    bounds: Any = stats.ttest_1samp(d, 0).confidence_interval(level)
    return difference, float(bounds.low), float(bounds.high)


def equivalence_p(x: np.ndarray, y: np.ndarray, margin: float) -> float:
    """P value of two one-sided Welch tests (TOST) that ``|mean(X) - mean(Y)| < margin``.

    Below 0.05, the 90% interval of :func:`difference_of_means` lies within the margin.
    Source: Schuirmann, Journal of Pharmacokinetics and Biopharmaceutics 15:657, 1987.

    Args:
        x: scores of one method, ``(runs,)``.
        y: scores of the other.
        margin: difference that does not matter, in units of the scores, above 0.

    Returns:
        The larger p of the two tests; 1 for fewer than two runs. If no score differs from the others
        of its method, 0 or 1.
    """
    if min(len(x), len(y)) < 2:
        return 1.0
    if np.ptp(x) == np.ptp(y) == 0:
        return float(abs(x[0] - y[0]) >= margin)
    above = welch(x + margin, y, "greater").pvalue
    below = welch(x - margin, y, "less").pvalue
    return float(max(above, below))


def holm(p_values: Sequence[float]) -> list[float]:
    """P values corrected for multiple comparisons (Holm 1979), which bounds the family-wise error."""
    p = np.asarray(p_values, dtype=float)
    order = np.argsort(p)
    corrected = np.empty(len(p))
    corrected[order] = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    return np.minimum(corrected, 1).tolist()


def area_under_curve(timesteps: np.ndarray, returns: np.ndarray) -> float:
    """Mean height of a learning curve over its evaluated timesteps, by the trapezoidal rule."""
    if len(timesteps) < 2:
        return float(returns[0])
    return float(np.trapezoid(returns, timesteps) / (timesteps[-1] - timesteps[0]))


def area_within(timesteps: np.ndarray, returns: np.ndarray, first: float, last: float) -> float:
    """Mean height of a learning curve between two timesteps; NaN if it has none between them.

    At the two it is interpolated.
    """
    if not timesteps[0] <= first <= last <= timesteps[-1]:
        return float("nan")
    inside = timesteps[(timesteps > first) & (timesteps < last)]
    steps = np.unique([first, *inside, last])
    return area_under_curve(steps, np.interp(steps, timesteps, returns))


def steps_to_threshold(timesteps: np.ndarray, returns: np.ndarray, threshold: float) -> float:
    """Timestep of the first evaluation that reaches the threshold; infinity if none does."""
    reached = np.flatnonzero(returns >= threshold)
    return float(timesteps[reached[0]]) if len(reached) else float("inf")


def bootstrap_interval(values: np.ndarray, seed: int = 0) -> tuple[float, float]:
    """95% bootstrap interval of a mean, with 10,000 resamples; NaN for one value."""
    return interval(mean, np.asarray(values, dtype=float), resamples=10_000, seed=seed)
