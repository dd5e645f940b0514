"""Figures of a report for a paper: PDF, SVG or PNG in literal colours, as wide as one or two columns."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib.axes
import matplotlib.figure
import numpy as np

from rn_rl.analysis import drawing, plots
from rn_rl.analysis.comparison import ENDPOINTS, Comparison
from rn_rl.analysis.summary import Summary, Task
from rn_rl.analysis.tables import counted
from rn_rl.errors import UserError, unknown
from rn_rl.experiment.runs.io import atomic_write

FORMATS = ("pdf", "svg", "png")
"""File formats of the figures."""

WIDTHS = {"single": 3.25, "double": 6.75}
"""Widths of one and of two columns of a page, in inches."""

SMALLEST = 7.0
"""Size of the smallest text in a figure, in points."""

STYLE: Any = {
    "font.size": 7.5,
    "axes.labelsize": 7.5,
    "axes.titlesize": 8,
    "xtick.labelsize": SMALLEST,
    "ytick.labelsize": SMALLEST,
    "text.color": "#000000",
    "axes.labelcolor": "#000000",
    "xtick.color": "#000000",
    "ytick.color": "#000000",
    "axes.edgecolor": "#808080",
    "grid.color": "#dddddd",
    "grid.linewidth": 0.4,
    "axes.linewidth": 0.6,
    "lines.linewidth": 1.2,
    "legend.columnspacing": 1.2,
    "legend.borderaxespad": 0.1,
    "pdf.fonttype": 42,  # TrueType, embedded: conferences refuse Type 3
    "svg.fonttype": "path",  # no fonts are needed to show the file
    "savefig.dpi": 300,
}
"""Changes to the style of a page: black text of a paper's size, and fonts within the file."""


@dataclass(frozen=True)
class PaperFigure:
    """Figure of a paper: its file name, caption, and the function that draws it at a width."""

    name: str
    """File name without width and suffix."""
    caption: str
    """Caption, plain text."""
    draw: Callable[[float], matplotlib.figure.Figure]
    """Draw the figure as wide as so many inches."""
    column: str
    """Width at which a document shows it, a key of :data:`WIDTHS`."""


def parse_formats(text: str | None, *, tex: bool) -> list[str]:
    """Return the formats of ``--figures``; ``--tex`` adds ``pdf``, which LaTeX includes.

    Raises:
        UserError: there is no such format.
    """
    given = [part.strip().lower() for part in (text or "").split(",")]
    found = [part for part in given if part]
    if text is not None and not found:
        raise UserError(f"--figures {text!r}: expected one or more of {', '.join(FORMATS)}")
    for part in found:
        if part not in FORMATS:
            raise unknown("format of --figures", part, FORMATS)
    return list(dict.fromkeys([*found, *(["pdf"] if tex else [])]))


def write_paper_figures(
    summary: Summary, folder: Path, formats: Sequence[str]
) -> list[PaperFigure]:
    """Write every figure in every format and at both widths, as ``<name>-<width>.<format>``.

    Args:
        summary: content of the report.
        folder: where the files are written.
        formats: some of :data:`FORMATS`.

    Returns:
        The figures that were written.
    """
    found = paper_figures(summary)
    for figure in found:
        for name, width in WIDTHS.items():
            with drawing.style(STYLE):
                drawn = laid_out(figure, width)
                for suffix in formats:
                    save(drawn, folder / f"{figure.name}-{name}.{suffix}")
    return found


def laid_out(figure: PaperFigure, width: float) -> matplotlib.figure.Figure:
    """Draw a figure and fix its layout."""
    drawn = figure.draw(width)
    fix_layout(drawn)
    return drawn


def fix_layout(figure: matplotlib.figure.Figure) -> None:
    """Fix the layout of a figure, which would change a little with every file."""
    figure.draw_without_rendering()
    figure.set_layout_engine("none")


def save(figure: matplotlib.figure.Figure, path: Path) -> None:
    """Save a figure; the same figure gives the same bytes, since no date is stored."""
    metadata = {".pdf": {"CreationDate": None}, ".svg": {"Date": None}}.get(path.suffix)
    with atomic_write(path) as temporary:
        figure.savefig(temporary, metadata=metadata)


