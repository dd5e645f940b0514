"""Figures and finding of the recurrent task."""

from __future__ import annotations

import numpy as np
from matplotlib.ticker import MaxNLocator

from rn_rl import statistics
from rn_rl.analysis.drawing import Palette, by_itself, legend, picture, styled, svg
from rn_rl.tasks.curves import make_logarithmic
from rn_rl.tasks.results import Results
from rn_rl.tasks.wording import joined, versus


def figures(results: Results) -> dict[str, str]:
    """Draw the error by epoch with the gain beneath it, and the gain of each time step."""
    return {"": by_epoch(results), "gain": by_step(results)}


@styled
def by_epoch(results: Results) -> str:
    """Plot test error and mean gain over epochs, a column for each setting, with 95% bands."""
    palette = Palette(results.arms)
    count = len(results.settings)
    figure = picture(2.0 + 4.6 * count, 6.0)
    panels = figure.subplots(2, count, sharex=True, sharey="row", squeeze=False)
    for column, setting in enumerate(results.settings):
        for arm in results.arms:
            if not results.runs(arm, setting):
                continue
            gains = results.curve(arm, setting, "gain").mean(2)
            for row, values in enumerate((results.curve(arm, setting, "error"), gains)):
                if not np.isfinite(values).all():  # rn-paper has no gain of its own
                    continue
                axes, look = panels[row][column], palette[arm]
                epochs = np.arange(1, values.shape[1] + 1)
                axes.plot(epochs, values.mean(0), label=arm, linewidth=1.6, **look)
                low, high = statistics.bands(values)
                axes.fill_between(epochs, low, high, color=look["color"], alpha=0.12, linewidth=0)
        panels[0][column].set_title(setting, fontsize=10)
        panels[1][column].set_xlabel("epoch")
        panels[1][column].xaxis.set_major_locator(MaxNLocator(integer=True))
    panels[0][0].set_ylabel("test error, %")
    make_logarithmic(panels[0][0])
    panels[1][0].set_ylabel("gain, mean over steps")
    legend(figure, *panels[0])
    return by_itself(svg(figure, "test error and gain by epoch"))


@styled
def by_step(results: Results) -> str:
    """Plot the gain of each time step after the last epoch, a panel for each setting."""
    palette = Palette(results.arms)
    count = len(results.settings)
    figure = picture(2.0 + 4.0 * count, 3.6)
    panels = figure.subplots(1, count, sharey=True, squeeze=False)[0]
    for axes, setting in zip(panels, results.settings, strict=True):
        for arm in results.arms:
            if not results.runs(arm, setting):
                continue
            values = results.curve(arm, setting, "gain")[:, -1]
            if np.isfinite(values).all() and (values != 1).any():
                steps = np.arange(1, values.shape[1] + 1)
                axes.plot(
                    steps, values.mean(0), marker="o", markersize=3, label=arm, **palette[arm]
                )
                axes.set_xticks(steps)
        axes.set_title(setting, fontsize=10)
        axes.set_xlabel("time step (shared: all)")
    panels[0].set_ylabel("gain after the last epoch")
    legend(figure, *panels)
    return by_itself(svg(figure, "gain by time step"))


def finding(results: Results) -> str:
    """Return one sentence about the first setting: which arms collapse, and at which gain."""
    setting = results.settings[0]
    told: list[str] = []
    held: list[str] = []
    for arm in results.arms:
        if not results.runs(arm, setting):
            continue
        share = results.values(arm, setting, "collapsed")
        gain = results.estimate(arm, setting, "gain").value
        at = f" (gain {gain:.1f})" if np.isfinite(gain) and gain != 1 else ""
        (told if share.any() else held).append(
            f"{arm} in {int(share.sum())} of {len(share)} seeds{at}"
            if share.any()
            else f"{arm}{at}"
        )
    text = f"{setting}: "
    text += f"the error ended above twice its smallest with {', '.join(told)}" if told else ""
    text += ", not with " if told and held else "no collapse with " if held else ""
    text += ", ".join(held)
    pairs = (("rn(half_life=8)@1", "rn@1"), ("rn", "none"), ("rn", "logt"))
    error = results.task.metrics[0]
    return f"{joined([text, *(versus(results, *pair, setting, error) for pair in pairs)])}."
