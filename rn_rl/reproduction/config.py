"""Options of ``rn-rl reproduce``: a documented dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from rn_rl.errors import UserError
from rn_rl.experiment.settings.options import shown_as

STUDY_FLAGS = ("learning-rates", "warm-up", "as-published", "preregistered")
"""Flags of the studies other than the protocol itself."""


@dataclass
class StudyOptions:
    """Options of ``rn-rl reproduce`` that ``--help`` prints first."""

    help_section: ClassVar[str] = "study"

    what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """cartpole, lunarlander or redbluedoors."""
    learning_rates: bool = False
    """Instead: none, ln, rn and ln+rn at nine learning rates, from 1e-5 to 1e-1."""
    warm_up: bool = False
    """Instead: none and ln with a learning rate that rises as the ramp does."""
    as_published: bool = False
    """Instead: the paper's arms with its confounds (epsilon, acting that moves the state)."""
    preregistered: bool = False
    """redbluedoors, instead: 30 new seeds of six arms, a question decided before the runs."""
    huber: bool = False
    """cartpole, lunarlander: SB3's DQN (Huber loss, clipped gradients, timesteps), not the paper's."""
    recurrent: bool = False
    """redbluedoors: PPO with an LSTM."""


@dataclass
class RunOptions:
    """Number and length of the runs of ``rn-rl reproduce``."""

    help_section: ClassVar[str] = "runs"

    seeds: Annotated[int | None, shown_as("N")] = None
    """Seeds of each arm; default: 50 (redbluedoors: 10; --preregistered: 30)."""
    quick: bool = False
    """A rough answer in minutes: 4 seeds, seven arms, a part of the episodes or timesteps."""
    timesteps: Annotated[int | None, shown_as("N")] = None
    """Most timesteps of each run; default: the protocol's."""
    episodes: Annotated[int | None, shown_as("N")] = None
    """Episodes of each run of cartpole or lunarlander; default: the protocol's 2,000."""
    arms: Annotated[str | None, shown_as("ARM,...")] = None
    """Only these of the arms, or any normalizers, separated by commas; default: all arms."""


@dataclass
class FileOptions:
    """Where ``rn-rl reproduce`` keeps its runs and results."""

    help_section: ClassVar[str] = "files"

    out: Path = Path("runs/reproduce")
    """Folder of the runs; the same command continues where it stopped."""
    results: Annotated[Path | None, shown_as("FOLDER")] = None
    """Folder of TASK.md, TASK.csv and TASK.svg; default: OUT."""
    add: bool = False
    """Add to the runs in RESULTS/TASK.csv, from any machine: train only missing arms and seeds."""


@dataclass
class MachineOptions:
    """How ``rn-rl reproduce`` uses the machine."""

    help_section: ClassVar[str] = "machine"

    engine: str = "auto"
    """auto, process, batch or ray, as in 'rn-rl compare'."""
    jobs: Annotated[int | None, shown_as("N")] = None
    """Trainings side by side; default: one for each core, on a GPU one."""
    compile: bool = False
    """Compile a seed batch's updates: starts later, then 5% slower to 10% faster where measured."""
    address: Annotated[str | None, shown_as("HOST:PORT")] = None
    """Ray cluster."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: int = 1
    """Threads of torch and of envpool in each process."""
    quiet: bool = False
    """No progress display."""


@dataclass
class ReproduceConfig(MachineOptions, FileOptions, RunOptions, StudyOptions):
    """Run the paper's protocol with controls, and print our table beside the paper's."""

    @property
    def study_name(self) -> str | None:
        """Name of the study that was chosen in place of the protocol; None: the protocol.

        Raises:
            UserError: several studies were chosen.
        """
        asked = [name for name in STUDY_FLAGS if getattr(self, name.replace("-", "_"))]
        if len(asked) > 1:
            raise UserError(f"--{asked[0]} --{asked[1]}: expected one study at a time")
        return asked[0] if asked else None

    @property
    def file_name(self) -> str:
        """Name of the result files, without suffix."""
        return self.named(self.study_name)

    @property
    def protocol_name(self) -> str:
        """Name of the protocol's result files, whatever study was chosen."""
        return self.named(None)

    def named(self, study: str | None) -> str:
        """Return the name of a study's result files; None: of the protocol's."""
        memory = "recurrent" if self.recurrent else None
        huber = "huber" if self.huber else None
        parts = (self.what, huber, memory, study, "quick" if self.quick else None)
        return "-".join(part for part in parts if part)
