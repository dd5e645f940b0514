"""Words for a paired difference, for the sentence that a task finds."""

from __future__ import annotations

import math

from rn_rl.analysis.tables import number
from rn_rl.tasks.results import Results
from rn_rl.tasks.task import Metric


def versus(results: Results, arm: str, other: str, setting: str, metric: Metric) -> str:
    """Say which of two arms is better and by how much; empty where one of them has no runs.

    The difference is the mean over seeds of the paired difference, with its 95% interval; where that
    contains 0, the sentence says "cannot be told from".
    """
    found = results.difference(arm, other, setting, metric.key)
    if found is None or math.isnan(found.value):
        return ""
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
    """Join the parts of a sentence that are not empty by semicolons."""
    return "; ".join(part for part in parts if part)
