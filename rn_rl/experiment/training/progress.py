"""Progress of a training, visible all along: a live bar on a terminal, lines in a file."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from rn_rl.agents.callbacks import mean_gain, online_norms
from rn_rl.experiment.runs.console import Watch


class TrainingProgress:
    """On a terminal one live line, elsewhere a line for each tenth of the run.

    Args:
        total: timesteps of the whole run.
        title: of the run.
        console: where.
        watch: is told how far the training is.
    """

    def __init__(
        self, total: int, title: str, console: Console, watch: Watch | None = None
    ) -> None:
        self.total = total
        self.watch = watch or Watch()
        self.title = title
        self.console = console
        self._started = time.monotonic()
        self._first = 0
        self._next_line = 0.0
        self._next_refresh = 0.0
        self._bar: Progress | None = None

    def start(self, timesteps: int) -> None:
        """The training begins, with so many timesteps behind it."""
        self._started = time.monotonic()
        self._first = timesteps
        tenth = self.total / 10
        self._next_line = (self._first // tenth + 1) * tenth
        if self.console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                TextColumn("{task.percentage:>3.0f}%"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[status]}"),
                console=self.console,
            )
            self._task = self._bar.add_task(
                self.title, total=self.total, completed=self._first, status=""
            )
            self._bar.start()
        else:
            self.console.print(f"{self.title}: {self.total:,} timesteps")

    def update(self, timesteps: int, status: Callable[[], str]) -> None:
        """So many timesteps are done; the status is asked for when it is shown."""
        self.watch.timesteps = timesteps
        if self._bar is not None:
            now = time.monotonic()
            if now >= self._next_refresh:
                self._next_refresh = now + 0.25
                self._bar.update(self._task, completed=timesteps, status=status())
        elif timesteps >= self._next_line:
            self._next_line += self.total / 10
            share = 100 * timesteps / self.total
            line = f"  {share:3.0f}%  {timesteps:>9,}  {status()}"
            self.console.print(line, soft_wrap=True, highlight=False)

    def speed(self, timesteps: int) -> float:
        """Timesteps a second since the start."""
        return (timesteps - self._first) / max(time.monotonic() - self._started, 1e-9)

    def close(self, timesteps: int, status: Callable[[], str]) -> None:
        """Leave the terminal in order, whatever happened."""
        if self._bar is not None:
            self._bar.update(self._task, completed=timesteps, status=status())
            self._bar.stop()
            self._bar = None


class ProgressCallback(BaseCallback):
    """Timesteps, speed, training return of the last episodes, last evaluation, mean gain.

    Args:
        total: timesteps of the whole run.
        evaluation: whose last result to show.
        title: of the run.
        console: where.
        watch: is told how far the training is.
    """

    def __init__(
        self,
        total: int,
        evaluation: EvalCallback,
        title: str,
        console: Console,
        watch: Watch | None = None,
    ) -> None:
        super().__init__()
        self.evaluation = evaluation
        self.display = TrainingProgress(total, title, console, watch)

    def _on_training_start(self) -> None:
        self.display.start(self.model.num_timesteps)

    def _on_step(self) -> bool:
        self.display.update(self.num_timesteps, self.status)
        return True

    def status(self) -> str:
        """One line of figures."""
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
        """Leave the terminal in order, whatever happened."""
        self.display.close(self.num_timesteps, self.status)
