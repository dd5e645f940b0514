"""Training speed, as ratios in one interleaved run: the machine is noisy, its noise is shared."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.base_class import BaseAlgorithm

from rn_rl.errors import UserError
from rn_rl.experiment.runs.io import markdown_table, replace_block
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.resolve import resolve


@dataclass
class SpeedConfig:
    """Steps per second of DQN in the paper's configuration, one core, normalizers interleaved."""

    env: str = "CartPole-v1"
    """CartPole-v1 or LunarLander-v3."""
    norms: tuple[str, ...] = ("none", "ln", "rn", "rln", "rsn", "ln+rn", "logt")
    """Which normalizers; ratios are to none and to ln."""
    steps: int = 800
    """Timesteps of each normalizer in a round."""
    rounds: int = 25
    """Rounds; a ratio is the median of the rounds' ratios."""
    readme: Path | None = None
    """Also write the table into this document, between its speed marks."""
    json: bool = False
    """Print one JSON object a line."""


def measure(config: SpeedConfig) -> dict[str, np.ndarray]:
    """Steps per second of each normalizer in each round."""
    models: dict[str, BaseAlgorithm] = {}
    for norm in config.norms:
        spec = resolve(
            TrainConfig(algo="dqn", env=config.env, norm=norm, config="paper", timesteps=10**9)
        )
        models[norm] = spec.make_model(spec.make_env(n_envs=1))
        models[norm].learn(config.steps)  # fill the memory, warm up
    speeds: dict[str, list[float]] = {norm: [] for norm in config.norms}
    for round_ in range(config.rounds):
        order = list(config.norms)
        np.random.default_rng(round_).shuffle(order)
        for norm in order:
            begin = time.perf_counter()
            models[norm].learn(config.steps, reset_num_timesteps=False)
            speeds[norm].append(config.steps / (time.perf_counter() - begin))
    return {norm: np.array(values) for norm, values in speeds.items()}


def run_speed(config: SpeedConfig) -> None:
    """Measure and print."""
    if config.rounds < 1 or config.steps < 1:
        raise UserError(
            f"--rounds {config.rounds} --steps {config.steps}: expected at least 1 each"
        )
    torch.set_num_threads(1)
    speeds = measure(config)
    lines = summarize(config.env, speeds)
    if config.json:
        for line in lines:
            print(json.dumps(line))
        return
    columns = ["normalizer", "steps/s", "to none", "to ln"]
    rows = [
        [norm, f"{np.median(values):,.0f}", ratio(speeds, norm, "none"), ratio(speeds, norm, "ln")]
        for norm, values in speeds.items()
    ]
    if config.readme is not None:
        replace_block(config.readme, "speed", markdown_table(columns, rows))
    table = Table(title=f"DQN, paper configuration, {config.env}, one core: median of rounds")
    for column in columns:
        table.add_column(column, justify="left" if column == "normalizer" else "right")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def ratio(speeds: dict[str, np.ndarray], norm: str, reference: str) -> str:
    """Median over the rounds of one speed divided by another, as text."""
    if reference not in speeds:
        return "-"
    return f"{np.median(speeds[norm] / speeds[reference]):.2f}"


def summarize(env: str, speeds: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """One line for each normalizer and reference."""
    return [
        {
            "benchmark": "train",
            "case": f"{env}/{norm}",
            "value": float(np.median(values)),
            "unit": "steps/s",
            "ratio": float(np.median(values / speeds[reference])),
            "ratio_to": f"{env}/{reference}",
        }
        for norm, values in speeds.items()
        for reference in ("none", "ln")
        if reference in speeds
    ]
