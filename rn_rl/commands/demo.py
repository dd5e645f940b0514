"""``make demo``: train several seeds with a normalizer and without, report, and film one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rich.console import Console

from rn_rl.commands.compare import run_compare
from rn_rl.experiment.evaluation.config import VideoConfig
from rn_rl.experiment.evaluation.video import video
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.runs.records import find_runs, read_records
from rn_rl.experiment.settings.options import shown_as


@dataclass
class DemoConfig:
    """DQN on CartPole with rn and without, the seeds of each at once: compared and filmed."""

    seeds: int = 5
    """How many of each."""
    timesteps: Annotated[int | None, shown_as("N")] = None
    """Of each training; default: the tuned value."""
    final_episodes: int = 100
    """Episodes in which each last policy is evaluated after its training."""
    out: Path = Path("runs/demo")
    """Folder that holds the runs. What it has is not trained again."""


def run_demo(config: DemoConfig) -> None:
    """Compare, as far as that is not done yet, and film the best run with ``rn``."""
    run_compare(
        CompareConfig(algo="dqn", env="CartPole-v1", norms="none,rn", zoo=True, **vars(config))
    )
    records, _ = read_records(find_runs(config.out / "rn"))
    best = max(records, key=lambda record: record.last_return)
    clip = video(VideoConfig(best.run.folder))
    say(Console(), f"film of rn, seed {best.spec.seed}, the best of {len(records)}: {clip}")
