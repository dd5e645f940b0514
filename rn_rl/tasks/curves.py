"""Figure of a curve by epoch, which several tasks have."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from rn_rl import statistics
from rn_rl.analysis.drawing import Palette, by_itself, legend, picture, styled, svg
from rn_rl.tasks.results import Results


@styled
def curves_by_epoch(
    results: Results, curve: str, label: str, title: str, *, logarithmic: bool = False
) -> str:
    """Draw a curve of each arm by epoch on the first setting: mean over seeds, and its 95% interval.

    Args:
        results: the runs.
        curve: key of the curve in :attr:`.Result.curves`.
        label: label of the vertical axis.
        title: title of the figure, for screen readers.
        logarithmic: draw the vertical axis so.
    """
    setting, palette = results.settings[0], Palette(results.arms)
    figure = picture()
    axis = figure.subplots()
    for arm in results.arms:
        found = results.curve(arm, setting, curve)
        x = np.arange(1, found.shape[1] + 1)
        axis.plot(x, found.mean(0), label=arm, **palette[arm])
        low, high = statistics.bands(found)
        axis.fill_between(x, low, high, color=palette[arm]["color"], alpha=0.15, linewidth=0)
    axis.set_xlabel("epoch")
    axis.set_ylabel(label)
    if logarithmic:
        make_logarithmic(axis)
    legend(figure, axis)
    return by_itself(svg(figure, title))


def make_logarithmic(axis: Any) -> None:
    """Give an axis a logarithmic scale with plain numbers: 10, 20, 50, 100."""
    axis.set_yscale("log")
    axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axis.yaxis.set_minor_formatter(NullFormatter())
