"""Plots of a report: SVG in the colours of the page, so that one plot serves light and dark mode."""

from __future__ import annotations

import functools
import html
import io
import itertools
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from typing import Any, ParamSpec, TypeVar

import matplotlib
import matplotlib.axes
import matplotlib.figure
import matplotlib.ticker
import numpy as np

from rn_rl import statistics
from rn_rl.analysis.metrics import ArmMetrics, Estimate
from rn_rl.analysis.summary import Summary, Task

P = ParamSpec("P")
R = TypeVar("R")

INK, GRID = "#010203", "#010204"
"""Placeholders for the page's colours of text and lines, which differ between light and dark mode."""

SERIES = [f"#0102{i:02x}" for i in range(0x10, 0x10 + 10)]
"""Placeholders for the colours of normalizers; after ten they repeat with another dash style."""

DASHES = ["solid", "dashed", "dotted", "dashdot"]

STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "rn-rl",
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.6,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.major.size": 0,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


class Palette:
    """Colour and dash style of each normalizer, the same in every plot of a report.

    Args:
        norms: normalizers, in the order in which they take colours.
    """

    def __init__(self, norms: Sequence[str]) -> None:
        looks = itertools.product(DASHES, SERIES)
        self.looks = {norm: look for norm, look in zip(norms, looks, strict=False)}

    def __getitem__(self, norm: str) -> dict[str, Any]:
        dash, color = self.looks.get(
            norm, ("solid", INK)
        )  # others, such as references, in the colour of text
        return {"color": color, "linestyle": dash}

    def colors(self) -> dict[str, str]:
        """Return the page's colour of each normalizer."""
        return {norm: variable(color) for norm, (_, color) in self.looks.items()}


def picture(width: float = 5.6, height: float = 3.4) -> matplotlib.figure.Figure:
    """Return an empty figure; sizes in inches."""
    return matplotlib.figure.Figure(figsize=(width, height))


