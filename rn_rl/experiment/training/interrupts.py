"""Ctrl-C or SIGTERM during a training: a request to stop where a checkpoint is exact."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from rich.console import Console

from rn_rl.errors import warning_line
from rn_rl.experiment.runs.console import say


class Stoppable(Protocol):
    """Something that is asked to stop by ``stop = True``, and stops when it next looks."""

    stop: bool


STOPPING = "stopping after this phase (Ctrl-C again: at once, without a checkpoint)"
"""Line that acknowledges the first Ctrl-C of a training."""


@contextmanager
def stop_on_interrupt(console: Console, work: Stoppable, told: str = STOPPING) -> Iterator[None]:
    """Request a stop at the first Ctrl-C within the block; raise KeyboardInterrupt at the second.

    SIGTERM, by which Slurm, Docker and systemd end a process, counts as Ctrl-C.

    Outside of the main thread, where Python allows no signal handlers, the block runs unchanged.

    Args:
        console: where the first Ctrl-C is acknowledged.
        work: the training or grid that is to stop.
        told: the line that acknowledges it.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if work.stop:
            raise KeyboardInterrupt
        work.stop = True
        say(console, told)

    numbers = (signal.SIGINT, signal.SIGTERM)
    try:
        before = [signal.signal(number, handle) for number in numbers]
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


def begin_worker() -> None:
    """Ignore Ctrl-C in a worker process, whose parent requests the stop, and print warnings as one line.

    A terminal sends SIGINT to every process of its group; a worker that dies of it while it waits
    for work would break the whole pool.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    warnings.formatwarning = lambda message, *_, **__: warning_line("rn-rl", message)
