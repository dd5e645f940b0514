"""Jobs of a grid: the trainings that one process does in one go, wherever it runs."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import traceback
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rich.console import Console

from rn_rl.errors import TrainingStopped
from rn_rl.experiment.evaluation.config import EvaluateConfig
from rn_rl.experiment.evaluation.evaluate import evaluate
from rn_rl.experiment.grid.cells import Cell, key_of
from rn_rl.experiment.grid.disk import FoundRun, find_cell_runs
from rn_rl.experiment.grid.leases import Leases
from rn_rl.experiment.runs.console import Watch
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.io import write_json
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.launch import resume_batch, train_together
from rn_rl.experiment.training.single import train

MIN_SEEDS = 4
"""Fewest seeds of a batch that get a process of their own."""


@dataclass
class Job:
    """The trainings that one process does in one go."""

    config: TrainConfig
    specs: list[RunSpec]
    together: bool
    """True if the seeds are trained as a seed batch."""
    episodes: int
    """Episodes of the evaluation after each training."""
    stop_file: Path
    """When this file exists, the job stops at the next checkpoint."""
    batch: tuple[str, ...] = ()
    """Names of the run folders of an interrupted seed batch, which only continues as a whole."""
    arguments: list[str] = field(default_factory=lambda: list(sys.argv))
    """Command line, which every run records."""
    parent: int = field(default_factory=os.getpid)
    """Number of the process that made the job."""

    @property
    def keys(self) -> list[str]:
        """Key of every training."""
        return [key_of(spec) for spec in self.specs]

    @property
    def batch_keys(self) -> list[str]:
        """Key of the interrupted seed batch as a whole; empty without one."""
        text = " ".join((*self.batch, self.specs[0].norm, self.specs[0].algo))
        return [f"batch-{hashlib.sha256(text.encode()).hexdigest()[:12]}"] if self.batch else []


@dataclass
class Outcome:
    """Result of a job."""

    done: list[str] = field(default_factory=list)
    """Keys of trainings that are complete."""
    failed: dict[str, str] = field(default_factory=dict)
    """Errors in one line, by the key of the training that failed twice."""
    retried: dict[str, str] = field(default_factory=dict)
    """Errors in one line, by the key of the training or batch whose second try went well."""


def make_jobs(root: Path, cell: Cell, episodes: int, parts: int, stop_file: Path) -> list[Job]:
    """Return the jobs that are left of a cell.

    Args:
        root: folder of runs.
        cell: the cell.
        episodes: episodes of the evaluation after each training.
        parts: most jobs into which a seed batch is divided.
        stop_file: when this file exists, the jobs stop.

    Returns:
        A job for each interrupted seed batch, which continues as a whole, and jobs for the other
        seeds: at most ``parts`` seed batches, or one job for each seed.
    """
    found = find_cell_runs(root, cell.specs[0])
    jobs = []

    def add(specs: list[RunSpec], together: bool, batch: tuple[str, ...] = ()) -> None:
        jobs.append(Job(cell.config, specs, together, episodes, stop_file, batch))

    interrupted: dict[tuple[str, ...], list[RunSpec]] = {}
    fresh = []
    for spec in cell.specs:
        on_disk = found.get(key_of(spec))
        if on_disk is not None and on_disk.is_done(episodes):
            continue
        if on_disk is not None and on_disk.timesteps >= 0 and on_disk.spec.together:
            interrupted.setdefault(tuple(on_disk.spec.together), []).append(spec)
        else:
            fresh.append(spec)
    for batch, specs in interrupted.items():
        add(specs, True, batch)
    if not cell.together:
        for spec in fresh:
            add([spec], False)
    elif fresh:
        count = max(min(parts, len(fresh) // MIN_SEEDS), 1)
        for part in range(count):
            add(fresh[part::count], True)
    return jobs


def run_job(job: Job) -> Outcome:
    """Take leases, train what is missing and evaluate; what another process holds is left out.

    Every failure is tried once more, and does not end the rest of the job. The seeds of a batch
    that fails are tried again in halves, so that one bad seed does not cost the others.
    """
    if os.getpid() != job.parent:  # a worker, whose own command line says nothing
        sys.argv = job.arguments
    outcome = Outcome()
    if job.stop_file.exists():
        return outcome
    with Leases(job.config.out, job.batch_keys + job.keys, job.stop_file) as leases:
        mine = [spec for spec in job.specs if key_of(spec) in leases.held]
        if job.batch and len(leases.held) < 1 + len(job.specs):
            mine = []  # another process has a part of the batch, which continues only as a whole
        if mine:
            with contextlib.suppress(TrainingStopped):
                attempt(replace(job, specs=mine), leases.watch, outcome, afresh=False)
    return outcome


def attempt(job: Job, watch: Watch, outcome: Outcome, *, afresh: bool) -> None:
    """Train and evaluate, and add the result to ``outcome``; see :func:`run_job`."""
    try:
        train_missing(job, watch, afresh=afresh)
        outcome.done += job.keys
    except (TrainingStopped, KeyboardInterrupt):
        raise
    except Exception as error:
        record_failure(job.config.out, job.keys[0], "".join(traceback.format_exception(error)))
        outcome.retried[job.keys[0]] = one_line(error)
        if len(job.specs) > 1:
            half = len(job.specs) // 2
            for part in (job.specs[:half], job.specs[half:]):
                attempt(replace(job, specs=part), watch, outcome, afresh=True)
        elif not afresh:
            attempt(job, watch, outcome, afresh=True)
        else:
            outcome.failed[job.keys[0]] = outcome.retried.pop(job.keys[0])


def one_line(error: BaseException) -> str:
    """Format an error as one line of at most 300 characters."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def record_failure(root: Path, key: str, text: str) -> None:
    """Append a traceback to the file of a training's failures; to standard error on a full disk."""
    folder = failures(root)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with (folder / f"{key}.txt").open("a", encoding="utf-8") as stream:
            stream.write(text + "\n")
    except OSError as error:
        print(f"{folder / key}.txt: {error.strerror}; the failure was:\n{text}", file=sys.stderr)