def paper_figures(summary: Summary) -> list[PaperFigure]:
    """Return the figures of a report: curves, last returns, comparisons, performance profiles."""
    palette = drawing.Palette(summary.norms, drawing.OKABE_ITO)
    tasks, several = summary.tasks, len(summary.tasks) > 1
    curved = [task for task in tasks if any(len(arm.curves[0]) for arm in task.arms.values())]
    found = []
    if curved:
        about = "Mean return of evaluations during training; bands are pointwise 95% intervals"
        about += f" over seeds ({seeds(curved)})."
        found.append(
            PaperFigure(
                "curves",
                about,
                lambda width: curves(curved, palette, width),
                "double" if several else "single",
            )
        )
    found.append(
        PaperFigure(
            "returns",
            "Return of the last policy: interquartile mean and 95% bootstrap interval over seeds "
            f"({seeds(tasks)}).",
            lambda width: returns(tasks, palette, width),
            "double" if several else "single",
        )
    )
    if summary.comparisons:
        count = counted(len(summary.comparisons), "comparison")
        about = f"Probability that a run is better than a run of {summary.baseline}, by the "
        about += (
            f"{ENDPOINTS[summary.endpoint]}, and its 95% bootstrap interval. Filled: better or "
        )
        about += f"worse by a Mann-Whitney test, p below 0.05 after Holm's correction for {count}. "
        about += "Open: cannot tell, or equivalent."
        found.append(
            PaperFigure(
                "forest",
                about,
                lambda width: forest(summary, palette, width),
                "single" if len(summary.comparisons) <= 20 else "double",
            )
        )
    if summary.everywhere():
        found.append(
            PaperFigure(
                "profiles",
                "Performance profiles: share of runs with a score above τ (0: random policy, 1: full "
                f"score), mean over {counted(len(summary.scored), 'task')}, with 95% bootstrap bands.",
                lambda width: profiles(summary, palette, width),
                "single",
            )
        )
    if len(curved) > 1:
        for task, name in zip(curved, slugs(curved), strict=True):
            found.append(one_task(task, name, palette))
    return found


def one_task(task: Task, name: str, palette: drawing.Palette) -> PaperFigure:
    """Return the figure of the learning curves of one task."""
    about = (
        f"Mean return of evaluations of {task.name}; bands are pointwise 95% intervals over seeds"
    )
    return PaperFigure(
        f"curves-{name}",
        f"{about} ({seeds([task])}).",
        lambda width: curves([task], palette, width),
        "single",
    )


def seeds(tasks: Sequence[Task]) -> str:
    """Return the number of seeds of an arm as text: ``8 to 10 seeds of each normalizer``."""
    counts = [len(arm.runs) for task in tasks for arm in task.arms.values()]
    least, most = min(counts), max(counts)
    each = counted(most, "seed")
    return f"{each if least == most else f'{least} to {each}'} of each normalizer"


def slugs(tasks: Sequence[Task]) -> list[str]:
    """Return a distinct file name for each task."""
    names = [re.sub(r"[^\w.]+", "-", task.name).strip("-") for task in tasks]
    return [
        name if names.count(name) == 1 else f"{name}-{names[: i + 1].count(name)}"
        for i, name in enumerate(names)
    ]


def curves(
    tasks: Sequence[Task], palette: drawing.Palette, width: float
) -> matplotlib.figure.Figure:
    """Draw the learning curves of tasks, one panel each."""
    norms = list(dict.fromkeys(norm for task in tasks for norm in task.arms))
    figure, grid = panels(len(tasks), width, 1.9, norms)
    for axes, task in zip(grid, tasks, strict=True):
        plots.curve_lines(axes, task, palette)
        title(axes, task, tasks)
    drawing.legend(figure, *grid, columns=legend_columns(norms, width))
    return figure


def returns(
    tasks: Sequence[Task], palette: drawing.Palette, width: float
) -> matplotlib.figure.Figure:
    """Draw the returns of last policies with their intervals, one panel for each task."""
    height = 0.6 + 0.16 * max(len(task.arms) for task in tasks)
    figure, grid = panels(len(tasks), width, height, [])
    for axes, task in zip(grid, tasks, strict=True):
        rows = [(norm, arm.figures["last return, IQM"]) for norm, arm in task.arms.items()]
        plots.interval_lines(axes, rows, palette, "return, IQM")
        title(axes, task, tasks)
    return figure


