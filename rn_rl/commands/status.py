"""``rn-rl status``: how far the trainings in a folder are, also while another process runs them."""

from __future__ import annotations

import time

from rich.console import Console

from rn_rl.commands.config import StatusConfig
from rn_rl.errors import UserError
from rn_rl.experiment.grid.progress import grid_roots, progress_of
from rn_rl.experiment.runs.console import clock, say
from rn_rl.experiment.runs.name_table import name_table
from rn_rl.experiment.runs.records import find_runs

COLUMNS = (
    "normalizer, algorithm, environment",
    "runs",
    "done",
    "training",
    "diverged",
    "timesteps",
)
"""Headers of the table."""


def run_status(config: StatusConfig) -> None:
    """Print a table of the runs below a folder, the time left, and the runs that cannot be read."""
    console = Console()
    progress = progress_of(find_runs(config.runs), time.time(), grid_roots(config.runs))
    if not progress.trainings and not progress.problems:
        raise UserError(f"runs {config.runs}: no run in it yet")
    rows = []
    for cell, each in progress.cells().items():
        done = sum(one.done for one in each)
        counts = (len(each), done, sum(one.training for one in each))
        share = f"{100 * sum(one.share for one in each) / len(each):.0f}%"
        diverged = str(sum(one.diverged for one in each))
        rows.append([" ".join(cell), *map(str, counts), diverged, share])
    console.print(
        name_table(COLUMNS, rows, console.width, expendable=("diverged", "runs", "training"))
    )
    for problem in progress.problems:
        say(console, f"  {problem}", style="yellow")
    shares = [one.share for one in progress.trainings]
    if shares:
        done = sum(one.done for one in progress.trainings)
        told = f"{done} of {len(shares)} runs are done, {100 * sum(shares) / len(shares):.0f}% of"
        told += " their timesteps"
        if not progress.planned:
            told += "; runs that have not begun are not counted"
        if progress.seconds_left is not None:
            told += f"; about {clock(progress.seconds_left)} left"
        say(console, told)
