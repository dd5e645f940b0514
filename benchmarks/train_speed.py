"""Training speed of normalizers, as ratios in interleaved rounds, which share the machine's noise."""

from __future__ import annotations

import time
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm

from benchmarks.against import SpeedOutput, compare_checkouts
from benchmarks.harness import ResultTable, emit, interleave
from rn_rl.errors import UserError
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.resolve import resolve


@dataclass
class SpeedConfig(SpeedOutput):
    """Steps per second of DQN in the paper's configuration, one core, normalizers interleaved."""

    env: str = "CartPole-v1"
    """CartPole-v1 or LunarLander-v3."""
    norms: tuple[str, ...] = ("none", "ln", "rn", "rln", "rsn", "ln+rn", "logt")
    """Normalizers; ratios are to none and to ln."""
    steps: int = 800
    """Timesteps of each normalizer in a round."""
    rounds: int = 25
    """Rounds; a ratio is the median of the rounds' ratios."""


def measure_training(config: SpeedConfig) -> dict[str, np.ndarray]:
    """Measure the timesteps per second of each normalizer, ``(rounds,)``."""
    models: dict[str, BaseAlgorithm] = {}
    for norm in config.norms:
        spec = resolve(
            TrainConfig(algo="dqn", env=config.env, norm=norm, config="paper", timesteps=10**9)
        )
        models[norm] = spec.make_model(spec.make_env(n_envs=1))
        models[norm].learn(config.steps)  # fill the memory, warm up

    def steps_per_second(model: BaseAlgorithm) -> float:
        begin = time.perf_counter()
        model.learn(config.steps, reset_num_timesteps=False)
        return config.steps / (time.perf_counter() - begin)

    measurements = {norm: partial(steps_per_second, model) for norm, model in models.items()}
    return interleave(measurements, config.rounds)


def run_speed(config: SpeedConfig) -> None:
    """Measure and print.

    Raises:
        UserError: an option is out of range.
    """
    if config.rounds < 1 or config.steps < 1:
        raise UserError(
            f"--rounds {config.rounds} --steps {config.steps}: expected at least 1 each"
        )
    if config.against is not None:
        compare_checkouts("train", config)
        return
    torch.set_num_threads(1)
    speeds = measure_training(config)
    rows = [
        [norm, f"{np.median(values):,.0f}", ratio(speeds, norm, "none"), ratio(speeds, norm, "ln")]
        for norm, values in speeds.items()
    ]
    title = f"DQN, paper configuration, {config.env}, one core: median of rounds"
    table = ResultTable(title, ["normalizer", "steps/s", "to none", "to ln"], rows)
    emit(config, speed_lines(config.env, speeds), table, block="speed")


def ratio(speeds: dict[str, np.ndarray], norm: str, reference: str) -> str:
    """Return the median over rounds of the ratio of two speeds, as text."""
    if reference not in speeds:
        return "-"
    return f"{np.median(speeds[norm] / speeds[reference]):.2f}"


def speed_lines(env: str, speeds: dict[str, np.ndarray]) -> list[dict[str, Any]]:
    """Return one line for each normalizer and reference."""
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
