"""Finished runs of a task as JSON lines, so that a command that was stopped or killed goes on."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from rn_rl.errors import UserError
from rn_rl.experiment.runs.io import complete_lines, named_errors
from rn_rl.tasks.task import Result


@dataclass
class Run:
    """A finished run: one line of the file."""

    arm: str
    """Name of the arm, with ``@K`` if it has one."""
    setting: str
    """Setting of the task."""
    seed: int
    """Seed."""
    commit_every: int | None
    """Optimizer steps of a phase; None: an epoch."""
    protocol: str
    """Network, data and training, see :meth:`rn_rl.tasks.task.Task.protocol`."""
    seconds: float
    """Wall time."""
    metrics: dict[str, float]
    """Numbers by name."""
    curves: dict[str, Any]
    """Nested lists by name."""

    @property
    def key(self) -> tuple[Any, ...]:
        """Identity of the run: equal keys have equal results."""
        return self.arm, self.setting, self.seed, self.commit_every, self.protocol

    @property
    def result(self) -> Result:
        """Outcome of the run as :meth:`rn_rl.tasks.task.Task.train_one` returned it."""
        return Result(self.metrics, self.curves)


KINDS: dict[str, type | tuple[type, ...]] = {
    "arm": str,
    "setting": str,
    "seed": int,
    "commit_every": (int, type(None)),
    "protocol": str,
    "seconds": float,
    "metrics": dict,
    "curves": dict,
}
"""Type of each value of a line."""


class Store:
    """File of finished runs, one JSON object on each line; a line is written whole and synced.

    Args:
        path: the file; it need not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keep other processes of this machine from writing the file inside this context.

        Raises:
            UserError: another process has it.
        """
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"), timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise UserError(
                f"{self.path}: another command writes it; wait for it, or choose another --out"
            ) from None
        try:
            yield
        finally:
            lock.release()

    def read(self) -> list[Run]:
        """Return the runs of all complete lines; what a killed process left after them is ignored.

        Raises:
            UserError: a line is not one of ours.
        """
        runs = []
        for number, line in enumerate(complete_lines(self.path), 1):
            try:
                values = as_numbers(json.loads(line))
                if not isinstance(values, dict) or values.keys() != KINDS.keys():
                    raise ValueError(f"expected {', '.join(KINDS)}")
                for name, kind in KINDS.items():
                    if not isinstance(values[name], kind) or values[name] is True:
                        raise ValueError(f"{name} is {values[name]!r:.80}")
                if not all(isinstance(value, int | float) for value in values["metrics"].values()):
                    raise ValueError("a metric is no number")
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{self.path}, line {number}: no run of 'rn-rl task' ({error}); remove the line, "
                    "or choose another --out"
                ) from None
            runs.append(Run(**values))
        return runs

    def append(self, run: Run) -> None:
        """Add a run, after removing the part of a line that a killed process may have left.

        Raises:
            OSError: it cannot be written, for example to a full disk; runs that were there stay.
        """
        line = json.dumps(as_plain(asdict(run)), allow_nan=False).encode() + b"\n"
        whole = sum(map(len, complete_lines(self.path)))
        with (
            named_errors(self.path),
            self.path.open("r+b" if self.path.exists() else "xb") as stream,
        ):
            stream.seek(whole)
            stream.truncate()
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())


def as_plain(values: Any) -> Any:
    """Replace what JSON lacks: NaN and infinities become the texts ``nan``, ``inf`` and ``-inf``."""
    if isinstance(values, dict):
        return {name: as_plain(value) for name, value in values.items()}
    if isinstance(values, list | tuple):
        return [as_plain(value) for value in values]
    return str(values) if isinstance(values, float) and not math.isfinite(values) else values


def as_numbers(values: Any) -> Any:
    """Invert :func:`as_plain`."""
    if isinstance(values, dict):
        return {name: as_numbers(value) for name, value in values.items()}
    if isinstance(values, list):
        return [as_numbers(value) for value in values]
    return float(values) if values in ("nan", "inf", "-inf") else values


def latest(runs: Iterable[Run]) -> dict[tuple[Any, ...], Run]:
    """Return runs by key; the last of equal keys."""
    return {run.key: run for run in runs}