def profiles(summary: Summary, palette: drawing.Palette, width: float) -> matplotlib.figure.Figure:
    """Draw the performance profiles over all tasks."""
    norms = summary.everywhere()
    figure, [axes] = panels(1, width, 2.0, norms)
    plots.profile_lines(axes, summary, palette)
    drawing.legend(figure, axes, columns=legend_columns(norms, width))
    return figure


def forest(summary: Summary, palette: drawing.Palette, width: float) -> matplotlib.figure.Figure:
    """Draw the probability of improvement of all comparisons, grouped by task.

    At the width of two columns the tasks are spread over two panels.
    """
    groups = [
        (task.name, [each for each in summary.comparisons if each.task == task.name])
        for task in summary.tasks
    ]
    groups = [(name, found) for name, found in groups if found]
    wide = width > WIDTHS["single"] and len(groups) > 1
    halves = list(split(groups)) if wide else [groups]
    lines = max(sum(len(found) + 1 for _, found in half) for half in halves)
    figure = drawing.picture(width, 0.55 + 0.155 * lines)
    grid = figure.subplots(1, len(halves), sharex=True, squeeze=False)[0]
    for axes, half in zip(grid, halves, strict=True):
        forest_lines(axes, half, palette)
        axes.set_ylim(lines - 0.5, -0.7)
        axes.set_xlabel(f"P(better than {summary.baseline})")
    return figure


def split(
    groups: Sequence[tuple[str, list[Comparison]]],
) -> Iterator[list[tuple[str, list[Comparison]]]]:
    """Yield two parts of about as many lines each."""
    sizes = np.cumsum([len(found) + 1 for _, found in groups])
    middle = int(np.argmin(np.abs(sizes[:-1] - sizes[-1] / 2))) + 1
    yield list(groups[:middle])
    yield list(groups[middle:])


def forest_lines(
    axes: matplotlib.axes.Axes,
    groups: Sequence[tuple[str, list[Comparison]]],
    palette: drawing.Palette,
) -> None:
    """Draw one line for each comparison below the name of its task."""
    labels: list[tuple[int, str, bool]] = []
    place = 0
    for task, found in groups:
        labels.append((place, task, True))
        place += 1
        for each in found:
            color = palette[each.norm]["color"]
            low, high = each.improvement.low, each.improvement.high
            if np.isfinite([low, high]).all():
                axes.plot([low, high], [place, place], color=color)
            filled = each.verdict in ("better", "worse")
            axes.plot(
                [each.improvement.value],
                [place],
                palette.marker(each.norm),
                color=color,
                markerfacecolor=color if filled else "#ffffff",
                markersize=4,
            )
            labels.append((place, each.norm, False))
            place += 1
    plots.dotted_line(axes.axvline, 0.5)
    axes.set_xlim(-0.03, 1.03)
    axes.set_yticks([where for where, *_ in labels], [text for _, text, _ in labels])
    for text, (_, _, head) in zip(axes.get_yticklabels(), labels, strict=True):
        text.set_fontweight("bold" if head else "normal")
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)


def panels(
    count: int, width: float, height: float, norms: Sequence[str]
) -> tuple[matplotlib.figure.Figure, list[matplotlib.axes.Axes]]:
    """Return a figure and its panels: one beside another at the width of two columns, else stacked.

    Args:
        count: number of panels.
        width: width of the figure in inches.
        height: height of a panel in inches.
        norms: names of the legend, for which room is made.
    """
    columns = min(count, 3) if width > WIDTHS["single"] else 1
    lines = -(-count // columns)
    room = 0.15 * -(-len(norms) // legend_columns(norms, width)) if norms else 0
    figure = drawing.picture(width, height * lines + room)
    grid = figure.subplots(lines, columns, squeeze=False).flatten()
    for axes in grid[count:]:
        axes.set_visible(False)
    return figure, list(grid[:count])


def legend_columns(norms: Sequence[str], width: float) -> int:
    """Return how many columns of a legend fit into a width in inches."""
    longest = max(map(len, norms))
    return min(max(int(width / (0.5 + 0.062 * longest)), 1), len(norms))


def title(axes: matplotlib.axes.Axes, task: Task, tasks: Sequence[Task]) -> None:
    """Give a panel the name of its task, if there are several; the caption names a single one."""
    if len(tasks) > 1:
        axes.set_title(task.name.replace(" (", "\n("))
