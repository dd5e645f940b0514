"""Figures of ``handwriting``: nats by epoch, and lines that each arm writes."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes

from rn_rl import statistics
from rn_rl.analysis.drawing import INK, Palette, by_itself, legend, picture, styled, svg
from rn_rl.tasks.handwriting.strokes import strokes_of
from rn_rl.tasks.results import Results


@styled
def curves(results: Results) -> str:
    """Draw the test nats per point by epoch for each arm."""
    setting, palette = results.settings[0], Palette(results.arms)
    figure = picture()
    axis = figure.subplots()
    for arm in results.arms:
        found = results.curve(arm, setting, "nats")
        x = np.arange(1, found.shape[1] + 1)
        axis.plot(x, found.mean(0), label=arm, **palette[arm])
        low, high = statistics.bands(found)
        axis.fill_between(x, low, high, color=palette[arm]["color"], alpha=0.15, linewidth=0)
    axis.set_xlabel("epoch")
    axis.set_ylabel("test nats per point")
    legend(figure, axis)
    return by_itself(svg(figure, "Handwriting: test nats per point by epoch"))


@styled
def lines(results: Results, temperatures: tuple[float, ...]) -> str:
    """Draw true lines, then lines of each arm's first seed: a column for each temperature."""
    setting = results.settings[0]
    first = {arm: results.runs(arm, setting)[0].curves for arm in results.arms}
    true = np.array(next(iter(first.values()))["true"])
    rows = [("true lines", true[: len(temperatures)])]
    for arm, run in first.items():
        written = np.array(run["written"])  # (temperatures, lines, points, 3)
        rows += [(arm if i == 0 else "", written[:, i]) for i in range(written.shape[1])]
    figure = picture(2.6 * len(temperatures) + 0.8, 0.62 * len(rows) + 0.3)
    axes = figure.subplots(len(rows), len(temperatures), squeeze=False)
    for row, (name, sequences) in zip(axes, rows, strict=True):
        for axis, sequence in zip(row, sequences, strict=False):
            draw(axis, sequence)
        row[0].set_ylabel(name, rotation=0, ha="right", va="center")
    for axis, temperature in zip(axes[1], temperatures, strict=True):
        axis.set_title(f"temperature {temperature}", fontsize=9)
    return by_itself(svg(figure, "Handwriting: lines that were written"))


def draw(axis: Axes, sequence: np.ndarray) -> None:
    """Draw the strokes of a sequence, without ticks, both axes to the same scale."""
    for stroke in strokes_of(sequence):
        axis.plot(*stroke.T, color=INK, linewidth=0.9, solid_capstyle="round")
    axis.set_aspect("equal", adjustable="datalim")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)
    axis.spines[:].set_visible(False)
