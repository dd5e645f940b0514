"""Progress of a training, visible all along: a live bar on a terminal, lines in a file."""

from __future__ import annotations

import time

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback

from rn_rl.agents.logging import mean_gain, online_norms


class ProgressCallback(BaseCallback):
    """Timesteps, speed, training return of the last episodes, last evaluation, mean gain.

    Args:
        total: timesteps of the whole run.
        evaluation: whose last result to show.
        title: of the run.
        console: where; on a terminal one live line, elsewhere a line for each tenth of the run.
    """

    def __init__(self, total: int, evaluation: EvalCallback, title: str, console: Console) -> None:
        super().__init__()
        self.total = total
        self.evaluation = evaluation
        self.title = title
        self.console = console
        self._started = 0.0
        self._first = 0
        self._next_line = 0.0
        self._next_refresh = 0.0
        self._bar: Progress | None = None

    def _on_training_start(self) -> None:
        self._started = time.monotonic()
        self._first = self.model.num_timesteps
        self._next_line = self._first + self.total / 10
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

    def _on_step(self) -> bool:
        if self._bar is not None:
            now = time.monotonic()
            if now >= self._next_refresh:
                self._next_refresh = now + 0.25
                self._bar.update(self._task, completed=self.num_timesteps, status=self.status())
        elif self.num_timesteps >= self._next_line:
            self._next_line += self.total / 10
            share = 100 * self.num_timesteps / self.total
            line = f"  {share:3.0f}%  {self.num_timesteps:>9,}  {self.status()}"
            self.console.print(line, soft_wrap=True, highlight=False)
        return True

    def status(self) -> str:
        """One line of figures."""
        seconds = max(time.monotonic() - self._started, 1e-9)
        parts = [f"{(self.num_timesteps - self._first) / seconds:,.0f} steps/s"]
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
        if self._bar is not None:
            self._bar.update(self._task, completed=self.num_timesteps, status=self.status())
            self._bar.stop()
            self._bar = None
