"""Progress of the trainings in a folder, from run folders, leases and plans."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from rn_rl.errors import UserError
from rn_rl.experiment.grid import leases
from rn_rl.experiment.grid.cells import key_of
from rn_rl.experiment.grid.disk import FoundRun
from rn_rl.experiment.grid.plan import Plan, read_plans
from rn_rl.experiment.runs import checkpoint
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.records import read_evaluations, read_final, walk

RECENT = 120
"""Seconds since a run last wrote a file, within which it counts as training, also without a lease."""


@dataclass
class Training:
    """A run on disk, or a planned training that has none yet."""

    cell: tuple[str, str, str]
    """Normalizer, algorithm and environment."""
    timesteps: int
    """Its length."""
    share: float = 0.0
    """Share of its timesteps that is done."""
    done: bool = False
    """True if it is trained and has a policy."""
    diverged: bool = False
    """True if it diverged."""
    training: bool = False
    """True if it has a live lease, or is unfinished and wrote a file within :data:`RECENT` seconds."""
    written: float = 0.0
    """Time at which a file of the run was last written."""

    @property
    def ended(self) -> bool:
        """True if nothing is left to train."""
        return self.done or self.diverged


@dataclass
class Progress:
    """All trainings in a folder."""

    trainings: list[Training] = field(default_factory=list)
    """Runs on disk, then planned trainings that have none."""
    problems: list[str] = field(default_factory=list)
    """Runs that cannot be read."""
    planned: bool = False
    """True if plans tell of every training, so that those that have not begun are counted."""
    seconds_left: float | None = None
    """Estimated time to the end of the grids that are running; None if unknown."""

    def cells(self) -> dict[tuple[str, str, str], list[Training]]:
        """Return the trainings by normalizer, algorithm and environment."""
        found: dict[tuple[str, str, str], list[Training]] = {}
        for each in self.trainings:
            found.setdefault(each.cell, []).append(each)
        return found


def grid_roots(folder: Path) -> list[Path]:
    """Return the folders at or below ``folder`` in which ``compare`` or ``reproduce`` ran a grid."""
    return [place.absolute() for place, names in walk(folder) if ".grid" in names]


def progress_of(folders: Iterable[Path], now: float, roots: Iterable[Path] = ()) -> Progress:
    """Return the progress of runs, and of planned trainings.

    Args:
        folders: run folders.
        now: time in seconds since the epoch.
        roots: absolute paths of the folders whose plans are counted, from :func:`grid_roots`.
    """
    progress = Progress()
    by_key: dict[tuple[Path, str], Training] = {}
    for folder in folders:
        run = Run(folder)
        try:
            key, found = look_at(run, now)
        except UserError as error:
            progress.problems.append(str(error))
            continue
        progress.trainings.append(found)
        above = folder.absolute().parents
        place = above[min(2, len(above) - 1)], key
        before = by_key.get(place)
        # of several runs of one training, the one that goes on
        if before is None or (before.ended, before.written) < (found.ended, found.written):
            by_key[place] = found
    planned: set[tuple[Path, str]] = set()
    plans = [(root, plan) for root in roots for plan in read_plans(root)]
    for root, plan in plans:
        for cell in plan.cells:
            for key in cell.keys:
                planned.add((root, key))
                if (root, key) not in by_key:
                    name = cell.norm, cell.algo, cell.env
                    by_key[root, key] = Training(name, cell.timesteps)
                    progress.trainings.append(by_key[root, key])
    work = {root: leases.timesteps_in_work(root) for root in {root for root, _ in by_key}}
    for (root, key), found in by_key.items():
        if key in work[root] and not found.ended:
            found.training = True
            at = work[root][key] / max(found.timesteps, 1)
            found.share = max(found.share, min(at, 1.0))
    progress.planned = planned.issuperset(by_key)
    left = [time_left(plan, root, by_key) for root, plan in plans]
    progress.seconds_left = max((each for each in left if each is not None), default=None)
    return progress


def look_at(run: Run, now: float) -> tuple[str, Training]:
    """Return the key of a run, and how far it is by its files.

    Raises:
        UserError: it cannot be read.
    """
    spec = run.read_spec()
    steps = timesteps_of(run)
    final = read_final(run, [])
    complete = final is not None and final.timesteps >= spec.timesteps
    diverged = run.divergence is not None
    done = not diverged and (complete or FoundRun(run, spec, steps, final).trained)
    found = Training((spec.norm, spec.algo, spec.env), spec.timesteps, done=done, diverged=diverged)
    found.share = 1.0 if found.ended else min(steps / max(spec.timesteps, 1), 1.0)
    found.written = last_write(run.folder)
    found.training = not found.ended and now - found.written < RECENT
    return key_of(spec), found


def time_left(plan: Plan, root: Path, by_key: dict[tuple[Path, str], Training]) -> float | None:
    """Return the seconds to the end of a grid; None if none of it is being trained, or at the start."""
    mine = [by_key[root, key] for cell in plan.cells for key in cell.keys]
    if not any(each.training for each in mine):
        return None
    behind = sum(each.share * each.timesteps for each in mine)
    return plan.seconds_left(round(behind), leases.time_at(leases.leases_folder(root)))


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