def svg(figure: matplotlib.figure.Figure, title: str) -> str:
    """Return a figure as SVG for a page; placeholder colours become CSS variables."""
    stream = io.StringIO()
    figure.savefig(stream, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = stream.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'(width|height)="[\d.]+pt" ', "", text, count=2)
    for color in (INK, GRID, *SERIES):
        text = text.replace(color, variable(color))
    # ids are unique within a page
    mark = re.sub(r"\W+", "-", title)
    text = re.sub(r'\bid="([^"]+)"', rf'id="{mark}-\1"', text)
    text = re.sub(r'href="#([^"]+)"', rf'href="#{mark}-\1"', text)
    text = re.sub(r"url\(#([^)]+)\)", rf"url(#{mark}-\1)", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{html.escape(title)}" ', 1)


def css() -> str:
    """Return the CSS that defines the page's colours in light and dark mode."""
    return (files("rn_rl") / "analysis" / "templates" / "colors.css").read_text("utf-8")


def by_itself(text: str) -> str:
    """Return an SVG with its own CSS, for a separate file."""
    style = "svg { background: var(--page) }"
    end = text.index(">") + 1
    return f"{text[:end]}<style>{css()}{style}</style>{text[end:]}\n"


def variable(color: str) -> str:
    """Return the CSS variable of a placeholder colour."""
    names = {INK: "ink", GRID: "line", **{c: f"s{i}" for i, c in enumerate(SERIES)}}
    return f"var(--{names[color]})"


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function to draw with :data:`STYLE` and matplotlib's defaults alone."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with matplotlib.rc_context(rc=matplotlib.rcParamsDefault):
            matplotlib.rcParams.update(STYLE)
            return draw(*args, **kwargs)

    return wrapped


def steps_axis(axes: matplotlib.axes.Axes) -> None:
    """Format the x axis as timesteps: 20k, 1M."""
    axes.xaxis.set_major_formatter(matplotlib.ticker.EngFormatter(sep=""))
    axes.set_xlabel("timesteps")


@styled
def learning_curves(task: Task, palette: Palette) -> str | None:
    """Plot the mean return of evaluations with its pointwise 95% interval over seeds."""
    figure = picture()
    axes = figure.subplots()
    drawn = False
    for norm, arm in task.arms.items():
        steps, rows = arm.curves
        if not len(steps):
            continue
        drawn = True
        look = palette[norm]
        marker = "o" if len(steps) == 1 else None
        axes.plot(steps, rows.mean(0), label=norm, linewidth=1.8, marker=marker, **look)
        low, high = arm.band
        axes.fill_between(steps, low, high, color=look["color"], alpha=0.18, linewidth=0)
    if not drawn:
        return None
    bottom, top = axes.get_ylim()  # a distant threshold would compress the curves
    if task.scale.threshold is not None and bottom <= task.scale.threshold <= top:
        axes.axhline(task.scale.threshold, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
    steps_axis(axes)
    axes.set_ylabel("return")
    legend(figure, axes)
    return svg(figure, f"learning curves of {task.name}")


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
        axes.axvline(middle, color=INK, linewidth=0.8, linestyle=(0, (2, 3)))
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
            marker = "o" if name in palette.looks else "D"
            axes.plot([found.value], [place], marker, color=color, markersize=6)
    axes.set_yticks(range(len(rows)), [name for name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(label)


@styled
def performance_profiles(summary: Summary, palette: Palette) -> str | None:
    """Plot the share of runs above each score, over all tasks, with pointwise 95% intervals."""
    norms = summary.everywhere()
    if not norms:
        return None
    scores = {norm: [task.arms[norm].scores for task in summary.scored] for norm in norms}
    every = np.concatenate([task for tasks in scores.values() for task in tasks])
    low_end, high_end = min(every.min(), 0.0), max(every.max(), 1.0)
    thresholds = np.linspace(low_end, high_end + 0.02 * (high_end - low_end), 120)
    figure = picture()
    axes = figure.subplots()
    for norm, tasks in scores.items():
        share = statistics.performance_profile(*tasks, thresholds=thresholds)
        look = palette[norm]
        axes.step(thresholds, share, where="post", label=norm, linewidth=1.8, **look)
        if min(len(task) for task in tasks) > 1:
            low, high = statistics.profile_bands(*tasks, thresholds=thresholds)
            axes.fill_between(
                thresholds, low, high, step="post", color=look["color"], alpha=0.15, linewidth=0
            )
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("score τ (0 random, 1 full)")
    axes.set_ylabel("share of runs with score > τ")
    legend(figure, axes)
    return svg(figure, "performance profiles")


@styled
def gain_curves(task: Task, palette: Palette) -> str | None:
    """Plot the gain of each layer over time, mean and range over seeds.

    The gain of regularity normalizers is a code length in nats.
    """
    arms = {norm: arm for norm, arm in task.arms.items() if gains(arm) is not None}
    if not arms:
        return None
    layers = list(dict.fromkeys(n for arm in arms.values() for n in gain_layers(arm)))
    columns = min(len(layers), 3)
    lines = -(-len(layers) // columns)
    figure = picture(width=7.0, height=0.5 + 2.2 * lines)
    grid = figure.subplots(lines, columns, sharex=True, sharey=True, squeeze=False).flatten()
    for axes, layer in zip(grid, layers, strict=False):
        for norm, arm in arms.items():
            found = gains(arm)
            assert found is not None
            steps, values = found
            if layer not in gain_layers(arm):
                continue
            rows = values[:, :, gain_layers(arm).index(layer)]
            look = palette[norm]
            axes.plot(steps, rows.mean(0), label=norm, linewidth=1.6, **look)
            axes.fill_between(
                steps, rows.min(0), rows.max(0), color=look["color"], alpha=0.15, linewidth=0
            )
        axes.set_title(layer.replace(", ", "\n"), fontsize=10)
        steps_axis(axes)
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


def legend(figure: matplotlib.figure.Figure, *axes: matplotlib.axes.Axes) -> None:
    """Add a legend above the plots, with each name once."""
    entries: dict[str, Any] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    figure.legend(
        list(entries.values()),
        list(entries),
        loc="outside upper left",
        ncols=min(len(entries), 5),
        handlelength=1.6,
        fontsize=10,
    )
