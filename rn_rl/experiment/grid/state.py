"""State of a grid while its trainings run: what is done, in work and failed."""

from __future__ import annotations

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console

from rn_rl.experiment.grid import leases
from rn_rl.experiment.grid.cells import Cell
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.grid.disk import done_keys, find_cell_runs
from rn_rl.experiment.runs.console import clock


@dataclass(frozen=True)
class CellState:
    """Progress of one cell."""

    cell: Cell
    done: int
    """Seeds that are trained and evaluated."""
    running: dict[str, int]
    """Timesteps behind each seed that some process trains, by key."""
    failed: int
    """Seeds that failed."""

    @property
    def total(self) -> int:
        """Timesteps of all seeds that have not failed."""
        return (len(self.cell.specs) - self.failed) * self.cell.specs[0].timesteps

    @property
    def behind(self) -> int:
        """Timesteps that are done."""
        steps = self.cell.specs[0].timesteps
        return self.done * steps + sum(min(at, steps) for at in self.running.values())


KEPT = ("eval_freq", "eval_episodes", "probe")
"""Options that change no training, so that a run that is there already is not trained again."""


@dataclass
class Grid:
    """A grid of trainings while it runs."""

    config: CompareConfig
    cells: list[Cell]
    console: Console
    stop_file: Path
    """When this file exists, all jobs of this command stop, on whatever machine."""
    failed: dict[str, str] = field(default_factory=dict)
    """Reasons of failures, by key."""
    retried: dict[str, str] = field(default_factory=dict)
    """Reasons of failures after which a second try went well, by key."""
    alone: set[str] = field(default_factory=set)
    """Keys of jobs that may have killed their process: they run one at a time."""
    single: set[str] = field(default_factory=set)
    """Keys of a batch whose process was killed: each becomes a job of its own."""
    progress: int = 0
    """Count of trainings that this command ended, done or failed."""
    started: float = field(default_factory=time.monotonic)
    """Time at which this command began."""
    behind_at_start: int | None = None
    """Timesteps of all trainings that were done when this command began."""
    _done: dict[str, tuple[set[str], set[str]]] = field(default_factory=dict)
    """By first key of a cell: keys in work when its runs were last read, and keys done then."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def kept_options(self) -> list[str]:
        """Return sentences about finished trainings that have other options than this command."""
        pairs = [
            (each.spec, cell.specs[0])
            for cell in self.cells
            for key, each in find_cell_runs(self.config.out, cell.specs[0]).items()
            if key in cell.keys and each.timesteps >= each.spec.timesteps
        ]
        found = []
        for name in KEPT:
            values = [(getattr(old, name), getattr(new, name)) for old, new in pairs]
            option = f"--{name.replace('_', '-')}"
            for value, count in Counter(old for old, new in values if old != new).items():
                shown = f"{option} {value:,}" if not isinstance(value, bool) else option
                what = f"no {option}" if value is False else shown
                found.append(
                    f"{count} done with {what}: they stay so; another --out trains them again"
                )
        return found

    @property
    def stop(self) -> bool:
        """True after a request to stop; setting it to True is that request."""
        return self.stop_file.exists()

    @stop.setter
    def stop(self, value: bool) -> None:
        if value:
            self.stop_file.touch()
        else:
            self.stop_file.unlink(missing_ok=True)

    @property
    def size(self) -> int:
        """Number of trainings."""
        return sum(len(cell.specs) for cell in self.cells)

    def name_of(self, key: str) -> str:
        """Return the name of a training for people, such as ``ln dqn CartPole-v1 seed 3``."""
        for cell in self.cells:
            for spec, its in zip(cell.specs, cell.keys, strict=True):
                if its == key:
                    return f"{cell.name} seed {spec.seed}"
        return key

    def forget_done(self) -> None:
        """Read the runs of all cells anew at the next :meth:`states`."""
        with self._lock:
            self._done.clear()

    def states(self) -> list[CellState]:
        """Return the progress of every cell.

        The runs of a cell are read again only when a training of it has begun or ended.
        """
        with self._lock:
            in_work = leases.timesteps_in_work(self.config.out)
            return [self._state(cell, in_work) for cell in self.cells]

    def _state(self, cell: Cell, in_work: dict[str, int]) -> CellState:
        keys = cell.keys
        running = {key: in_work[key] for key in keys if key in in_work}
        before, done = self._done.get(keys[0], (None, set()))
        if before != running.keys():
            done = done_keys(self.config.out, cell.specs[0], self.config.final_episodes)
            done &= set(keys)
            self._done[keys[0]] = set(running), done
        failed = sum(key in self.failed for key in keys)
        return CellState(cell, len(done - running.keys()), running, failed)

    def time_left(self, states: list[CellState]) -> str:
        """Estimate the time to the end from the speed since this command began; empty if unknown."""
        behind = sum(state.behind for state in states)
        total = sum(state.total for state in states)
        if self.behind_at_start is None:
            self.behind_at_start = behind
        gained = behind - self.behind_at_start
        if gained <= 0 or behind >= total:
            return ""
        return f"about {clock(self.passed * (total - behind) / gained)} left"

    @property
    def passed(self) -> float:
        """Seconds since this command began."""
        return time.monotonic() - self.started
