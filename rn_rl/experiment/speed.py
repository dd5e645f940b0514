"""Training speed, as ratios in one interleaved run: the machine is noisy, its noise is shared."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.base_class import BaseAlgorithm

from rn_rl.errors import UserError
from rn_rl.experiment.config import TrainConfig
from rn_rl.experiment.train import resolve


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
    table = Table(title=f"DQN, paper configuration, {config.env}, one core: median of rounds")
    table.add_column("normalizer")
    for column in ("steps/s", "to none", "to ln"):
        table.add_column(column, justify="right")
    for norm, values in speeds.items():
        cells = [norm, f"{np.median(values):,.0f}"]
        for reference in ("none", "ln"):
            if reference not in speeds:
                cells.append("-")
                continue
            ratio = float(np.median(values / speeds[reference]))
            cells.append(f"{ratio:.2f}")
            if config.json:
                line = {
                    "benchmark": "train",
                    "case": f"{config.env}/{norm}",
                    "value": float(np.median(values)),
                    "unit": "steps/s",
                    "ratio": ratio,
                    "ratio_to": f"{config.env}/{reference}",
                }
                print(json.dumps(line))
        table.add_row(*cells)
    if not config.json:
        Console().print(table)
