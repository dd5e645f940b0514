"""``rn-rl status``: how far the trainings in a folder are, also while another process runs them."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rn_rl.commands.config import StatusConfig
from rn_rl.errors import UserError
from rn_rl.experiment.grid.disk import FoundRun
from rn_rl.experiment.runs import checkpoint
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.records import find_runs, read_evaluations, read_final

RECENT = 120
"""Seconds since a run last wrote a file, within which it counts as training."""


@dataclass
class Progress:
    """Runs of one normalizer, algorithm and environment."""

    shares: list[float] = field(default_factory=list)
    """Share of its timesteps that each run has done."""
    done: int = 0
    """Runs that are trained and have a policy."""
    diverged: int = 0
    """Trainings that diverged."""
    training: int = 0
    """Unfinished runs that wrote a file within the last :data:`RECENT` seconds."""


def run_status(config: StatusConfig) -> None:
    """Print a table of the runs below a folder, and the runs that cannot be read."""
    console = Console()
    folders = find_runs(config.runs)
    if not folders:
        raise UserError(f"runs {config.runs}: no run in it yet")
    found, problems = progress_of(folders, time.time())
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name in ("normalizer", "algorithm", "environment"):
        table.add_column(name)
    for name in ("runs", "done", "training", "diverged", "timesteps"):
        table.add_column(name, justify="right")
    for key, each in found.items():
        counts = (len(each.shares), each.done, each.training, each.diverged)
        share = f"{100 * sum(each.shares) / len(each.shares):.0f}%"
        table.add_row(*map(Text, key), *map(str, counts), share)
    console.print(table)
    for problem in problems:
        say(console, f"  {problem}", style="yellow")
    shares = [share for each in found.values() for share in each.shares]
    if shares:
        done = sum(each.done for each in found.values())
        total = f"{done} of {len(shares)} runs are done, {100 * sum(shares) / len(shares):.0f}% of"
        say(console, f"{total} their timesteps; runs that have not begun are not counted")


def progress_of(
    folders: Iterable[Path], now: float
) -> tuple[dict[tuple[str, str, str], Progress], list[str]]:
    """Return the progress of runs by normalizer, algorithm and environment, and what cannot be read.

    Args:
        folders: run folders.
        now: time in seconds since the epoch.
    """
    found: dict[tuple[str, str, str], Progress] = {}
    problems = []
    for folder in folders:
        run = Run(folder)
        try:
            spec = run.read_spec()
        except UserError as error:
            problems.append(str(error))
            continue
        each = found.setdefault((spec.norm, spec.algo, spec.env), Progress())
        steps = timesteps_of(run)
        diverged = run.divergence is not None
        final = read_final(run, [])
        complete = final is not None and final.timesteps >= spec.timesteps
        trained = diverged or complete or FoundRun(run, spec, steps, final).trained
        each.shares.append(1.0 if trained else min(steps / max(spec.timesteps, 1), 1.0))
        each.diverged += diverged
        each.done += trained and not diverged
        each.training += not trained and now - last_write(folder) < RECENT
    return found, problems


def timesteps_of(run: Run) -> int:
    """Return the timesteps that a run has done, by its checkpoint and its evaluations."""
    try:
        done = checkpoint.timesteps_done(run.checkpoint)
    except UserError:  # no checkpoint yet
        done = 0
    evaluated, _, _ = read_evaluations(run, [])
    return max(done, int(evaluated[-1]) if len(evaluated) else 0)


def last_write(folder: Path) -> float:
    """Return when a file of a run was last written, in seconds since the epoch."""
    times = []
    for path in (folder, *folder.iterdir()):
        try:
            times.append(path.stat().st_mtime)
        except OSError:  # renamed meanwhile
            continue
    return max(times, default=0.0)
