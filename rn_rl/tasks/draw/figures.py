"""Figures of ``draw``: the bound by epoch, samples, and a drawing in the making with its glimpses."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from rn_rl.analysis.drawing import by_itself, picture, styled, svg
from rn_rl.tasks.curves import curves_by_epoch
from rn_rl.tasks.results import Results

READ_COLOR, WRITE_COLOR = "#d62728", "#2ca02c"


def curves(results: Results) -> str:
    """Draw the test bound by epoch for each arm."""
    title = "DRAW: test bound by epoch"
    return curves_by_epoch(results, "bound", "test bound, nats", title, logarithmic=True)


@styled
def samples(results: Results) -> str:
    """Draw a row of samples from the prior for each arm, of its first seed."""
    setting = results.settings[0]
    rows = [np.array(results.runs(arm, setting)[0].curves["samples"]) for arm in results.arms]
    figure = picture(0.62 * len(rows[0]) + 0.9, 0.62 * len(rows) + 0.2)
    axis = figure.subplots()
    mosaic(axis, rows)
    label(axis, results.arms, [], rows[0].shape[-1])
    return by_itself(svg(figure, "DRAW: samples"))


@styled
def drawings(results: Results) -> str:
    """Draw the canvases of test images step by step, with boxes where each arm reads and writes."""
    setting = results.settings[0]
    names, rows, boxes = [], [], []
    for arm in results.arms:
        run = {name: np.array(v) for name, v in results.runs(arm, setting)[0].curves.items()}
        for i, image in enumerate(run["images"]):
            names.append("" if i else arm)
            rows.append(np.concatenate([image[None], run["canvases"][:, i]]))
            boxes.append((run["read_boxes"][:, i], run["write_boxes"][:, i]))
    steps, size = len(rows[0]) - 1, rows[0].shape[-1]
    figure = picture(0.9 * (steps + 1) + 0.9, 0.9 * len(rows) + 0.6)
    axis = figure.subplots()
    mosaic(axis, rows)
    for row, (read, write) in enumerate(boxes):
        for step in range(steps):
            corner = ((step + 1) * (size + 1), row * (size + 1))
            outline(axis, read[step], corner, size, READ_COLOR)
            outline(axis, write[step], corner, size, WRITE_COLOR)
    label(axis, names, ["image", *(f"step {step + 1}" for step in range(steps))], size)
    axis.set_xlabel("canvas after each step; red: where it read, green: where it wrote", fontsize=9)
    return by_itself(svg(figure, "DRAW: glimpses"))


def mosaic(axis: Axes, rows: Sequence[np.ndarray]) -> None:
    """Show rows of images of 0 to 255, ``(columns, size, size)`` each, ink dark on light.

    A line of one pixel parts them. One picture draws much faster than a plot for each image.
    """
    padded = [np.pad(255 - row, ((0, 0), (0, 1), (0, 1)), constant_values=200) for row in rows]
    whole = np.concatenate([np.concatenate(list(row), axis=1) for row in padded])
    axis.imshow(whole, cmap="gray", vmin=0, vmax=255, interpolation="nearest")


def label(axis: Axes, rows: Sequence[str], columns: Sequence[str], size: int) -> None:
    """Name the rows and columns of a mosaic, and remove the grid."""
    axis.set_yticks([(size + 1) * i + size / 2 for i in range(len(rows))], rows)
    axis.set_xticks([(size + 1) * i + size / 2 for i in range(len(columns))], columns, fontsize=9)
    axis.xaxis.tick_top()
    axis.grid(False)
    axis.spines[:].set_visible(False)


def outline(
    axis: Axes, box: np.ndarray, corner: tuple[int, int], size: int, color: str, points: int = 5
) -> None:
    """Outline the grid of a glimpse, as far as it is in the image whose upper left corner is given."""
    half = box[2] * (points - 1) / 2
    low, high = (np.clip(box[:2] + sign * half, 0, size - 1) for sign in (-1, 1))
    axis.add_patch(
        Rectangle(tuple(corner + low), *(high - low), fill=False, edgecolor=color, linewidth=1)
    )
