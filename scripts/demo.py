#!/usr/bin/env python3
"""The main job in a few minutes: DQN on CartPole with ``rn`` and without, compared and filmed."""

from rn_rl.cli import run_command
from rn_rl.experiment.demo import DemoConfig, run_demo

if __name__ == "__main__":
    raise SystemExit(run_command(DemoConfig, {DemoConfig: run_demo}, prog="demo.py"))
