"""Options of the commands that belong to no single room: documented dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from rn_rl.experiment.settings.options import shown_as


@dataclass
class NormsConfig:
    """List the normalizers."""


@dataclass
class ZooConfig:
    """List the environments, algorithms and published baselines, or write hyperparameters to a file."""

    export: Annotated[Path | None, shown_as("FILE.yml")] = None
    """Write the tuned hyperparameters to a file that --conf-file takes, and the RL Zoo's tools too."""
    algo: Annotated[str | None, shown_as("NAME[,NAME]")] = None
    """Algorithms of --export; default: all. The RL Zoo's tools take a file with one algorithm."""
    config: str = "zoo"
    """Hyperparameters of --export: zoo (tuned) or paper."""


@dataclass
class StatusConfig:
    """Show how far the trainings in a folder are, also while another process runs them."""

    runs: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUNS")] = Path("runs")
    """Folder that holds runs, at any depth."""
