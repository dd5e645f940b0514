"""One trial of a search: train some seeds with drawn hyperparameters, and watch their evaluations."""

from __future__ import annotations

import math
import tempfile
import threading
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from rn_rl.errors import TrainingStopped
from rn_rl.experiment.grid.cells import make_cell
from rn_rl.experiment.runs.console import Watch
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.records import find_runs, read_evaluations
from rn_rl.experiment.training.config import SharedOptions, TrainConfig
from rn_rl.experiment.training.launch import train_together
from rn_rl.experiment.training.single import train
from rn_rl.experiment.tuning.config import TuneConfig

POLL_SECONDS = 1.0
"""Time between two looks at the evaluations of a training."""


def training_of(config: TuneConfig, norm: str, drawn: dict[str, Any], out: Path) -> TrainConfig:
    """Return the options of the trainings of a trial.

    Args:
        config: options of the search.
        norm: the normalizer.
        drawn: the hyperparameters that were drawn, none of which ``--set`` fixes.
        out: folder of the runs.
    """
    common: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(SharedOptions)}
    assignments = tuple(f"{name}={as_text(value)}" for name, value in drawn.items())
    common |= {"out": out, "quiet": True, "set": (*config.set, *assignments)}
    return TrainConfig(
        **common,
        algo=config.algo,
        env=config.env,
        norm=norm,
        seed=config.seed,
        memory=config.memory,
    )


def as_text(value: Any) -> str:
    """Return a value as the YAML that ``--set`` takes."""
    words = {None: "null", True: "true", False: "false"}
    if value is None or isinstance(value, bool):
        return words[value]
    if isinstance(value, list):
        return "[" + ",".join(map(as_text, value)) + "]"
    return repr(value) if isinstance(value, float) else str(value)


def run_trial(
    config: TuneConfig, norm: str, drawn: dict[str, Any], report: Callable[[int, float], bool]
) -> float | None:
    """Train the seeds of a trial, and remove their runs.

    Args:
        config: options of the search.
        norm: the normalizer.
        drawn: the hyperparameters that were drawn.
        report: function that takes a step and the mean return there, and returns True if the trial is
            to be ended. Steps are timesteps of a seed batch, or numbers of seeds that train one after
            the other.

    Returns:
        The mean over seeds of the last evaluation; None if the trial was ended, or a seed diverged.
    """
    seeds = [config.seed + i for i in range(config.seeds)]
    with tempfile.TemporaryDirectory(prefix=".trial-", dir=config.out) as folder:
        one = training_of(config, norm, drawn, Path(folder))
        cell = make_cell(one, seeds, config.engine)
        if cell.together:
            return train_batch_of(cell.config, cell.specs, report)
        found: list[float] = []
        for seed in seeds:
            run = train(replace(one, seed=seed))
            found.append(last_return(run))
            if not math.isfinite(sum(found)):
                return None
            if len(found) < len(seeds) and report(len(found), float(np.mean(found))):
                return None
        return float(np.mean(found))


def train_batch_of(
    config: TrainConfig, specs: list[Any], report: Callable[[int, float], bool]
) -> float | None:
    """Train the seeds of a trial together; a thread reports their evaluations meanwhile."""
    watch, over = Watch(), threading.Event()
    reported: set[int] = set()

    def follow() -> None:
        while not over.wait(POLL_SECONDS):
            for step, value in mean_curve(config.out, len(specs)):
                if step not in reported and not watch.stop:
                    reported.add(step)
                    watch.stop = report(step, value)

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        runs = train_together(config, specs, specs[0].make_env(), Console(quiet=True), watch)
    except TrainingStopped:
        if watch.stop:
            return None
        raise
    finally:
        over.set()
        thread.join()
    found = float(np.mean([last_return(run) for run in runs]))
    return found if math.isfinite(found) else None


def mean_curve(out: Path, seeds: int) -> list[tuple[int, float]]:
    """Return timesteps and mean returns of the evaluations that all seeds have so far."""
    curves = []
    for folder in find_runs(out):
        steps, returns, _ = read_evaluations(Run(folder), [])
        curves.append((steps, returns))
    if len(curves) < seeds:
        return []
    count = min(len(steps) for steps, _ in curves)
    values = np.mean([returns[:count] for _, returns in curves], 0)
    return [(int(s), float(v)) for s, v in zip(curves[0][0], values, strict=False) if v == v]


def last_return(run: Run) -> float:
    """Return the mean return of the last evaluation; NaN if the training diverged."""
    _, returns, _ = read_evaluations(run, [])
    if run.divergence is not None or not len(returns):
        return math.nan
    return float(returns[-1])
