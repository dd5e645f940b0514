"""Options of ``rn-rl task`` as a dataclass, which imports no torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from rn_rl.experiment.settings.options import shown_as


@dataclass
class TaskArms:
    """Options of ``rn-rl task`` that ``--help`` prints first."""

    help_section: ClassVar[str] = "arms and runs"

    task: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """imbalanced, recurrent, draw, babi, handwriting or adaptation."""
    norms: Annotated[str | None, shown_as("NORM,...")] = None
    """Arms, separated by commas; rn@10 commits every 10 optimizer steps. Default: the task's."""
    settings: Annotated[str | None, shown_as("NAME,...")] = None
    """Settings, separated by commas, such as n=0,n=9. Default: the task's."""
    seeds: Annotated[int | None, shown_as("N")] = None
    """Seeds of each arm and setting: SEED, SEED + 1, ... Default: 5, with --toy 2."""
    seed: int = 0
    """First seed."""
    commit_every: Annotated[str | None, shown_as("K|epoch")] = None
    """Phase of arms without @K: K optimizer steps, or one epoch. Default: the task's."""
    toy: bool = False
    """A few steps on little data, to try the command; its numbers mean nothing."""


@dataclass
class TaskFiles:
    """Files and processes of ``rn-rl task``."""

    help_section: ClassVar[str] = "files and machine"

    data: Annotated[Path | None, shown_as("PATH")] = None
    """Files of your own in place of the data that ship in packages; nothing is ever downloaded."""
    out: Path = Path("runs/tasks")
    """Folder of the results; the same command continues where it stopped."""
    jobs: Annotated[int | None, shown_as("N")] = None
    """Runs side by side, one thread each; default: one for each core, with --toy 1."""
    quiet: bool = False
    """No output."""


@dataclass
class TaskConfig(TaskFiles, TaskArms):
    """Train the arms of a supervised task with several seeds, and print a table with intervals.

    Runs that OUT already has are not repeated.
    """
