"""Figure of ``babi``: accuracy by epoch, with the answers by simple means as lines."""

from __future__ import annotations

import numpy as np

from rn_rl import statistics
from rn_rl.analysis.drawing import GRID, INK, Palette, by_itself, legend, picture, styled, svg
from rn_rl.tasks.babi.baselines import BASELINES
from rn_rl.tasks.results import Results


@styled
def curves(results: Results) -> str:
    """Draw a plot for each setting: a curve for each network, a line for each baseline."""
    networks = [arm for arm in results.arms if arm not in BASELINES]
    palette = Palette(networks)
    figure = picture(3.4 * len(results.settings) + 0.6, 3.8)
    axes = figure.subplots(1, len(results.settings), squeeze=False, sharey=True)[0]
    for axis, setting in zip(axes, results.settings, strict=True):
        axis.set_title(setting, fontsize=10)
        axis.set_xlabel("epoch")
        epochs = 1
        for arm in networks:
            found = results.curve(arm, setting, "accuracy")
            if not found.size:
                continue
            epochs = found.shape[1]
            x = np.arange(1, epochs + 1)
            axis.plot(x, found.mean(0), label=arm, **palette[arm])
            low, high = statistics.bands(found)
            axis.fill_between(x, low, high, color=palette[arm]["color"], alpha=0.15, linewidth=0)
        for names, height in lines(results, setting):
            for name in names:
                mean = results.values(name, setting, "accuracy").mean()
                axis.axhline(mean, color=GRID, linestyle="dashed", linewidth=1.2)
            axis.annotate(
                ", ".join(names),
                (1, height),
                xycoords=("axes fraction", "data"),
                ha="right",
                va="bottom",
                fontsize=8,
                color=INK,
            )
    axes[0].set_ylabel("accuracy per label, %")
    legend(figure, *axes)
    return by_itself(svg(figure, "bAbI: accuracy by epoch"))


NEAR = 4.0
"""Lines that are nearer than this many points share a label."""


def lines(results: Results, setting: str) -> list[tuple[list[str], float]]:
    """Return the baselines that share a label, from below, and the height of the highest one, in %."""
    means = {name: results.values(name, setting, "accuracy") for name in BASELINES}
    known = {n: v.mean() for n, v in means.items() if len(v) and np.isfinite(v.mean())}
    found: list[tuple[list[str], float]] = []
    for name in sorted(known, key=lambda name: known[name]):
        if found and known[name] - found[-1][1] < NEAR:
            found[-1] = ([*found[-1][0], name], known[name])
        else:
            found.append(([name], known[name]))
    return found
