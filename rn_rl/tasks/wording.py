"""Words for a paired difference, for the sentence that a task finds."""

from __future__ import annotations

import math

from rn_rl.analysis.tables import number
from rn_rl.tasks.results import Results
from rn_rl.tasks.task import Metric


def versus(results: Results, arm: str, other: str, setting: str, metric: Metric) -> str:
    """Say which of two arms is better and by how much; empty where no seed has both.

    The difference is the mean over seeds of the paired difference, with its 95% interval; where that
    contains 0, the sentence says "cannot be told from". Where a run is not finite, it says how many are.
    """
    found = results.difference(arm, other, setting, metric.key)
    if found is None:
        return ""
    if math.isnan(found.value):
        lost = {name: results.not_finite(name, setting, metric.key) for name in (arm, other)}
        return joined(
            [
                f"{name} is not finite in {count} of {len(results.runs(name, setting))} seeds"
                for name, count in lost.items()
                if count
            ]
        )
    unit = {"%": " points", "": ""}.get(metric.unit, f" {metric.unit}")
    if math.isnan(found.low):
        return f"{arm} minus {other} is {found.value:+.3g}{unit}, one seed"
    bounds = f"[{number(found.low)}, {number(found.high)}]"
    if found.low <= 0 <= found.high and found.low < found.high:
        return f"{arm} cannot be told from {other} ({number(found.value)} {bounds}{unit})"
    if found.value == 0:
        return f"{arm} equals {other}"
    better = (found.value < 0) == metric.lower_is_better
    low, high = sorted(map(abs, (found.low, found.high)))
    word = "better" if better else "worse"
    size = f"{number(abs(found.value))} [{number(low)}, {number(high)}]{unit}"
    return f"{arm} is {size} {word} than {other}"


def joined(parts: list[str]) -> str:
    """Join the parts of a sentence that are not empty by semicolons, equal ones once."""
    return "; ".join(dict.fromkeys(part for part in parts if part))


def means(results: Results, setting: str, metric: Metric) -> str:
    """Say the mean of each arm, for results in which no two arms can be compared."""
    present = [arm for arm in results.arms if results.runs(arm, setting)]
    told = {arm: results.text(arm, setting, metric.key) for arm in present}
    return joined([f"{arm} has {'no number' if t == '-' else t}" for arm, t in told.items()])
