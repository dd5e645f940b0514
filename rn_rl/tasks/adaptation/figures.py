"""Figure of ``adaptation``: target errors before and after adapting."""

from __future__ import annotations

from rn_rl.analysis.drawing import INK, Palette, by_itself, legend, picture, styled, svg
from rn_rl.tasks.results import Results


@styled
def dumbbells(results: Results) -> str:
    """Draw a plot for each target: an empty circle before adapting, a full one after it."""
    setting, palette = results.settings[0], Palette(results.arms)
    names = [metric.key for metric in results.task.metrics[:-1:2]]
    figure = picture(2.3 * len(names) + 1.4, 0.36 * len(results.arms) + 1.4)
    axes = figure.subplots(1, len(names), squeeze=False, sharey=True)[0]
    for axis, name in zip(axes, names, strict=True):
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("error, %")
        for y, arm in enumerate(results.arms):
            color = palette[arm]["color"]
            before, after = (
                results.estimate(arm, setting, key) for key in (f"{name}_before", name)
            )
            axis.plot([before.value, after.value], [y, y], color=color, linewidth=1.4)
            axis.plot([after.low, after.high], [y, y], color=color, linewidth=4, alpha=0.35)
            ring = dict(color=color, markerfacecolor="white", linestyle="none", markersize=7)
            axis.plot(before.value, y, "o", **ring)
            axis.plot(after.value, y, "o", color=color, markersize=6)
    axes[0].plot([], [], "o", color=INK, markerfacecolor="white", label="before adapting")
    axes[0].plot([], [], "o", color=INK, label="after it")
    axes[0].set_yticks(range(len(results.arms)), results.arms)
    axes[0].invert_yaxis()
    legend(figure, *axes)
    return by_itself(svg(figure, "Adaptation: target error before and after"))
