"""Figures of ``handwriting``: nats by epoch, and lines that each arm writes."""

from __future__ import annotations

import numpy as np
from matplotlib.collections import LineCollection

from rn_rl.analysis.drawing import INK, by_itself, picture, styled, svg
from rn_rl.tasks.curves import curves_by_epoch
from rn_rl.tasks.handwriting.strokes import Stroke, strokes_of
from rn_rl.tasks.results import Results

WIDTH, HEIGHT = 4.0, 1.0
"""Size of a cell of the figure of lines."""


def curves(results: Results) -> str:
    """Draw the test nats per point by epoch for each arm."""
    return curves_by_epoch(
        results, "nats", "test nats per point", "Handwriting: test nats per point by epoch"
    )


@styled
def lines(results: Results, temperatures: tuple[float, ...]) -> str:
    """Draw true lines, then lines of each arm's first seed: a column for each temperature."""
    setting = results.settings[0]
    first = {arm: results.runs(arm, setting)[0].curves for arm in results.arms}
    true = np.array(next(iter(first.values()))["true"])
    rows = [("true lines", true[: len(temperatures)])]
    for arm, run in first.items():
        written = np.array(run["written"])  # (temperatures, lines, points, 3)
        rows += [("" if i else arm, written[:, i]) for i in range(written.shape[1])]
    figure = picture(2.6 * len(temperatures) + 0.8, 0.62 * len(rows) + 0.3)
    axis = figure.subplots()
    drawn = []
    for row, (_, sequences) in enumerate(rows):
        for column, sequence in enumerate(sequences):
            drawn += placed(strokes_of(sequence), column * WIDTH, -row * HEIGHT)
    axis.add_collection(LineCollection(drawn, colors=INK, linewidths=0.9, capstyle="round"))
    axis.set_xlim(-WIDTH / 2, (len(temperatures) - 0.5) * WIDTH)
    axis.set_ylim((0.5 - len(rows)) * HEIGHT, HEIGHT / 2)
    axis.set_aspect("equal")
    names = [f"temperature {temperature}" for temperature in temperatures]
    axis.set_xticks([i * WIDTH for i in range(len(names))], names)
    axis.set_yticks([-i * HEIGHT for i in range(len(rows))], [name for name, _ in rows])
    axis.xaxis.tick_top()
    axis.grid(False)
    axis.spines[:].set_visible(False)
    return by_itself(svg(figure, "Handwriting: lines that were written"))


def placed(strokes: list[Stroke], x: float, y: float) -> list[Stroke]:
    """Scale strokes to fit a cell of the figure, and move their middle to (x, y)."""
    points = np.concatenate(strokes)
    size = max(*(np.ptp(points, axis=0) / (0.94 * WIDTH, 0.88 * HEIGHT)), 1e-9)
    middle = (points.min(0) + points.max(0)) / 2
    return [(stroke - middle) / size + (x, y) for stroke in strokes]
