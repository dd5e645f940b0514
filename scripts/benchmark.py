#!/usr/bin/env python3
"""Benchmarks: ``train`` (steps per second, interleaved), ``learning`` (what agents learn)."""

from typing import Annotated

import tyro

from rn_rl.cli import run_command
from rn_rl.experiment.learning import LearningConfig, run_learning
from rn_rl.experiment.speed import SpeedConfig, run_speed

Benchmark = (
    Annotated[SpeedConfig, tyro.conf.subcommand("train", prefix_name=False)]
    | Annotated[LearningConfig, tyro.conf.subcommand("learning", prefix_name=False)]
)

if __name__ == "__main__":
    handlers = {SpeedConfig: run_speed, LearningConfig: run_learning}
    raise SystemExit(run_command(Benchmark, handlers, prog="benchmark.py"))
