"""Progress of a training: a live bar on a terminal, elsewhere a line at least every 10 seconds."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from rn_rl.agents.callbacks import mean_gain, online_norms
from rn_rl.experiment.runs.console import Watch, say

LINE_INTERVAL = 10.0
"""Most seconds without a line where standard output is no terminal."""


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


class TrainingProgress:
    """Show how far a training is: a live bar on a terminal, elsewhere lines.

    There is a line for each tenth of the training, and whenever 0.8 :data:`LINE_INTERVAL` have
    passed without one.

    Args:
        total: timesteps of the whole run.
        title: name of the training.
        lines: prints the lines; its console has the bar.
        watch: its ``timesteps`` is kept up to date.
    """

    def __init__(
        self, total: int, title: str, lines: StatusLines, watch: Watch | None = None
    ) -> None:
        self.total = total
        self.watch = watch or Watch()
        self.title = title
        self.lines = lines
        self._started = time.monotonic()
        self._first = 0
        self._next_line = 0.0
        self._next_refresh = 0.0
        self._bar: Progress | None = None

    def start(self, timesteps: int) -> None:
        """Begin the display of a training that has ``timesteps`` behind it."""
        self._started = time.monotonic()
        self._first = self.watch.timesteps = timesteps
        tenth = self.total / 10
        self._next_line = (self._first // tenth + 1) * tenth
        if self.lines.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[status]}"),
                console=self.lines.console,
            )
            self._task = self._bar.add_task(
                self.title, total=self.total, completed=self._first, status=""
            )
            self._bar.start()
        else:
            self.lines.print(f"{self.title}: {self.total:,} timesteps")
            self.lines.status = lambda: self._share(self.watch.timesteps)

    def _share(self, timesteps: int) -> str:
        share = min(timesteps / self.total, 1)  # a rollout may end after the last timestep
        return f"{100 * share:3.0f}%  {timesteps:>9,}"

    def update(self, timesteps: int, status: Callable[[], str]) -> None:
        """Show that ``timesteps`` are done; ``status()`` is called only when it is shown."""
        self.watch.timesteps = timesteps
        if self._bar is not None:
            now = time.monotonic()
            if now >= self._next_refresh:
                self._next_refresh = now + 0.25
                self._bar.update(self._task, completed=timesteps, status=status())
        elif timesteps >= self._next_line or self.lines.silence >= 0.8 * LINE_INTERVAL:
            while self._next_line <= timesteps:
                self._next_line += self.total / 10
            self.lines.print(f"  {self._share(timesteps)}  {status()}")

    def speed(self, timesteps: int) -> float:
        """Return the timesteps per second since :meth:`start`."""
        return (timesteps - self._first) / max(time.monotonic() - self._started, 1e-9)

    def close(self, timesteps: int, status: Callable[[], str]) -> None:
        """Remove the live bar, so that the terminal can be used again."""
        if self._bar is not None:
            self._bar.update(self._task, completed=timesteps, status=status())
            self._bar.stop()
            self._bar = None


class ProgressCallback(BaseCallback):
    """Show timesteps, speed, training return, last evaluation and mean gain of a single run.

    Args:
        total: timesteps of the whole run.
        evaluation: callback whose last result is shown.
        title: name of the training.
        lines: prints the lines; its console has the bar.
        watch: its ``timesteps`` is kept up to date.
    """

    def __init__(
        self,
        total: int,
        evaluation: EvalCallback,
        title: str,
        lines: StatusLines,
        watch: Watch | None = None,
    ) -> None:
        super().__init__()
        self.evaluation = evaluation
        self.display = TrainingProgress(total, title, lines, watch)

    def _on_training_start(self) -> None:
        self.display.start(self.model.num_timesteps)

    def _on_step(self) -> bool:
        self.display.update(self.num_timesteps, self.status)
        return True

    def status(self) -> str:
        """Return the figures as one line."""
        parts = [f"{self.display.speed(self.num_timesteps):,.0f} steps/s"]
        if self.model.ep_info_buffer:
            returns = [episode["r"] for episode in self.model.ep_info_buffer]
            parts.append(f"training return {np.mean(returns):.2f}")
        if np.isfinite(self.evaluation.last_mean_reward):
            parts.append(f"evaluation {self.evaluation.last_mean_reward:.2f}")
        gains = [mean_gain(norm) for norm in online_norms(self.model.policy).values()]
        if gains and np.isfinite(gains).all():
            parts.append(f"gain {np.mean(gains):.2f}")
        return " · ".join(parts)

    def close(self) -> None:
        """Remove the live bar, so that the terminal can be used again."""
        self.display.close(self.num_timesteps, self.status)
