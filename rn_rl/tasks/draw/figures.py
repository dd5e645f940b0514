"""Figures of ``draw``: the bound by epoch, samples, and a drawing in the making with its glimpses."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from rn_rl import statistics
from rn_rl.analysis.drawing import Palette, by_itself, legend, picture, styled, svg
from rn_rl.tasks.results import Results

READ_COLOR, WRITE_COLOR = "#d62728", "#2ca02c"


@styled
def curves(results: Results) -> str:
    """Draw the test bound by epoch for each arm."""
    setting, palette = results.settings[0], Palette(results.arms)
    figure = picture()
    axis = figure.subplots()
    for arm in results.arms:
        found = results.curve(arm, setting, "bound")
        x = np.arange(1, found.shape[1] + 1)
        axis.plot(x, found.mean(0), label=arm, **palette[arm])
        low, high = statistics.bands(found)
        axis.fill_between(x, low, high, color=palette[arm]["color"], alpha=0.15, linewidth=0)
    axis.set_xlabel("epoch")
    axis.set_ylabel("test bound, nats")
    legend(figure, axis)
    return by_itself(svg(figure, "DRAW: test bound by epoch"))


@styled
def samples(results: Results) -> str:
    """Draw a row of samples from the prior for each arm, of its first seed."""
    setting = results.settings[0]
    rows = [
        (arm, np.array(results.runs(arm, setting)[0].curves["samples"])) for arm in results.arms
    ]
    columns = len(rows[0][1])
    figure = picture(0.62 * columns + 0.9, 0.62 * len(rows) + 0.2)
    axes = figure.subplots(len(rows), columns, squeeze=False)
    for row, (arm, images) in zip(axes, rows, strict=True):
        for axis, image in zip(row, images, strict=True):
            show(axis, image)
        row[0].set_ylabel(arm, rotation=0, ha="right", va="center")
    return by_itself(svg(figure, "DRAW: samples"))


@styled
def drawings(results: Results) -> str:
    """Draw the canvases of test images step by step, with boxes where each arm reads and writes."""
    setting = results.settings[0]
    rows = []
    for arm in results.arms:
        run = results.runs(arm, setting)[0].curves
        images, canvases = np.array(run["images"]), np.array(run["canvases"])
        boxes = [np.array(run[name]) for name in ("read_boxes", "write_boxes")]
        for i, image in enumerate(images):
            rows.append(
                (arm if i == 0 else "", image, canvases[:, i], [box[:, i] for box in boxes])
            )
    steps = len(rows[0][2])
    figure = picture(0.9 * (steps + 1) + 0.9, 0.9 * len(rows) + 0.4)
    axes = figure.subplots(len(rows), steps + 1, squeeze=False)
    for row, (arm, image, canvases, (read, write)) in zip(axes, rows, strict=True):
        show(row[0], image)
        row[0].set_ylabel(arm, rotation=0, ha="right", va="center")
        for step, axis in enumerate(row[1:]):
            show(axis, canvases[step])
            outline(axis, read[step], READ_COLOR)
            outline(axis, write[step], WRITE_COLOR)
    axes[0, 0].set_title("image", fontsize=9)
    for step, axis in enumerate(axes[0, 1:], start=1):
        axis.set_title(f"step {step}", fontsize=9)
    figure.supxlabel(
        "canvas after each step; red: where it read, green: where it wrote", fontsize=9
    )
    return by_itself(svg(figure, "DRAW: glimpses"))


def show(axis: Axes, image: np.ndarray) -> None:
    """Show an image of 0 to 255 without ticks, ink dark on light."""
    axis.imshow(255 - image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
    axis.set(xticks=[], yticks=[])
    axis.grid(False)


def outline(axis: Axes, box: np.ndarray, color: str, points: int = 5) -> None:
    """Outline the grid of a glimpse, as far as it is in the image."""
    x, y, distance, _ = box
    half = distance * (points - 1) / 2
    axis.add_patch(
        Rectangle(
            (x - half, y - half), 2 * half, 2 * half, fill=False, edgecolor=color, linewidth=1
        )
    )
