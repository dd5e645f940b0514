"""Style of all plots: SVG in the colours of the page, so that one plot serves light and dark mode."""

from __future__ import annotations

import functools
import html
import io
import itertools
import re
from collections.abc import Callable, Sequence
from importlib.resources import files
from typing import Any, ParamSpec, TypeVar

import matplotlib
import matplotlib.axes
import matplotlib.figure

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
