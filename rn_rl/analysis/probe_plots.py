"""Plots of probes: figures in the colours of a page, and files for a paper."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from rn_rl.analysis import drawing, paper, plots
from rn_rl.analysis.probes import BLOCKS, ProbedArm, blocks, is_of_normalizer, is_online_layer
from rn_rl.errors import UserError

MOST_LINES = 12
"""Layers that one plot shows; more would not be told apart."""

MOST_RECURRENT = 4
"""Recurrent layers that are drawn by time step."""

STEPS = (0, 1, 2, 4, 8, 16, 31)
"""Time steps of a recurrent layer that are drawn."""

Line = tuple[str, np.ndarray, np.ndarray]
"""Name, timesteps ``(points,)`` and values ``(runs, points)``."""


@dataclass(frozen=True)
class Canvas:
    """Size and colours of figures: those of a page, or of a paper."""

    width: float
    """Width of a figure in inches."""
    panel: float
    """Height of a panel in inches."""
    colors: Sequence[str]
    """Colours of lines."""

    def picture(self, rows: int, names: Sequence[str]) -> Figure:
        """Return a figure with room for so many rows of panels, and for a legend of these names."""
        lines = -(-len(names) // paper.legend_columns(names, self.width)) if names else 0
        points = matplotlib.rcParams["font.size"]
        return drawing.picture(self.width, self.panel * rows + points * (0.022 * lines + 0.04))

    def palette(self, names: Sequence[str]) -> drawing.Palette:
        """Return the looks of lines."""
        return drawing.Palette(names, self.colors)


PAGE = Canvas(7.2, 2.3, drawing.SERIES)
"""Figures of a page, whose CSS defines their colours."""

PAPER = {name: Canvas(width, 1.45, drawing.OKABE_ITO) for name, width in paper.WIDTHS.items()}
"""Figures of a paper, in literal colours, by the name of their width."""


def lines(axes: Axes, drawn: Sequence[Line], palette: drawing.Palette) -> None:
    """Draw the mean over runs of each line, and the range of the runs."""
    for name, steps, rows in drawn:
        known = np.isfinite(rows).all(0)
        if not known.any():
            continue
        look = palette[name]
        marker = "o" if known.sum() == 1 else None
        # matplotlib leaves labels out of legends that begin with _
        label = f" {name}" if name.startswith("_") else name
        axes.plot(steps[known], rows[:, known].mean(0), label=label, marker=marker, **look)
        if len(rows) > 1:
            low, high = rows[:, known].min(0), rows[:, known].max(0)
            axes.fill_between(steps[known], low, high, color=look["color"], alpha=0.12, linewidth=0)


def stage_lines(axes: Axes, arm: ProbedArm, *, of_return: bool = False) -> None:
    """Draw a vertical line at each stage that most seeds share."""
    for stage in arm.return_stages if of_return else arm.stages:
        plots.dotted_line(axes.axvline, stage.position * arm.length)


def curves_of(arm: ProbedArm, measure: str, columns: Iterable[str]) -> list[Line]:
    """Return the lines of a measure for some columns."""
    return [(name, *arm.curve(measure, name)) for name in columns]


def residuals(arm: ProbedArm, canvas: Canvas) -> Figure | None:
    """Code length and residual of each online layer, and the return, on one axis of timesteps."""
    layers = online_layers(arm)[:MOST_LINES]
    if not layers:
        return None
    returned = [blocks(r.return_steps, r.returns, arm.length, 4 * BLOCKS) for r in arm.runs]
    found = np.stack([values for _, values in returned])
    panels = 3 if np.isfinite(found).any() else 2
    palette = canvas.palette(layers)
    figure = canvas.picture(panels, [*layers, "stationary data"])
    top, middle, *bottom = figure.subplots(panels, 1, sharex=True)
    lines(top, curves_of(arm, "code", layers), palette)
    steps, code = arm.curve("code", layers[0])
    expected = code[0] - arm.curve("residual", layers[0])[1][0]
    ink = matplotlib.rcParams["text.color"]
    look = {"color": ink, "linewidth": 0.9, "linestyle": (0, (2, 3))}
    top.plot(steps, expected, label="stationary data", **look)
    top.set_ylabel("code length, nats")
    lines(middle, curves_of(arm, "residual", layers), palette)
    stage_lines(middle, arm)
    middle.set_ylabel("residual, nats")
    for axes in bottom:
        lines(axes, [("return", returned[0][0], found)], palette)
        stage_lines(axes, arm, of_return=True)
        axes.set_ylabel("return")
    plots.steps_axis([middle, *bottom][-1])
    legend(figure, top)
    return figure


def layer_differences(arm: ProbedArm, canvas: Canvas) -> Figure | None:
    """Residual of each layer minus that of the layer before it in the same sequence of layers."""
    drawn = []
    for before, after in layer_pairs(arm)[:MOST_LINES]:
        steps, one = arm.curve("residual", after)
        _, other = arm.curve("residual", before)
        drawn.append((f"{after} - {before.rpartition('.')[2]}", steps, one - other))
    return plain(drawn, "difference of residuals, nats", canvas)


def online_minus_target(arm: ProbedArm, canvas: Canvas) -> Figure | None:
    """Code length of each layer of the online network minus that of its target network."""
    drawn = []
    for name, target in target_pairs(arm)[:MOST_LINES]:
        steps, one = arm.curve("code", name)
        _, other = arm.curve("code", target)
        drawn.append((name, steps, one - other))
    return plain(drawn, "online minus target, nats", canvas)


def online_layers(arm: ProbedArm) -> list[str]:
    """Columns of online networks without time step, without the inputs of normalizers."""
    return [name for name in arm.layers if is_online_layer(name, arm.columns)]


def layer_pairs(arm: ProbedArm) -> list[tuple[str, str]]:
    """Return neighbours in a sequence of layers: those that are numbered within one module.

    Layers with names of their own, such as ``action_net`` and ``value_net``, follow no other for certain.
    """
    layers = [name for name in online_layers(arm) if not is_of_normalizer(name, arm.columns)]
    split = [(name, *name.rpartition(".")[::2]) for name in layers]
    return [
        (one, other)
        for (one, part, first), (other, same, second) in itertools.pairwise(split)
        if part == same and first.isdecimal() and second.isdecimal() and int(first) < int(second)
    ]


def target_pairs(arm: ProbedArm) -> list[tuple[str, str]]:
    """Return the layers whose network has a target network, and the columns of the latter."""
    found = []
    for name in online_layers(arm):
        network, dot, layer = name.partition(".")
        target = f"{network}_target.{layer}"
        if dot and target in arm.layers:
            found.append((name, target))
    return found


def differences(arm: ProbedArm, canvas: Canvas) -> Figure | None:
    """First and second differences of the code length between a fiftieth of the training."""
    layers = online_layers(arm)[:MOST_LINES]
    if not layers:
        return None
    palette = canvas.palette(layers)
    figure = canvas.picture(2, layers)
    grid = figure.subplots(2, 1, sharex=True)
    for order, axes in enumerate(grid, start=1):
        drawn = []
        for name, steps, rows in curves_of(arm, "code", layers):
            stride = max(len(steps) // 50, 1)
            fewer = np.diff(rows[:, ::stride], order)
            drawn.append((name, steps[::stride][order:], fewer))
        lines(axes, drawn, palette)
        axes.set_ylabel(f"{('first', 'second')[order - 1]} difference, nats")
    plots.steps_axis(grid[-1])
    legend(figure, grid[0])
    return figure


def time_steps(arm: ProbedArm, canvas: Canvas) -> Figure | None:
    """Code length and residual of each recurrent layer by time step."""
    if not arm.recurrent:
        return None
    steps = [f"step {t}" for t in STEPS]
    palette = canvas.palette(steps)
    layers = list(arm.recurrent)[:MOST_RECURRENT]
    figure = canvas.picture(len(layers), steps)
    grid = figure.subplots(len(layers), 2, sharex=True, squeeze=False)
    for row, layer in zip(grid, layers, strict=True):
        named = [(f"step {t}", f"{layer}@{t}") for t in STEPS if f"{layer}@{t}" in arm.columns]
        for axes, (measure, label) in zip(row, BY_STEP.items(), strict=True):
            drawn = [(step, *arm.curve(measure, column)) for step, column in named]
            lines(axes, drawn, palette)
            axes.set_title(layer, fontsize=matplotlib.rcParams["font.size"])
            axes.set_ylabel(label)
    for axes in grid[-1]:
        plots.steps_axis(axes)
    legend(figure, *grid.flatten())
    return figure


BY_STEP = {"code": "code length, nats", "residual": "residual, nats"}
"""Measures that are drawn by time step, and the labels of their axes."""

PANELS = {
    "shift": "shift of the mean, sd",
    "ratio": "ratio of variances",
    "dead": "share of dead units",
    "dormant": "share of dormant units",
    "rank": "effective rank",
    "step": "relative step of weights",
    "churn": "churn",
    "gain": "gain",
}
"""Measures that are plotted side by side, and the labels of their axes."""


def measures(arm: ProbedArm, canvas: Canvas) -> Figure | None:
    """All other measures of the online layers."""
    layers = online_layers(arm)[:MOST_LINES]
    named = [(name, label) for name, label in PANELS.items() if arm.has(name)]
    if not named or not layers:
        return None
    palette = canvas.palette(layers)
    rows = -(-len(named) // 2)
    figure = canvas.picture(rows, layers)
    grid = figure.subplots(rows, 2, sharex=True, squeeze=False).flatten()
    for i, (axes, (name, label)) in enumerate(zip(grid, named, strict=False)):
        lines(axes, curves_of(arm, name, layers), palette)
        axes.set_ylabel(label)
        if i + 2 >= len(named):  # the last one of its column
            axes.tick_params(labelbottom=True)
            plots.steps_axis(axes)
    for axes in grid[len(named) :]:
        axes.set_visible(False)
    legend(figure, *grid[: len(named)])
    return figure


def plain(drawn: list[Line], label: str, canvas: Canvas) -> Figure | None:
    """Plot lines with a line at 0; None if there are none."""
    if not drawn:
        return None
    names = [name for name, _, _ in drawn]
    palette = canvas.palette(names)
    figure = canvas.picture(1, names)
    axes = figure.subplots()
    lines(axes, drawn, palette)
    axes.axhline(0, color=matplotlib.rcParams["text.color"], linewidth=0.8)
    axes.set_ylabel(label)
    plots.steps_axis(axes)
    legend(figure, axes)
    return figure


def legend(figure: Figure, *axes: Axes) -> None:
    """Add a legend, if there is a line with a name."""
    if any(each.get_legend_handles_labels()[0] for each in axes):
        drawing.legend(figure, *axes)


def left_out(arm: ProbedArm, name: str) -> str:
    """Return a sentence that says how many lines a plot of :data:`FIGURES` leaves out; "" if none."""
    recurrent = [column for columns in arm.recurrent.values() for column in columns]
    counts = {
        "layers": (len(layer_pairs(arm)), MOST_LINES, "pairs"),
        "target": (len(target_pairs(arm)), MOST_LINES, "layers"),
        "steps": (len(arm.recurrent), MOST_RECURRENT, "recurrent layers"),
    }
    count, most, what = counts.get(name, (len(online_layers(arm)), MOST_LINES, "layers"))
    told = f" The first {most} of {count} {what} are drawn." if count > most else ""
    if name == "steps" and len(recurrent) > len(STEPS) * len(arm.recurrent):
        told += (
            f" Steps {', '.join(map(str, STEPS))} are drawn; the table and the CSV file have all."
        )
    return told


FIGURES: dict[str, tuple[Callable[[ProbedArm, Canvas], Figure | None], str]] = {
    "residual": (
        residuals,
        "Code length of each layer with that of stationary data (dotted), its residual, and the return; "
        "mean and range over seeds. Vertical lines are stages that most seeds share.",
    ),
    "layers": (
        layer_differences,
        "Residual of each layer minus that of the layer before it, of those numbered in a sequence.",
    ),
    "target": (online_minus_target, "Code length of the online network minus its target network."),
    "differences": (
        differences,
        "First and second differences of the code length, over a fiftieth of the training.",
    ),
    "steps": (time_steps, "Code length and residual of recurrent layers by time step."),
    "measures": (
        measures,
        "Shift m of the mean in standard deviations of the history and ratio v of the variances, of "
        "which the residual is a summary; and what it does not show.",
    ),
}
"""Each plot of an arm, and its caption."""


@drawing.styled
def page_figure(name: str, arm: ProbedArm) -> str | None:
    """Return a plot of :data:`FIGURES` as SVG for a page; None if there is nothing to plot."""
    draw, _ = FIGURES[name]
    figure = draw(arm, PAGE)
    return None if figure is None else drawing.svg(figure, f"{name} of {arm.name}")


def write_figures(name: str, arm: ProbedArm, stem: Path, formats: Sequence[str]) -> list[Path]:
    """Write a plot as files as wide as one and two columns, like those of ``rn-rl report --figures``.

    Args:
        name: key of :data:`FIGURES`.
        arm: what is plotted.
        stem: path of the files without width and suffix.
        formats: suffixes.

    Returns:
        The files; none if there is nothing to plot.
    """
    draw, _ = FIGURES[name]
    written = []
    for width, canvas in PAPER.items():
        with drawing.style(paper.STYLE):
            figure = draw(arm, canvas)
            if figure is None:
                return []
            paper.fix_layout(figure)
            for suffix in formats:
                written.append(Path(f"{stem}-{width}.{suffix}"))
                paper.save(figure, written[-1])
    return written


def check_formats(text: str) -> list[str]:
    """Return the formats of ``--figures``, a list with commas.

    Raises:
        UserError: a format is unknown.
    """
    found = [part.strip() for part in text.split(",") if part.strip()]
    for each in found:
        if each not in paper.FORMATS:
            raise UserError(f"--figures {text}: expected some of {','.join(paper.FORMATS)}")
    return found
