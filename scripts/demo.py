#!/usr/bin/env python3
"""The main job in a few minutes: DQN on CartPole with ``rn`` and without, evaluated and filmed."""

from pathlib import Path

from rn_rl.experiment.config import TrainConfig
from rn_rl.experiment.demo import run_demo

if __name__ == "__main__":
    run_demo(TrainConfig(algo="dqn", env="CartPole-v1", out=Path("runs/demo")), ["rn", "none"])
