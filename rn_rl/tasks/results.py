"""Runs of a task by arm and setting: values over seeds, intervals, paired differences."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import numpy as np

from rn_rl import statistics
from rn_rl.analysis.tables import Estimate
from rn_rl.tasks.store import Run
from rn_rl.tasks.task import EVERY, Task

REFERENCES = ("none", "ln", "logt")
"""Arms that every other one is compared with."""


class Results:
    """The runs of one command.

    Args:
        task: the task.
        runs: finished runs, one for each (arm, setting, seed).
        arms: names of the arms, in the order of the table.
        settings: settings, in the order of the table.

    Attributes:
        toy: True if the numbers mean nothing.
        metrics: metrics of the task that some run has: the columns of its table.
    """

    def __init__(
        self,
        task: Task,
        runs: Iterable[Run],
        arms: Iterable[str],
        settings: Iterable[str],
        toy: bool = False,
    ) -> None:
        self.task = task
        self.toy = toy
        self._runs: dict[tuple[str, str], dict[int, Run]] = {}
        for run in runs:
            result = task.recounted(run.result)
            counted = replace(run, metrics=result.metrics, curves=result.curves)
            self._runs.setdefault((run.arm, run.setting), {})[run.seed] = counted
        every = [run for of_it in self._runs.values() for run in of_it.values()]
        self.metrics = [m for m in task.metrics if any(m.key in run.metrics for run in every)]
        self.settings = [s for s in settings if any(key[1] == s for key in self._runs)]
        self.arms = [a for a in arms if any(key[0] == a for key in self._runs)]

    def runs(self, arm: str, setting: str) -> list[Run]:
        """Return the finished runs of an arm on a setting, by seed; an empty list without any."""
        found = self._runs.get((arm, setting), {})
        return [found[seed] for seed in sorted(found)]

    def values(self, arm: str, setting: str, metric: str) -> np.ndarray:
        """Return a metric by seed, ``(seeds,)``."""
        return np.array([run.metrics[metric] for run in self.runs(arm, setting)], float)

    def curve(self, arm: str, setting: str, name: str) -> np.ndarray:
        """Return a curve by seed, ``(seeds, ...)``."""
        return np.array([run.curves[name] for run in self.runs(arm, setting)], float)

    def estimate(self, arm: str, setting: str, metric: str) -> Estimate:
        """Return the mean of a metric over seeds, with its 95% bootstrap interval."""
        values = self.values(arm, setting, metric)
        if not len(values):
            return Estimate(float("nan"))
        if len(values) == 1 or not np.isfinite(values).all():
            return Estimate(float(values.mean()))
        return Estimate(float(values.mean()), *statistics.bootstrap_interval(values))

    def not_finite(self, arm: str, setting: str, metric: str) -> int:
        """Count the runs whose metric is NaN or infinite."""
        return int((~np.isfinite(self.values(arm, setting, metric))).sum())

    def text(self, arm: str, setting: str, metric: str) -> str:
        """Return the mean of a metric with its interval, or how many runs have no finite value.

        Where all are NaN, or a run lacks it, the arm has no such number: ``-``.
        """
        if any(metric not in run.metrics for run in self.runs(arm, setting)):
            return "-"
        lost, values = self.not_finite(arm, setting, metric), self.values(arm, setting, metric)
        if lost and not np.isnan(values).all():
            return f"{lost} of {len(values)} not finite"
        return str(self.estimate(arm, setting, metric))

    def difference(self, arm: str, other: str, setting: str, metric: str) -> Estimate | None:
        """Return the mean paired difference of two arms, with its 95% interval by Student's t.

        Pairs are runs of the same seed; None where there is no pair, NaN where one is not finite.
        """
        mine, theirs = (
            {run.seed: run.metrics[metric] for run in self.runs(name, setting)}
            for name in (arm, other)
        )
        seeds = sorted(mine.keys() & theirs.keys())
        if not seeds:
            return None
        x, y = (np.array([values[seed] for seed in seeds], float) for values in (mine, theirs))
        if not np.isfinite((x, y)).all():
            return Estimate(float("nan"))
        return Estimate(*statistics.paired_difference(x, y))

    def reference(self, arm: str, name: str) -> str:
        """Return the arm that ``arm`` is compared with: ``logt@K`` for an arm with ``@K``.

        ``none`` and ``ln`` have no phases, so they are the same for every K.
        """
        _, mark, steps = arm.rpartition(EVERY)
        return f"{name}{mark}{steps}" if mark and name == "logt" else name
