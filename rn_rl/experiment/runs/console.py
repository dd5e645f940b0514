"""The typed command, lines printed for the user, and the object by which a thread follows a training."""

from __future__ import annotations

import shlex
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

LINE_INTERVAL = 10.0
"""Most seconds without a line where standard output is no terminal."""


@dataclass
class Watch:
    """Progress of a training and a request to stop it, shared with the thread that started it."""

    timesteps: int = 0
    """Timesteps done; written by the training."""
    stop: bool = False
    """True asks the training to save a checkpoint and stop at the end of the phase."""


def command_line() -> str:
    """Return the command that the user typed, to be recorded with a run."""
    program = Path(sys.argv[0]).name.removesuffix(".exe")  # as scripts are named on Windows
    return shlex.join(["rn-rl" if program == "__main__.py" else program, *sys.argv[1:]])


def shell(*words: object) -> str:
    """Return a command, or a part of one, as it is typed into a shell.

    Normalizers have parentheses, and run folders with them.
    """
    return shlex.join(map(str, words))


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line of text literally: brackets are not taken for markup, long lines are not cut."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


class StatusLines:
    """Print a line at least every :data:`LINE_INTERVAL` seconds while the block runs.

    A thread prints the current status and the time since the start of the block when nothing else
    was printed for that long, so that neither a slow set-up nor a long update is silent. On a
    terminal, where a live display is shown instead, and on a quiet console there is no thread.

    Args:
        console: where lines are printed.
        status: text of the thread's lines, or a function that returns it. It runs in the thread,
            so it may read plain numbers only.

    Attributes:
        status: may be set to another text or function while the block runs.
    """

    def __init__(self, console: Console, status: str | Callable[[], str]) -> None:
        self.console = console
        self.status = status
        self._started = self._last = time.monotonic()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> StatusLines:
        self._started = self._last = time.monotonic()
        if not (self.console.is_terminal or self.console.quiet):
            self._thread = threading.Thread(target=self._run, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        if self._thread is not None:
            self._thread.join()

    @property
    def silence(self) -> float:
        """Seconds since the last line."""
        return time.monotonic() - self._last

    def print(self, text: str) -> None:
        """Print a line, after which the thread is silent for a while."""
        self._last = time.monotonic()
        say(self.console, text)

    def _run(self) -> None:
        while not self._end.wait(max(LINE_INTERVAL - self.silence, 0)):
            if self.silence >= LINE_INTERVAL:
                status = self.status if isinstance(self.status, str) else self.status()
                self.print(f"  {status}, {clock(time.monotonic() - self._started)} passed")


def clock(seconds: float) -> str:
    """Format a duration: ``1:02:03``, or ``2:03`` below an hour."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
