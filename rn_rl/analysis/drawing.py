"""Style of all plots: SVG in the colours of the page, so that one plot serves light and dark mode."""

from __future__ import annotations

import contextlib
import functools
import html
import io
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib.resources import files
from typing import Any, ParamSpec, TypeVar

import matplotlib
import matplotlib.axes
import matplotlib.figure

P = ParamSpec("P")
R = TypeVar("R")

INK, GRID = "#010203", "#010204"
"""Placeholders for the page's colours of text and lines, which differ between light and dark mode."""

SERIES = [f"#0102{i:02x}" for i in range(0x10, 0x10 + 8)]
"""Placeholders for the colours of normalizers; after eight they repeat with another dash style."""

OKABE_ITO = (
    "#000000",
    "#0072b2",
    "#d55e00",
    "#009e73",
    "#cc79a7",
    "#e69f00",
    "#56b4e9",
    "#f0e442",
)
"""Colours that people with a colour vision deficiency can tell apart (Okabe and Ito, 2008).

The page has variants of them, lighter or darker where its background asks for that.
"""

DASHES: tuple[Any, ...] = ("solid", (0, (4, 1.5)), (0, (1, 1.2)), (0, (5, 1.5, 1, 1.5)))
"""Dash styles of matplotlib; neighbours in a legend always differ by their dashes."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
"""Marker of each colour."""

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
    "lines.linewidth": 1.8,
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
    """Colour, dash style and marker of each normalizer, the same in every plot of a report.

    The first eight normalizers have different colours. Those that are four apart have the same dashes,
    and two of different colours that a colour vision deficiency makes alike differ by them.

    Args:
        norms: normalizers, in the order in which they take colours.
        colors: the colours; default: placeholders, which a page defines for light and dark mode.
    """

    def __init__(self, norms: Sequence[str], colors: Sequence[str] = SERIES) -> None:
        self.looks = {norm: look(i, colors) for i, norm in enumerate(norms)}

    def __getitem__(self, norm: str) -> dict[str, Any]:
        """Return the colour and dashes of a line; others than the normalizers look like text."""
        found = self.looks.get(norm)
        if found is None:
            return {"color": matplotlib.rcParams["text.color"], "linestyle": "solid"}
        color, dash, _ = found
        return {"color": color, "linestyle": dash}

    def marker(self, norm: str) -> str:
        """Return the marker of a point; a diamond for others than the normalizers."""
        found = self.looks.get(norm)
        return "D" if found is None else found[2]

    def colors(self) -> dict[str, str]:
        """Return the page's colour of each normalizer."""
        return {norm: variable(color) for norm, (color, _, _) in self.looks.items()}


def look(place: int, colors: Sequence[str]) -> tuple[str, Any, str]:
    """Return the colour, dashes and marker of the normalizer at a place in the legend."""
    turn, color = divmod(place, len(colors))
    dash = DASHES[(color + turn) % len(DASHES)]
    return colors[color], dash, MARKERS[color % len(MARKERS)]


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


def page_css() -> str:
    """Return the CSS of a page: its colours and its layout."""
    folder = files("rn_rl") / "analysis" / "templates"
    return css() + (folder / "page.css").read_text("utf-8")


def by_itself(text: str) -> str:
    """Return an SVG for a separate file: the literal colours of light mode, on their background.

    Programs other than browsers, such as Inkscape, LibreOffice and LaTeX, do not know CSS variables, and
    draw nothing where one is named.
    """
    light = dict(re.findall(r"--(\w+): (#\w{6})", css().split("@media")[0]))
    text = re.sub(r"var\(--(\w+)\)", lambda found: light[found[1]], text)
    end = text.index(">") + 1
    page = f'<rect width="100%" height="100%" fill="{light["page"]}"/>'
    return f"{text[:end]}{page}{text[end:]}\n"


def variable(color: str) -> str:
    """Return the CSS variable of a placeholder colour."""
    names = {INK: "ink", GRID: "line", **{c: f"s{i}" for i, c in enumerate(SERIES)}}
    return f"var(--{names[color]})"


@contextlib.contextmanager
def style(*changes: Mapping[str, Any]) -> Iterator[None]:
    """Draw with matplotlib's defaults, :data:`STYLE`, and then these changes, in a block."""
    with matplotlib.rc_context(rc=matplotlib.rcParamsDefault):
        for each in (STYLE, *changes):
            matplotlib.rcParams.update(each)
        yield


def styled(draw: Callable[P, R]) -> Callable[P, R]:
    """Decorate a function to draw in the :func:`style` of a page."""

    @functools.wraps(draw)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        with style():
            return draw(*args, **kwargs)

    return wrapped


def legend(figure: matplotlib.figure.Figure, *axes: matplotlib.axes.Axes, columns: int = 5) -> None:
    """Add a legend above the plots, with each name once.

    Args:
        figure: the figure.
        axes: its plots.
        columns: most columns; there are fewer where the names are too long for the figure.
    """
    entries: dict[str, Any] = {}
    for each in axes:
        for handle, label in zip(*each.get_legend_handles_labels(), strict=True):
            entries.setdefault(label, handle)
    for count in range(min(len(entries), columns), 0, -1):
        made = figure.legend(
            list(entries.values()),
            list(entries),
            loc="outside upper left",
            ncols=count,
            handlelength=2.2,
            fontsize=matplotlib.rcParams["font.size"],
        )
        # a browser's font may be wider than the one that is measured here
        if count == 1 or made.get_window_extent().width < 0.93 * figure.bbox.width:
            return
        made.remove()