def failures(root: Path) -> Path:
    """Return the folder with the tracebacks of failed trainings."""
    return root / ".grid" / "failures"


def train_missing(job: Job, watch: Watch, *, afresh: bool) -> None:
    """Train what is missing of a job, then evaluate the last policies.

    Args:
        job: the job, whose leases are held.
        watch: progress, and the request to stop.
        afresh: train interrupted runs from the beginning rather than from their checkpoints.
    """
    console = Console(quiet=True)
    found = find_cell_runs(job.config.out, job.specs[0])
    left = []
    for spec in job.specs:
        on_disk = found.get(key_of(spec))
        if on_disk is not None and on_disk.trained:
            continue
        if on_disk is None or on_disk.timesteps < 0 or afresh:
            left.append(spec)
        elif on_disk.spec.together:
            resume_batch(resuming(job.config, on_disk.run), console, watch)
            found = find_cell_runs(
                job.config.out, spec
            )  # the other seeds of its batch are trained now
        else:
            train(resuming(job.config, on_disk.run), console, watch)
    if left and job.together:
        trial = left[0].make_env()
        train_together(job.config, [replace(s, together=[]) for s in left], trial, console, watch)
    else:
        for spec in left:
            train(replace(job.config, seed=spec.seed), console, watch)
    found = find_cell_runs(job.config.out, job.specs[0])
    for spec in job.specs:
        evaluate_last(found[key_of(spec)], job.episodes)


def resuming(config: TrainConfig, run: Run) -> TrainConfig:
    """Return the options that continue a run of a grid."""
    # its settings are those of the command, which the user typed
    return TrainConfig(
        resume=run.folder, compile=config.compile, track=config.track, quiet=True, trust=True
    )


def evaluate_last(found: FoundRun, episodes: int) -> None:
    """Write ``final.json``: an evaluation of the last policy, which acts as in those of the training."""
    if found.is_done(episodes):
        return
    stochastic = not found.spec.deterministic_evaluation
    config = EvaluateConfig(
        found.run.folder,
        episodes=episodes,
        stochastic=stochastic,
        trust=True,  # its settings are those of the command, which the user typed
    )
    result = evaluate(config)
    # of these timesteps it is the last policy, also if a number of episodes ended the training before
    write_json(found.run.final_file, {**asdict(result), "timesteps": found.spec.timesteps})
