"""Run the jobs of a grid side by side: in processes of this machine or of a Ray cluster."""

from __future__ import annotations

import time
from dataclasses import replace

import joblib
import psutil
from joblib.externals.loky.process_executor import BrokenProcessPool

from rn_rl.errors import UserError
from rn_rl.experiment.grid import leases
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.grid.jobs import (
    Job,
    Outcome,
    make_jobs,
    record_failure,
    run_job,
)
from rn_rl.experiment.grid.live_table import displayed
from rn_rl.experiment.grid.plan import write_plan
from rn_rl.experiment.grid.ray_tasks import TRIES, run_on_ray
from rn_rl.experiment.grid.state import Grid
from rn_rl.experiment.grid.workers import workers
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.training.interrupts import stop_on_interrupt
from rn_rl.normalization.plugins import WithRegistered


def run_grid(grid: Grid) -> bool:
    """Train until every training is done or has failed, or a stop is requested.

    Trainings that other commands work on are waited for.

    Returns:
        True if it was stopped.

    Raises:
        UserError: the folder of runs cannot be written, or there is no such Ray cluster.
    """
    config = grid.config
    try:
        (config.out / ".grid").mkdir(parents=True, exist_ok=True)
        write_plan(config.out, grid.cells, sum(state.behind for state in grid.states()))
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"--out {config.out}: cannot write there ({reason}); choose another folder"
        ) from None
    with stop_on_interrupt(grid.console, grid), workers(config) as jobs, displayed(grid):
        while not grid.stop:
            todo = plan_jobs(grid, jobs)
            if not todo:
                break
            busy = leases.timesteps_in_work(config.out)
            free = [job for job in todo if not all(key in busy for key in job.keys)]
            suspects = [job for job in free if grid.alone.intersection(job.keys)]
            if suspects and len(suspects) == len(free):
                free = suspects[:1]
            else:
                free = [job for job in free if job not in suspects]
            before = grid.progress
            if free:
                run_jobs(grid, free, jobs)
            if grid.progress == before:
                time.sleep(leases.BEAT)  # other commands have all that is left
        stopped = grid.stop
    grid.stop = False
    return stopped


def run_jobs(grid: Grid, todo: list[Job], jobs: int) -> None:
    """Run jobs side by side; when a process is killed, find out which job it was.

    Args:
        grid: its state is updated with every outcome.
        todo: the jobs.
        jobs: most processes at once.
    """
    config = grid.config
    share = psutil.virtual_memory().available / 2 / max(min(jobs, len(todo)), 1)
    for job in todo:
        job.config.memory = share / 1e9
    if config.engine == "ray":
        for job, result in run_on_ray(todo, config.threads, config.device, config.jobs):
            if result is None:
                record_loss(grid, job, f"its process or node was lost {TRIES} times")
            else:
                record_outcome(grid, result)
        return
    # two processes at least: a single job would run in this process and take it along
    parallel = joblib.Parallel(
        n_jobs=max(jobs, 2) if grid.alone else jobs, return_as="generator_unordered"
    )
    try:
        for outcome in parallel(joblib.delayed(WithRegistered(run_job))(job) for job in todo):
            record_outcome(grid, outcome)
    except BrokenProcessPool:
        if grid.stop:  # Ctrl-C while a worker was starting
            return
        grid.progress += 1
        # all processes ended with the killed one; the leases that they left tell their jobs
        lost = [job for job in todo if any(lease_is_abandoned(config, key) for key in job.keys)]
        for job in lost:
            if len(todo) == 1:
                record_loss(grid, job, "its process was killed, perhaps for memory")
            grid.alone.update(job.keys)
        names = ", ".join(job.keys[0] for job in lost) or "none"
        say(grid.console, f"  a process was killed; in work were {names}: one at a time now")


def record_loss(grid: Grid, job: Job, reason: str) -> None:
    """Try the seeds of a batch that was lost one by one; a single one has failed."""
    grid.progress += 1
    if len(job.specs) > 1:
        grid.single.update(job.keys)
        return
    [key] = job.keys
    grid.failed[key] = reason
    record_failure(grid.config.out, key, reason)
    say(grid.console, f"  failed: {grid.name_of(key)}: {reason}", style="red")


def lease_is_abandoned(config: CompareConfig, key: str) -> bool:
    """Return True if there is a lease on a training and its holder is dead."""
    path = leases.leases_folder(config.out) / key
    return path.exists() and leases.is_abandoned(path)


def plan_jobs(grid: Grid, jobs: int) -> list[Job]:
    """Return the jobs that are left, without trainings that have failed.

    Args:
        grid: the grid.
        jobs: processes among which seed batches are divided.
    """
    config = grid.config
    batches = sum(cell.together for cell in grid.cells) or 1
    todo = []
    for cell in grid.cells:
        parts = max(jobs // batches, 1)
        for job in make_jobs(config.out, cell, config.final_episodes, parts, grid.stop_file):
            job.specs = [
                s for s, k in zip(job.specs, job.keys, strict=True) if k not in grid.failed
            ]
            split = grid.single.intersection(job.keys)
            groups = [[spec] for spec in job.specs] if split else [job.specs]
            for specs in groups:
                if specs:
                    todo.append(replace(job, specs=specs, batch=() if split else job.batch))
    return todo


def record_outcome(grid: Grid, outcome: Outcome) -> None:
    """Add the result of a job to the state of the grid, and print it."""
    grid.progress += len(outcome.done) + len(outcome.failed)
    grid.failed.update(outcome.failed)
    grid.retried.update(outcome.retried)
    grid.forget_done()
    for key, reason in outcome.failed.items():
        say(grid.console, f"  failed: {grid.name_of(key)}: {reason}", style="red")
    if not grid.console.is_terminal and outcome.done:
        more = f" and {len(outcome.done) - 1} more" if len(outcome.done) > 1 else ""
        done = sum(state.done for state in grid.states())
        name = grid.name_of(outcome.done[0])
        say(grid.console, f"  {done} of {grid.size} trained: {name}{more}")
