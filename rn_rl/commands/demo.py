"""``make demo``: PPO on CartPole with and without LayerNorm, many seeds at once; a report and a film."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from rn_rl.analysis.comparison import compare
from rn_rl.analysis.summary import Task
from rn_rl.commands.compare import run_compare
from rn_rl.experiment.evaluation.config import VideoConfig
from rn_rl.experiment.evaluation.video import video
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.runs.console import say


@dataclass
class DemoConfig:
    """Train PPO on CartPole-v1 with LayerNorm and without, compare the seeds, and film one agent."""

    seeds: int = 20
    """Seeds of each normalizer, trained together in one process."""
    timesteps: int = 25_000
    """Timesteps of each training: early, where the two differ most."""
    final_episodes: int = 20
    """Episodes in which each last policy is evaluated after its training."""
    out: Path = Path("runs/demo")
    """Folder that holds the runs. Runs that it has are not trained again."""


def run_demo(config: DemoConfig) -> None:
    """Train what is missing, write the report, and film the best run with ``ln``."""
    summary = run_compare(
        CompareConfig(
            algo="ppo",
            env="CartPole-v1",
            norms="none,ln",
            seeds=config.seeds,
            timesteps=config.timesteps,
            eval_freq=max(config.timesteps // 20, 1),
            final_episodes=config.final_episodes,
            out=config.out,
            zoo=True,
        )
    )
    console = Console()
    [task] = summary.tasks
    say(console, learning_speed(task))
    runs = task.arms["ln"].runs
    best = max(runs, key=lambda record: record.last_return)
    clip = video(VideoConfig(best.run.folder, episodes=1))
    say(console, f"film of ln, seed {best.spec.seed}, the best of {len(runs)}: {clip}")


def learning_speed(task: Task) -> str:
    """Return a sentence about the mean return over the training, which the last policy does not show."""
    none, ln = task.arms["none"], task.arms["ln"]
    found = compare(task.name, "ln", "none", ln.areas, none.areas)
    area = "area under curve, IQM"
    hint = "exploratory: " if found.exploratory else ""
    return (
        f"{hint}mean return over the whole training: ln {ln.figures[area]}, none {none.figures[area]}; "
        f"probability that a run with ln has the higher one {found.improvement}, p = {found.p:.2g}"
    )
