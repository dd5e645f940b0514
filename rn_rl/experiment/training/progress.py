"""Progress of a training: a live bar on a terminal, elsewhere a line at least every 10 seconds."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from rn_rl.agents.callbacks import mean_gain, online_norms
from rn_rl.experiment.runs import console
from rn_rl.experiment.runs.console import StatusLines, Watch


class TrainingProgress:
    """Show how far a training is: a live bar on a terminal, elsewhere lines.

    There is a line for each tenth of the training, and whenever 0.8
    :data:`~rn_rl.experiment.runs.console.LINE_INTERVAL` have passed without one.

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
        elif timesteps >= self._next_line or self.lines.silence >= 0.8 * console.LINE_INTERVAL:
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
