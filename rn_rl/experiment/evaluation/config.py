"""Options of ``rn-rl evaluate``, ``video`` and ``probe``: documented dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rn_rl.experiment.settings.options import shown_as


@dataclass
class EvaluateConfig:
    """Evaluate a trained run over many episodes."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder, or a zip inside one, such as RUN/best_model.zip."""
    episodes: int = 100
    """Episodes to play."""
    stochastic: bool = False
    """Sample actions (PPO, SAC, ...) or explore at the final rate (DQN) instead of acting greedily."""
    json: bool = False
    """Print one JSON object and nothing else."""
    seed: Annotated[int | None, shown_as("SEED")] = None
    """Seed of the episodes; default: the run's plus 1000."""
    n_envs: int = 8
    """Environments stepped together."""


@dataclass
class VideoConfig:
    """Film a trained run: mp4 or gif."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder, or a zip inside one, such as RUN/best_model.zip."""
    out: Annotated[Path | None, shown_as("FILE")] = None
    """clip.mp4 or clip.gif; default: video.mp4 in the run folder."""
    episodes: int = 3
    """Episodes to film, one after the other."""
    stochastic: bool | None = None
    """Act stochastically; default: as in training evaluations (MiniGrid yes, others no)."""
    max_steps: int = 2000
    """Frames at most."""
    seed: Annotated[int | None, shown_as("SEED")] = None
    """Seed of the episodes; default: the run's plus 1000."""


@dataclass
class ProbeConfig:
    """Show the gain of every layer of a run while it learned: for rn and its kin, the code length."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder, or a zip inside one."""
    json: bool = False
    """Print one JSON object a layer, with all that was recorded (thinned to 100 points)."""
