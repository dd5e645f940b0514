"""Comparison of two arms: the test, the verdict and the sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from rn_rl import statistics
from rn_rl.analysis.metrics import estimate
from rn_rl.analysis.tables import Estimate, number

ALPHA = 0.05
"""Familywise error rate of all comparisons of a report."""

ENDPOINTS = {
    "last": "return of the last policy",
    "area": "area under the evaluation curve",
}
"""Endpoints by which arms can be compared, and their names in sentences."""

SHOWN = {"last": "last return, IQM", "area": "area under curve, IQM"}
"""Figure of an arm that is shown for each endpoint, a key of :data:`~rn_rl.analysis.metrics.METRICS`."""

NO_ESTIMATE = Estimate(math.nan)


@dataclass
class Comparison:
    """Comparison of one arm with the baseline on one task."""

    task: str
    """Name of the task."""
    norm: str
    """Normalizer of the arm."""
    baseline: str
    """Normalizer of the baseline."""
    runs: tuple[int, int]
    """Number of runs of the arm and of the baseline."""
    improvement: Estimate
    """Probability that a run of the arm returns more than one of the baseline."""
    effect: Estimate
    """Difference of the interquartile means, arm minus baseline."""
    p: float
    """p value of the two-sided test."""
    equal: bool
    """True if all runs of both return the same."""
    measure: str = ENDPOINTS["last"]
    """Name of the endpoint in sentences."""
    corrected: float = math.nan
    """p value corrected for all comparisons of the report (Holm)."""
    margin: float | None = None
    """Difference of the means that does not matter; None: equivalence is not tested."""
    difference: Estimate = NO_ESTIMATE
    """Difference of the means, and its 90% interval."""
    p_equivalence: float = math.nan
    """p value of the test that the difference of the means lies within the margin."""
    corrected_equivalence: float = math.nan
    """The same, corrected for all comparisons of the report."""
    other: tuple[str, Estimate] | None = None
    """Text of the endpoint that does not decide, and the probability of improvement by it."""

    @property
    def verdict(self) -> str:
        """Return ``"better"``, ``"worse"``, ``"equivalent"`` or ``"cannot tell"``.

        A difference needs a corrected p below :data:`ALPHA` and an interval that excludes 0.5;
        equivalence a corrected p of its own test below :data:`ALPHA`.
        """
        low, high = self.improvement.low, self.improvement.high
        if self.corrected < ALPHA and low > 0.5:
            return "better"
        if self.corrected < ALPHA and high < 0.5:
            return "worse"
        return "equivalent" if self.within_margin else "cannot tell"

    @property
    def within_margin(self) -> bool:
        """Return True if the means differ by less than the margin, whatever else the verdict says."""
        return self.corrected_equivalence < ALPHA

    @property
    def exploratory(self) -> bool:
        """Return True if there are too few runs for a result."""
        return min(self.runs) < statistics.EXPLORATORY

    def sentence(self, comparisons: int) -> str:
        """Return the conclusion as a sentence.

        Args:
            comparisons: number of comparisons for which p is corrected.
        """
        mine, theirs = self.runs
        seeds = f"{mine} seeds" if mine == theirs else f"{mine} and {theirs} seeds"
        figures = (
            f"probability of improvement {self.improvement}, {seeds}"
            + f"; p = {self.corrected:.2g}"
            + (f" after correction for {comparisons} comparisons" if comparisons > 1 else "")
        )
        if self.equal:
            figures = f"both have the same {self.measure} in every run, {seeds}"
        if self.margin is not None:
            figures += (
                f"; difference of means {self.difference} (90%), margin {number(self.margin)}"
            )
            if self.verdict in ("better", "worse"):
                figures += ": within it" if self.within_margin else ": not shown to be within it"
        if self.other is not None:
            figures += f"; by the {self.other[0]} {self.other[1]}"
        words = {
            "equivalent": f"{self.norm} is equivalent to {self.baseline} with {self.task}: {figures}.",
            "better": f"{self.norm} beats {self.baseline} with {self.task}: {figures}.",
            "worse": f"{self.norm} is worse than {self.baseline} with {self.task}: {figures}.",
            "cannot tell": f"cannot tell {self.norm} from {self.baseline} with {self.task}: {figures}.",
        }
        if min(self.runs) < 2:
            return f"One seed is an anecdote. {upper(words['cannot tell'])}"
        hint = "Exploratory (fewer than 10 seeds): " if self.exploratory else ""
        return f"{hint}{words[self.verdict]}" if hint else upper(words[self.verdict])


def upper(text: str) -> str:
    """Capitalize a sentence, unless it begins with the name of a normalizer."""
    return text[0].upper() + text[1:] if text.startswith("cannot") else text


def compare(
    task: str,
    norm: str,
    baseline: str,
    x: np.ndarray,
    y: np.ndarray,
    margin: float | None = None,
) -> Comparison:
    """Compare two arms by one value of each of their runs; p values are not yet corrected.

    Args:
        task: name of the task.
        norm: normalizer of ``x``.
        baseline: normalizer of ``y``.
        x: one value for each run of the arm.
        y: one value for each run of the baseline.
        margin: difference of the means that does not matter; None: do not test equivalence.
    """
    compared = Comparison(
        task,
        norm,
        baseline,
        runs=(len(x), len(y)),
        improvement=estimate(statistics.probability_of_improvement, x, y),
        effect=estimate(statistics.difference_of_interquartile_means, x, y),
        p=statistics.p_value(x, y),
        equal=bool(np.ptp(np.concatenate([x, y])) == 0),
        margin=margin,
    )
    if margin is not None:
        compared.difference = Estimate(*statistics.difference_of_means(x, y))
        compared.p_equivalence = statistics.equivalence_p(x, y, margin)
    return compared


def correct(comparisons: list[Comparison]) -> None:
    """Set the corrected p values (Holm), for all comparisons of a report."""
    corrected = statistics.holm([each.p for each in comparisons])
    for comparison, p in zip(comparisons, corrected, strict=True):
        comparison.corrected = p
    tested = [each for each in comparisons if each.margin is not None]
    corrected = statistics.holm([each.p_equivalence for each in tested])
    for comparison, p in zip(tested, corrected, strict=True):
        comparison.corrected_equivalence = p
