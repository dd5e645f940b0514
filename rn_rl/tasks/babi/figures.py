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
        for name in BASELINES:
            values = results.values(name, setting, "accuracy")
            if len(values) and np.isfinite(values.mean()):
                axis.axhline(values.mean(), color=GRID, linestyle="dashed", linewidth=1.2)
                axis.annotate(
                    name,
                    (1, values.mean()),
                    xycoords=("axes fraction", "data"),
                    ha="right",
                    va="bottom",
                    fontsize=8,
                    color=INK,
                )
    axes[0].set_ylabel("accuracy per label, %")
    legend(figure, *axes)
    return by_itself(svg(figure, "bAbI: accuracy by epoch"))
