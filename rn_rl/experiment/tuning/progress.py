"""Display of a search while it runs: one live line on a terminal, lines elsewhere."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.live import Live
from rich.text import Text

from rn_rl.experiment.runs.console import StatusLines, clock, say

REFRESH_SECONDS = 1.0
"""Time between two looks at the study on a terminal."""


class SearchProgress:
    """Progress of the search for a normalizer, as its study has it, with the trials of all processes.

    Args:
        study: Optuna's study.
        norm: the normalizer.
        trials: number of trials that the search is to have.
        seeds: seeds of each trial.
        timesteps: length of a training.
    """

    def __init__(self, study: Any, norm: str, trials: int, seeds: int, timesteps: int) -> None:
        self.study, self.norm, self.trials = study, norm, trials
        self.seeds, self.timesteps = seeds, timesteps
        self.started = time.monotonic()
        self.first = self.behind()

    def by_state(self, *names: str) -> list[Any]:
        """Return the trials that are in one of the states."""
        return [t for t in self.study.get_trials(deepcopy=False) if t.state.name in names]

    def done(self) -> int:
        """Return the number of trials that ended, by themselves or by the pruner."""
        return len(self.by_state("COMPLETE", "PRUNED"))

    def share(self, trial: Any) -> float:
        """Return the share of a running trial that is behind it, from what it has reported.

        It reports timesteps, where seeds are trained together, else numbers of seeds.
        """
        step = max(trial.intermediate_values, default=0)
        return min(step / (self.timesteps if step > self.seeds else self.seeds), 1.0)

    def behind(self) -> float:
        """Return the number of trials that are behind, with the shares of those that run."""
        return self.done() + sum(map(self.share, self.by_state("RUNNING")))

    def time_left(self) -> str:
        """Estimate the time to the end from the speed since this command began; empty if unknown."""
        behind = self.behind()
        gained, left = behind - self.first, self.trials - behind
        if gained <= 0 or left <= 0:
            return ""
        return f"about {clock((time.monotonic() - self.started) * left / gained)} left"

    def __str__(self) -> str:
        ended, running = self.by_state("COMPLETE"), len(self.by_state("RUNNING"))
        best = max((trial.value for trial in ended), default=None)
        parts = [f"{self.norm}: {self.done()} of {self.trials} trials"]
        parts.append(f"{running} running" if running else "")
        parts.append("no value yet" if best is None else f"best {best:.2f}")
        return ", ".join(part for part in (*parts, self.time_left()) if part)


@contextmanager
def displayed(progress: SearchProgress, console: Console) -> Iterator[None]:
    """Show the progress of a search while the block runs.

    Args:
        progress: the progress.
        console: where it is printed; on a terminal one line is redrawn, elsewhere there is a line at
            least every 10 seconds.
    """
    if console.is_terminal and not console.quiet:
        with live_line(progress, console):
            yield
        return
    say(console, f"searching for {progress}")
    with StatusLines(console, progress.__str__):
        yield


@contextmanager
def live_line(progress: SearchProgress, console: Console) -> Iterator[None]:
    """Show the progress as one line, redrawn by a thread."""
    end = threading.Event()

    def line() -> Text:
        passed = clock(time.monotonic() - progress.started)
        return Text(f"{progress}, {passed} passed", no_wrap=True, overflow="ellipsis")

    with Live(line(), console=console, auto_refresh=False) as live:

        def refresh() -> None:
            while not end.wait(REFRESH_SECONDS):
                live.update(line(), refresh=True)

        thread = threading.Thread(target=refresh, daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()
            live.update(line(), refresh=True)
