"""Options of ``rn-rl tune`` as a dataclass, which imports neither torch nor Optuna."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

from rn_rl.experiment.settings.options import shown_as
from rn_rl.experiment.training.config import MemoryOption, SharedOptions


@dataclass(kw_only=True)
class TunedAgents:
    """Options of ``rn-rl tune`` that ``--help`` prints first."""

    help_section: ClassVar[str] = "what is tuned"

    algo: Annotated[str | None, shown_as("NAME")] = None
    """Algorithm of 'rn-rl train'."""
    env: Annotated[str | None, shown_as("ENV")] = None
    """Environment."""
    norms: str = "none"
    """Normalizers, separated by commas; each has a study of its own."""
    trials: int = 50
    """Trials of each normalizer. A larger number later continues the studies."""
    seeds: int = 3
    """Seeds of each trial: SEED, SEED + 1, ...; its value is the mean of their last evaluations."""
    seed: int = 0
    """First seed; also the seed of the sampler."""


@dataclass(kw_only=True)
class TuneConfig(MemoryOption, SharedOptions, TunedAgents):
    """Search for hyperparameters with Optuna, with the same number of trials for each normalizer.

    The same command continues a search that was stopped, also from several terminals at once.
    """

    help_section: ClassVar[str] = "search"

    out: Path = Path("tuning")
    """Folder of the studies (study.db) and of the hyperparameters found (ALGO-NORM.yml)."""
    space: Annotated[Path | None, shown_as("FILE.yml")] = None
    """Ranges to search, by algorithm, in place of those in rn_rl/zoo_configs/spaces.yml."""
    sampler: str = "tpe"
    """tpe, random or qmc."""
    pruner: str = "median"
    """Ends trials that fall behind: median, halving, hyperband or none."""
    jobs: Annotated[int | None, shown_as("N")] = None
    """Trials side by side; default: one (ray: one for each core of the cluster)."""
    engine: str = "auto"
    """Seeds of a trial: batch (together), process, or auto; ray: trials in processes of a cluster."""
    address: Annotated[str | None, shown_as("HOST:PORT")] = None
    """Ray cluster; default: the one that runs on this machine, or a new one."""
