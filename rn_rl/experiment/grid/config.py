"""Options of ``rn-rl compare`` as a dataclass, which imports neither torch nor Stable-Baselines3."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from rn_rl.experiment.settings.options import DecisionOptions, shown_as
from rn_rl.experiment.training.config import SharedOptions


@dataclass(kw_only=True)
class ComparedAgents:
    """Options of ``rn-rl compare`` that ``--help`` prints first."""

    help_section: ClassVar[str] = "what is compared"

    algo: Annotated[str | None, shown_as("NAME[,NAME]")] = None
    """Algorithms of 'rn-rl train', separated by commas."""
    env: Annotated[str | None, shown_as("ENV[,ENV]")] = None
    """Environments, separated by commas."""
    norms: str = "none,ln,rn,ln+rn"
    """Normalizers, separated by commas; 'rn-rl norms' lists them."""
    seeds: int = 10
    """Seeds of each normalizer: SEED, SEED + 1, ... A larger number later trains only the new ones."""
    seed: int = 0
    """First seed."""


@dataclass(kw_only=True)
class CompareConfig(DecisionOptions, SharedOptions, ComparedAgents):
    """Train every algorithm with every normalizer on every environment, then write a report.

    Trainings that OUT already has are not repeated.
    """

    help_section: ClassVar[str] = "grid, jobs and report"

    grid: Annotated[Path | None, shown_as("FILE.yml")] = None
    """Options of this command from a file; those that are typed win."""
    final_episodes: int = 20
    """Episodes in which the last policy of each training is evaluated."""
    jobs: Annotated[int | None, shown_as("N")] = None
    """Trainings side by side; default: one for each core (ray: of the cluster), on a GPU one."""
    engine: str = "auto"
    """batch (seeds together), process (one a seed), ray (processes of a cluster), or auto."""
    address: Annotated[str | None, shown_as("HOST:PORT")] = None
    """Ray cluster; default: the one that runs on this machine, or a new one."""
    report: Annotated[Path | None, shown_as("FILE")] = None
    """Page of the report; default: OUT/report.html. Markdown and CSV files are written beside it."""
    zoo: bool = False
    """Print the RL Zoo's published scores beside ours."""
    agent: Annotated[tuple[Path, ...], shown_as("PATH ...")] = ()
    """SB3 zips, RL Zoo folders or runs that are evaluated and printed beside our trainings."""
