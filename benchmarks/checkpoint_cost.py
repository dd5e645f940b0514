"""Share of a training's time that its checkpoints take, at the default interval."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from rich.console import Console

from benchmarks.harness import Line, Output, ResultTable, emit
from rn_rl.errors import UserError
from rn_rl.experiment.training import callbacks, single
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.saving import save_run


@dataclass
class CheckpointCostConfig(Output):
    """Train with one seed, and measure the share of the time that is spent on writing the run."""

    algos: tuple[str, ...] = ("dqn",)
    """Algorithms, with the Zoo's hyperparameters."""
    envs: tuple[str, ...] = ("CartPole-v1", "LunarLander-v3")
    """Environments."""
    norm: str = "ln+rn"
    """Normalizer."""
    timesteps: int | None = None
    """Timesteps of a training; default: the Zoo's. A run is written ten times, whatever they are."""
    rounds: int = 3
    """Trainings of each; the share is their median."""


def run_checkpoint_cost(config: CheckpointCostConfig) -> None:
    """Measure and print.

    Raises:
        UserError: an option is out of range.
    """
    if config.rounds < 1:
        raise UserError(f"--rounds {config.rounds}: expected at least 1")
    lines: list[Line] = []
    rows = []
    for algo in config.algos:
        for env in config.envs:
            found = np.array(
                [measure_one(config, algo, env, seed) for seed in range(config.rounds)]
            )
            writing, training, times = np.median(found, axis=0)
            share = float(np.median(found[:, 0] / found[:, 1]))
            case = f"{algo}/{env}"
            rows.append([case, f"{training:.0f}", f"{1000 * writing / times:.0f}", f"{share:.2%}"])
            lines.append(
                {"benchmark": "checkpoints", "case": case, "value": share, "unit": "share"}
            )
    columns = ["case", "training, s", "one writing, ms", "share of the training"]
    title = f"writing a run ten times, median of {config.rounds} trainings"
    emit(config, lines, ResultTable(title, columns, rows), block="checkpoints")


def measure_one(
    config: CheckpointCostConfig, algo: str, env: str, seed: int
) -> tuple[float, float, int]:
    """Train once; return the seconds spent on writing the run, those of it all, and how often."""
    seconds: list[float] = []

    def timed(*args: Any, **kwargs: Any) -> None:
        begin = time.perf_counter()
        save_run(*args, **kwargs)
        seconds.append(time.perf_counter() - begin)

    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(callbacks, "save_run", timed),
        patch.object(single, "save_run", timed),
    ):
        begin = time.perf_counter()
        single.train(
            TrainConfig(
                algo=algo,
                env=env,
                norm=config.norm,
                seed=seed,
                timesteps=config.timesteps,
                out=Path(folder),
                quiet=True,
            ),
            Console(quiet=True),
        )
        return sum(seconds), time.perf_counter() - begin, len(seconds)
