"""Ctrl-C during a training: a request to stop at the next point where a checkpoint is exact."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Protocol

from rich.console import Console

from rn_rl.experiment.runs.console import say


class Stoppable(Protocol):
    """Something that is asked to stop by ``stop = True``, and stops when it next looks."""

    stop: bool


@contextmanager
def stop_on_interrupt(console: Console, work: Stoppable) -> Iterator[None]:
    """Request a stop at the first Ctrl-C within the block; raise KeyboardInterrupt at the second.

    Outside of the main thread, where Python allows no signal handlers, the block runs unchanged.

    Args:
        console: Where the first Ctrl-C is acknowledged.
        work: What is asked to stop.
    """

    def handle(number: int, frame: FrameType | None) -> None:
        if work.stop:
            raise KeyboardInterrupt
        work.stop = True
        say(console, "stopping after this phase (Ctrl-C again: at once, without a checkpoint)")

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ignore_interrupts() -> None:
    """Ignore Ctrl-C in a worker process, whose parent requests the stop.

    A terminal sends SIGINT to every process of its group; a worker that dies of it while it waits
    for work would break the whole pool.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
