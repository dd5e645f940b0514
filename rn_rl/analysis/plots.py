"""Plots of a report."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import matplotlib
import matplotlib.axes
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from rn_rl import statistics
from rn_rl.analysis.drawing import Palette, by_itself, legend, picture, styled, svg
from rn_rl.analysis.metrics import ArmMetrics
from rn_rl.analysis.summary import Summary, Task
from rn_rl.analysis.tables import Estimate

CURVES_HEIGHT = 4.2
"""Height of learning curves in inches, the largest picture of a page with gains of at most 12 layers."""


def steps_axis(axes: matplotlib.axes.Axes) -> None:
    """Format the x axis as timesteps: 20k, 1M."""
    axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    axes.set_xlabel("timesteps")


@styled
def learning_curves(task: Task, palette: Palette) -> str | None:
    """Plot the mean return of evaluations with its pointwise 95% interval over seeds."""
    figure = picture(width=8.6, height=CURVES_HEIGHT)
    axes = figure.subplots()
    if not curve_lines(axes, task, palette):
        return None
    legend(figure, axes)
    return svg(figure, f"learning curves of {task.name}")


def curve_lines(axes: matplotlib.axes.Axes, task: Task, palette: Palette) -> bool:
    """Draw the learning curves of a task; return False if no run has one.

    Each curve has a few markers, at other timesteps than its neighbours', so that curves which
    coincide can be told apart.
    """
    drawn = 0
    for place, (norm, arm) in enumerate(task.arms.items()):
        steps, rows = arm.curves
        if not len(steps):
            continue
        drawn += 1
        curve(axes, palette, norm, steps, rows.mean(0), arm.band, place / len(task.arms))
    if not drawn:
        return False
    bottom, top = axes.get_ylim()  # a distant threshold would compress the curves
    if task.scale.threshold is not None and bottom <= task.scale.threshold <= top:
        dotted_line(axes.axhline, task.scale.threshold)
    steps_axis(axes)
    axes.set_ylabel("return")
    return True


def curve(
    axes: matplotlib.axes.Axes,
    palette: Palette,
    norm: str,
    steps: np.ndarray,
    mean: np.ndarray,
    band: tuple[np.ndarray, np.ndarray],
    shift: float,
) -> None:
    """Draw a curve with its band, and with a few markers.

    Args:
        axes: the plot.
        palette: looks of the normalizers.
        norm: normalizer of the curve, which is its label.
        steps: timesteps, ``(points,)``.
        mean: the curve, ``(points,)``.
        band: lower and upper end of its band, ``(points,)`` each.
        shift: where the first marker is, between 0 and 1 of the distance of two markers; another one for
            each curve, so that curves which coincide can be told apart.
    """
    look = palette[norm]
    every = max(len(steps) // 5, 1)
    axes.plot(
        steps,
        mean,
        label=norm,
        marker=palette.marker(norm),
        markevery=(int(shift * every), every),
        markersize=2.4 * matplotlib.rcParams["lines.linewidth"],
        **look,
    )
    axes.fill_between(steps, *band, color=look["color"], alpha=0.16, linewidth=0)


def dotted_line(draw: Callable[..., Any], value: float) -> None:
    """Draw a thin dotted line by ``axes.axhline`` or ``axes.axvline``."""
    draw(value, color=matplotlib.rcParams["text.color"], linewidth=0.8, linestyle=(0, (2, 3)))


@styled
def intervals(
    rows: list[tuple[str, Estimate]],
    palette: Palette,
    label: str,
    title: str,
    middle: float | None = None,
) -> str:
    """Plot a point and its 95% interval for each normalizer.

    Args:
        rows: normalizers and their figures.
        palette: their colours.
        label: of the x axis.
        title: of the plot, for screen readers.
        middle: value at which a vertical line is drawn.
    """
    figure = picture(height=0.75 + 0.34 * len(rows))
    axes = figure.subplots()
    interval_lines(axes, rows, palette, label)
    if middle is not None:
        dotted_line(axes.axvline, middle)
    return svg(figure, title)


def interval_lines(
    axes: matplotlib.axes.Axes, rows: list[tuple[str, Estimate]], palette: Palette, label: str
) -> None:
    """Draw a point and its interval in each row; a diamond if a row has no colour of its own."""
    for place, (name, found) in enumerate(rows):
        color = palette[name]["color"]
        if np.isfinite([found.low, found.high]).all():
            axes.plot([found.low, found.high], [place, place], color=color, linewidth=5, alpha=0.45)
        if np.isfinite(found.value):
            axes.plot([found.value], [place], palette.marker(name), color=color, markersize=6)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(label)


@styled
def performance_profiles(summary: Summary, palette: Palette) -> str | None:
    """Plot the share of runs above each score, over all tasks, with pointwise 95% intervals."""
    figure = picture()
    axes = figure.subplots()
    if not profile_lines(axes, summary, palette):
        return None
    legend(figure, axes)
    return svg(figure, "performance profiles")


def profile_lines(axes: matplotlib.axes.Axes, summary: Summary, palette: Palette) -> bool:
    """Draw performance profiles; return False if no normalizer was run on every task with scores."""
    norms = summary.everywhere()
    if not norms:
        return False
    scores = {norm: [task.arms[norm].scores for task in summary.scored] for norm in norms}
    every = np.concatenate([task for tasks in scores.values() for task in tasks])
    low_end, high_end = min(every.min(), 0.0), max(every.max(), 1.0)
    thresholds = np.linspace(low_end, high_end + 0.02 * (high_end - low_end), 120)
    for norm, tasks in scores.items():
        share = statistics.performance_profile(*tasks, thresholds=thresholds)
        look = palette[norm]
        axes.step(thresholds, share, where="post", label=norm, **look)
        if min(len(task) for task in tasks) > 1:
            low, high = statistics.profile_bands(*tasks, thresholds=thresholds)
            axes.fill_between(
                thresholds, low, high, step="post", color=look["color"], alpha=0.15, linewidth=0
            )
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("score τ (0 random, 1 full)")
    axes.set_ylabel("share of runs with score > τ")
    return True


@styled
def gain_curves(task: Task, palette: Palette) -> str | None:
    """Plot the gain of each layer over time, mean and range over seeds.

    The gain of regularity normalizers is a code length in nats.
    """
    arms = {norm: arm for norm, arm in task.arms.items() if gains(arm) is not None}
    if not arms:
        return None
    layers = list(dict.fromkeys(n for arm in arms.values() for n in gain_layers(arm)))
    columns = min(len(layers), 4)
    lines = -(-len(layers) // columns)
    most = max(CURVES_HEIGHT - 0.1, 0.5 + 1.2 * lines)
    figure = picture(width=8.6, height=min(0.7 + 1.7 * lines, most))
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for place, (axes, layer) in enumerate(zip(grid, layers, strict=False)):
        for turn, (norm, arm) in enumerate(arms.items()):
            found = gains(arm)
            assert found is not None
            steps, values = found
            if layer not in gain_layers(arm):
                continue
            rows = values[:, :, gain_layers(arm).index(layer)]
            band = rows.min(0), rows.max(0)
            curve(axes, palette, norm, steps, rows.mean(0), band, turn / len(arms))
        axes.set_title(layer.replace(", ", "\n"), fontsize=9)
        steps_axis(axes)
        lowest = place + columns >= len(layers)
        axes.tick_params(labelbottom=lowest)
        axes.set_xlabel("timesteps" if lowest else "")
    for axes in grid[len(layers) :]:
        axes.set_visible(False)
    grid[0].set_ylabel("gain")
    legend(figure, *grid[: len(layers)])
    return svg(figure, f"gain per layer of {task.name}")


@styled
def training(
    estimates: list[tuple[str, Estimate]],
    curves: Mapping[str, np.ndarray],
    length: int,
    title: str,
    unit: str = "timesteps",
    measure: str = "mean return of the last 50 episodes",
) -> str:
    """Plot an interval for each arm and training curves of some arms, as a separate SVG file.

    Args:
        estimates: names of all arms and their figures.
        curves: mean return in equal parts of the run by arm, ``(runs, parts)``; NaN where
            no episode ended.
        length: length of a run.
        title: title of the plot, for screen readers.
        unit: unit of ``length``, timesteps or episodes.
        measure: what ``estimates`` are.
    """
    palette = Palette(list(curves))
    figure = picture(width=10.0, height=1.2 + 0.28 * max(len(estimates), 8))
    left, right = figure.subplots(1, 2, width_ratios=(2, 3))
    interval_lines(left, estimates, palette, f"{measure}, 95% interval")
    for name, rows in curves.items():
        parts = rows.shape[1]
        steps = (np.arange(parts) + 0.5) * length / parts
        full = np.isfinite(rows).all(0)  # leave out parts in which some run ended no episode
        if not full.any():
            continue
        look = palette[name]
        right.plot(steps[full], rows[:, full].mean(0), label=name, linewidth=1.8, **look)
        low, high = statistics.bands(rows[:, full])
        right.fill_between(steps[full], low, high, color=look["color"], alpha=0.15, linewidth=0)
    steps_axis(right)
    right.set_xlabel(unit)
    right.set_ylabel("mean training return")
    if right.lines:
        legend(figure, right)
    return by_itself(svg(figure, title))


def gain_layers(arm: ArmMetrics) -> list[str]:
    """Return the layers whose gain was recorded, numbered within their network: ``q_net, layer 1``."""
    counts: Counter[str] = Counter()
    names = []
    for layer in usual_layers(arm):
        network = layer.rpartition(".")[0]
        counts[network] += 1
        names.append(f"{network}, layer {counts[network]}")
    return names


def usual_layers(arm: ArmMetrics) -> list[str]:
    """Return the layers that most runs recorded."""
    lists = Counter(tuple(run.gains.layers) for run in arm.runs if run.gains is not None)
    return list(lists.most_common(1)[0][0]) if lists else []


def gains(arm: ArmMetrics) -> tuple[np.ndarray, np.ndarray] | None:
    """Return timesteps ``(points,)`` and gains ``(runs, points, layers)``; None without any."""
    recorded = [run.gains for run in arm.runs if run.gains is not None]
    recorded = [found for found in recorded if found.layers == usual_layers(arm)]
    if not recorded:
        return None
    shortest = min(recorded, key=lambda found: found.timesteps[-1])
    steps = shortest.timesteps
    rows = [
        np.stack([np.interp(steps, found.timesteps, layer) for layer in found.values.T], -1)
        for found in recorded
    ]
    return steps, np.stack(rows)
