#!/usr/bin/env python3
"""Train several seeds with a normalizer and without, report, and film one: ``make demo``."""

from rn_rl.cli import run_command
from rn_rl.commands.demo import DemoConfig, run_demo

if __name__ == "__main__":
    raise SystemExit(run_command(DemoConfig, {DemoConfig: run_demo}, prog="demo.py"))
