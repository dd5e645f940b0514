"""Stages of a training: change points that chance does not explain, and that recur over seeds.

A segmentation always finds segments: in the residual code length of a network that learns undisturbed,
as many as in its loss. So each candidate is tested against series without a change point.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from rn_rl.errors import UserError

WINDOW = 20
"""Rows on each side of a change that are compared, if the series is long enough."""

LEAST_WINDOW = 6
"""Smallest window; a series of fewer than ``8 * LEAST_WINDOW`` rows is too short to tell."""

LEVEL = 0.05
"""Probability that a training without any change gets a stage."""

RESAMPLES = 200
"""Number of series without a change that are drawn."""


@dataclass(frozen=True)
class Stage:
    """Change point of one training.

    Attributes:
        row: first row after the change.
        columns: numbers of the columns in which it was found.
        size: largest jump in units of its standard error.
    """

    row: int
    columns: tuple[int, ...]
    size: float


@dataclass(frozen=True)
class RecurringStage:
    """Change point that most seeds share.

    Attributes:
        position: median position, as a share of the training.
        seeds: number of seeds that have it.
        of: number of seeds.
    """

    position: float
    seeds: int
    of: int


def window_of(rows: int) -> int | None:
    """Return the rows on each side of a change that are compared; None if a series is too short."""
    window = min(WINDOW, rows // 8)
    return window if window >= LEAST_WINDOW else None


def find_stages(series: np.ndarray, seed: int = 0, resamples: int = RESAMPLES) -> list[Stage]:
    """Find abrupt changes of one or several series of one training.

    1. Candidates are the change points of ruptures' PELT with squared cost (Killick et al., 2012), and
       a penalty from the noise of first differences.
    2. At each, lines are fitted to the windows before and after it; the statistic is the jump between
       the two lines there, in units of its standard error. A slow drift has no jump.
    3. Null: the series minus its running median over four windows, resampled in blocks of two windows,
       all series alike. A candidate is kept if its statistic exceeds the 95% quantile of the largest
       statistic of such a set of series.

    Args:
        series: ``(rows,)`` or ``(rows, columns)``. Rows with NaN are left out; constant columns too.
        seed: seed of the resampling.
        resamples: number of sets of series that are drawn.

    Returns:
        Stages, by row; changes of several columns within a window are one. None of a series that is too
        short, see :func:`window_of`.

    Raises:
        UserError: the series are not an array of one or two axes.
    """
    table = np.asarray(series, dtype=float)
    if table.ndim not in (1, 2):
        raise UserError(f"series of shape {table.shape}: expected (rows,) or (rows, columns)")
    table = table[:, None] if table.ndim == 1 else table
    if window_of(len(table)) is None:
        return []
    # a layer that appears late or stays constant has no common rows with the others
    usable = [
        c
        for c in range(table.shape[1])
        if np.isfinite(table[:, c]).mean() > 0.9 and np.nanstd(table[:, c]) > 1e-9
    ]
    rows = np.flatnonzero(np.isfinite(table[:, usable]).all(1))
    window = window_of(len(rows))
    if not usable or window is None:
        return []
    values = table[rows][:, usable].T
    size = np.abs(jumps(values, window))
    limit = null_quantile(values, window, seed, resamples)
    found: list[tuple[float, int, int]] = []
    for column, line in enumerate(values):
        for candidate in candidates(line, window):
            near = slice(max(candidate - window // 2, 0), candidate + window // 2 + 1)
            row = near.start + int(np.argmax(size[column, near]))
            if size[column, row] > limit:
                found.append((float(size[column, row]), row, column))
    stages: list[Stage] = []
    for value, row, column in sorted(found, reverse=True):
        same = next(
            (s for s in stages if abs(s.row - rows[row]) <= rows_within(rows, row, window)), None
        )
        if same is None:
            stages.append(Stage(int(rows[row]), (usable[column],), value))
        elif usable[column] not in same.columns:
            stages[stages.index(same)] = Stage(same.row, (*same.columns, usable[column]), same.size)
    return sorted(stages, key=lambda stage: stage.row)


def rows_within(rows: np.ndarray, row: int, window: int) -> int:
    """Return the window in rows of the whole series, of which some were left out."""
    last = min(row + window, len(rows) - 1)
    return int(max(rows[last] - rows[row], window))


def candidates(line: np.ndarray, window: int) -> list[int]:
    """Return the change points of PELT with squared cost and the penalty ``2 s^2 log(rows)``.

    s is the standard deviation of the noise, from the median absolute first difference.
    """
    import ruptures

    noise = noise_of(line)
    spread = max(noise, 1e-6 * float(np.std(line)), 1e-12)
    model = ruptures.KernelCPD(kernel="linear", min_size=max(window // 4, 2))
    found = model.fit(line[:, None] / spread).predict(pen=2 * np.log(len(line)))
    return [int(row) for row in found[:-1]]


def noise_of(line: np.ndarray) -> float:
    """Standard deviation of white noise with the median absolute first difference of a series."""
    return float(np.median(np.abs(np.diff(line))) / 0.6745 / np.sqrt(2))


def jumps(values: np.ndarray, window: int) -> np.ndarray:
    """Jump at each row between lines fitted before and after it, in units of its standard error.

    Args:
        values: ``(columns, rows)``.
        window: rows on each side.

    Returns:
        ``(columns, rows)``; 0 where a window does not fit.
    """
    columns, rows = values.shape
    left, left_rest = line_fits(values, window)
    right, right_rest = line_fits(values[:, ::-1], window)
    # fits[k] is of the window that begins at row k, read towards the change
    result = np.zeros((columns, rows))
    at = np.arange(window, rows - window + 1)
    jump = right[:, rows - window - at] - left[:, at - window]
    squares = right_rest[:, rows - window - at] + left_rest[:, at - window]
    noise = np.array([noise_of(line) for line in values])
    variance = np.maximum(squares / (2 * window - 4), (0.3 * noise[:, None]) ** 2)
    edge = 2 * end_variance(window)
    result[:, at[at < rows]] = (jump / np.sqrt(np.maximum(variance * edge, 1e-24)))[:, at < rows]
    return result


def end_variance(window: int) -> float:
    """Variance of a fitted line half a row beyond its window, for noise of variance 1."""
    t = np.arange(window) - (window - 1) / 2
    return float(1 / window + (window / 2) ** 2 / (t**2).sum())


def line_fits(values: np.ndarray, window: int) -> tuple[np.ndarray, np.ndarray]:
    """Fit a line to each window of each row: its value half a row after the window, and the rest.

    Returns:
        Two arrays ``(columns, rows - window + 1)``, for the window that begins at each row: the value of
        the line, and the sum of squares about it.
    """
    t = np.arange(window) - (window - 1) / 2
    centred = values - values.mean(1, keepdims=True)
    view = np.lib.stride_tricks.sliding_window_view(centred, window, axis=1)
    mean = view.mean(2)
    slope = view @ t / (t**2).sum()
    rest = np.einsum("crw,crw->cr", view, view) - window * mean**2 - slope**2 * (t**2).sum()
    return mean + slope * window / 2 + values.mean(1, keepdims=True), np.maximum(rest, 0)


def null_quantile(values: np.ndarray, window: int, seed: int, resamples: int) -> float:
    """Return the 95% quantile of the largest statistic of series without a change.

    Args:
        values: ``(columns, rows)``.
        window: rows on each side of a change.
        seed: seed of the resampling.
        resamples: number of sets of series.
    """
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    rows = values.shape[1]
    smooth = ndimage.median_filter(values, size=(1, min(4 * window + 1, rows)), mode="nearest")
    rest = values - smooth
    length = min(2 * window, rows)
    blocks = -(-rows // length)
    largest = np.empty(resamples)
    for i in range(resamples):
        starts = rng.integers(0, rows - length + 1, blocks)
        order = (starts[:, None] + np.arange(length)).reshape(-1)[:rows]
        largest[i] = np.abs(jumps(rest[:, order], window)).max()
    return float(np.quantile(largest, 1 - LEVEL))


def recurring(
    positions: Sequence[Sequence[float]], share: float = 0.5, within: float = 0.05
) -> list[RecurringStage]:
    """Find the stages that more than a share of the seeds have at about the same place.

    Args:
        positions: positions of the stages of each seed, as shares of the training in [0, 1].
        share: share of the seeds that must be exceeded.
        within: largest distance from the common position, as a share of the training.
    """
    left = [sorted(each) for each in positions]
    found: list[RecurringStage] = []
    while True:
        best: tuple[int, list[float], float] = (0, [], 0.0)
        for centre in sorted({p for each in left for p in each}):
            near = [
                min(close, key=lambda p, c=centre: abs(p - c))  # type: ignore[misc]
                for each in left
                if (close := [p for p in each if abs(p - centre) <= within])
            ]
            if len(near) > best[0]:
                best = (len(near), near, centre)
        count, near, centre = best
        if not count or count <= share * len(positions):
            return sorted(found, key=lambda stage: stage.position)
        found.append(RecurringStage(float(np.median(near)), count, len(positions)))
        left = [[p for p in each if abs(p - centre) > within] for each in left]
