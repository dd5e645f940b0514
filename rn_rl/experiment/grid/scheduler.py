"""A grid of trainings while it runs: who does what next, what failed, and the live table."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import joblib
import psutil
from joblib.externals.loky.process_executor import BrokenProcessPool
from rich.console import Console
from rich.live import Live
from rich.table import Table

from rn_rl.errors import UserError
from rn_rl.experiment.grid import leases
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.grid.jobs import (
    Cell,
    Job,
    Outcome,
    find,
    is_done,
    make_jobs,
    record_failure,
    run_job,
    side_by_side,
)
from rn_rl.experiment.runs.console import say


@dataclass
class Grid:
    """A grid while it runs."""

    config: CompareConfig
    cells: list[Cell]
    console: Console
    stop_file: Path
    failed: dict[str, str] = field(default_factory=dict)
    """Key, and why."""
    retried: dict[str, str] = field(default_factory=dict)
    """Of failures after which another try went well: key, and why."""
    alone: set[str] = field(default_factory=set)
    """Keys of jobs in whose company a process was killed: they run one at a time."""
    single: set[str] = field(default_factory=set)
    """Keys of a batch whose process was killed: each is a job of its own."""
    progress: int = 0
    """Grows with everything that is done or fails."""
    begun: float = field(default_factory=time.monotonic)
    first: int | None = None
    """Timesteps that were behind all trainings when this command began."""
    seen: dict[str, tuple[set[str], set[str]]] = field(default_factory=dict)
    """By first key of a cell: keys that were in work when its runs were last read, and those done."""

    def states(self) -> list[tuple[Cell, int, dict[str, int]]]:
        """Each cell, how many of its seeds are done, and the timesteps of those in work."""
        working = leases.running(self.config.out)
        found = []
        for cell in self.cells:
            in_work = {key: working[key] for key in cell.keys if key in working}
            before, done = self.seen.get(cell.keys[0], (None, set()))
            if before != in_work.keys():  # reading runs takes time, and only an end changes them
                done = find_done(cell, self.config)
                self.seen[cell.keys[0]] = set(in_work), done
            found.append((cell, len(done - in_work.keys()), in_work))
        return found

    def table(self) -> Table:
        """The live table."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("training")
        for name in ("seeds", "done", "running", "failed"):
            table.add_column(name, justify="right")
        table.add_column("")
        behind = total = 0
        for cell, done, in_work in self.states():
            steps = cell.specs[0].timesteps
            failed = sum(key in self.failed for key in cell.keys)
            mine = done * steps + sum(min(at, steps) for at in in_work.values())
            behind += mine
            all_steps = (len(cell.specs) - failed) * steps
            total += all_steps
            share = f"{100 * mine / all_steps:.0f}%" if all_steps else ""
            cells = [f"{n}" if n else "" for n in (len(cell.specs), done, len(in_work), failed)]
            style = "red" if failed else "green" if done == len(cell.specs) else None
            table.add_row(cell.name, *cells, share, style=style)
        table.caption = self.time_left(behind, total)
        table.caption_justify = "left"
        return table

    def time_left(self, behind: int, total: int) -> str:
        """By the speed since this command began."""
        if self.first is None:
            self.first = behind
        passed = time.monotonic() - self.begun
        if behind >= total:
            return f"done in {clock(passed)}"
        gained = behind - self.first
        left = f"about {clock(passed * (total - behind) / gained)} left" if gained > 0 else ""
        return f"{clock(passed)} passed" + (f", {left}" if left else "")


def clock(seconds: float) -> str:
    """1:02:03"""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


def find_done(cell: Cell, config: CompareConfig) -> set[str]:
    """Keys of the seeds that are trained and evaluated."""
    found = find(config.out, cell.specs[0])
    return {key for key in cell.keys if is_done(found.get(key), config.final_episodes)}


def run_grid(grid: Grid) -> bool:
    """Train until everything is done, failed, or stopped; what others work on is waited for.

    Returns:
        Whether it was stopped.
    """
    config = grid.config
    try:
        (config.out / ".grid").mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = error.strerror or error
        raise UserError(
            f"--out {config.out}: cannot write there ({reason}); choose another folder"
        ) from None
    with stop_on_interrupt(grid), workers(config) as jobs, shown(grid):
        while not grid.stop_file.exists():
            todo = plan(grid, jobs)
            if not todo:
                break
            busy = leases.running(config.out)
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
                time.sleep(leases.BEAT)  # others have all that is left
        stopped = grid.stop_file.exists()
    grid.stop_file.unlink(missing_ok=True)
    return stopped


def run_jobs(grid: Grid, todo: list[Job], jobs: int) -> None:
    """Jobs that can run now, side by side; of a process that is killed, find out which it was."""
    config = grid.config
    share = psutil.virtual_memory().available / 2 / max(min(jobs, len(todo)), 1)
    for job in todo:
        job.config.memory = share / 1e9
    # Ray's backend gives results at the end; until then the folder tells how far all are
    kind = "list" if config.engine == "ray" else "generator_unordered"
    # two at least, since one alone would run in this process and take it along
    parallel = joblib.Parallel(n_jobs=max(jobs, 2) if grid.alone else jobs, return_as=kind)
    try:
        for outcome in parallel(joblib.delayed(run_job)(job) for job in todo):
            take(grid, outcome)
    except BrokenProcessPool:
        if grid.stop_file.exists():  # of a Ctrl-C in the moment a worker began
            return
        grid.progress += 1
        # all processes went down with it; the claims that they leave tell what they were working on
        lost = [job for job in todo if any(is_abandoned(config, key) for key in job.keys)]
        for job in lost:
            if len(todo) == 1 and len(job.specs) == 1:
                key, reason = job.keys[0], "its process was killed, perhaps for memory"
                grid.failed[key] = reason
                record_failure(config.out, key, reason)
                say(grid.console, f"  failed: {key}: {reason}", style="red")
            elif len(todo) == 1:
                grid.single.update(job.keys)
            grid.alone.update(job.keys)
        names = ", ".join(job.keys[0] for job in lost) or "none"
        say(grid.console, f"  a process was killed; in work were {names}: one at a time now")


def is_abandoned(config: CompareConfig, key: str) -> bool:
    """Whether a claim's holder is dead."""
    path = leases.claims_folder(config.out) / key
    return path.exists() and leases.abandoned(path)


def plan(grid: Grid, jobs: int) -> list[Job]:
    """What is left, apart from what has failed."""
    config = grid.config
    batches = sum(cell.together for cell in grid.cells) or 1
    todo = []
    for cell in grid.cells:
        parts = max(jobs // batches, 1)
        for job in make_jobs(config.out, cell, config.final_episodes, parts, grid.stop_file):
            job.specs = [
                s for s, k in zip(job.specs, job.keys, strict=True) if k not in grid.failed
            ]
            parted = grid.single.intersection(job.keys)
            groups = [[spec] for spec in job.specs] if parted else [job.specs]
            for specs in groups:
                if specs:
                    todo.append(replace(job, specs=specs, batch=() if parted else job.batch))
    return todo


def take(grid: Grid, outcome: Outcome) -> None:
    """Note what became of a job."""
    grid.progress += len(outcome.done) + len(outcome.failed)
    grid.failed.update(outcome.failed)
    grid.retried.update(outcome.retried)
    grid.seen.clear()
    for key, reason in outcome.failed.items():
        say(grid.console, f"  failed: {key}: {reason}", style="red")
    if not grid.console.is_terminal and outcome.done:
        more = f" and {len(outcome.done) - 1} more" if len(outcome.done) > 1 else ""
        done = sum(n for _, n, _ in grid.states())
        total = sum(len(cell.specs) for cell in grid.cells)
        say(grid.console, f"  {done} of {total} trained: {outcome.done[0]}{more}")


@contextmanager
def shown(grid: Grid) -> Iterator[None]:
    """The live table, on a terminal."""
    if not grid.console.is_terminal:
        total = sum(len(cell.specs) for cell in grid.cells)
        done = sum(n for _, n, _ in grid.states())
        say(grid.console, f"{total} trainings, {done} of them done")
        yield
        return
    end = threading.Event()
    with Live(grid.table(), console=grid.console, auto_refresh=False) as live:

        def refresh() -> None:
            while not end.wait(leases.BEAT):
                live.update(grid.table(), refresh=True)

        thread = threading.Thread(target=refresh, daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()
            grid.seen.clear()
            live.update(grid.table(), refresh=True)


@contextmanager
def stop_on_interrupt(grid: Grid) -> Iterator[None]:
    """The first Ctrl-C asks all jobs to stop at a checkpoint, wherever they are; the second ends."""

    def handle(number: int, frame: Any) -> None:
        if grid.stop_file.exists():
            raise KeyboardInterrupt
        grid.stop_file.touch()
        say(grid.console, "stopping after this phase (Ctrl-C again: at once, without a checkpoint)")

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread: whoever runs us handles Ctrl-C
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def ignore_interrupts() -> None:
    """A terminal sends Ctrl-C to workers too, and one that waits for work would take the others along."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextmanager
def workers(config: CompareConfig) -> Iterator[int]:
    """Where jobs run, and how many side by side."""
    if config.engine != "ray":
        options = {"inner_max_num_threads": config.threads, "initializer": ignore_interrupts}
        with joblib.parallel_config("loky", **options), warnings.catch_warnings():
            # loky renews a process that has grown, after its job: nothing is lost, or to be done
            warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
            cpus = os.cpu_count() or 1
            yield config.jobs or side_by_side(config.threads, config.device, cpus)
        return
    try:
        import ray
        from ray.util.joblib import register_ray
    except ImportError:
        raise UserError(
            "--engine ray: ray is not installed; install it with: pip install 'rn-rl[ray]'"
        ) from None
    try:
        ray.init(
            address=config.address,
            ignore_reinit_error=True,
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"--address {config.address}: no Ray cluster there ({reason})") from None
    register_ray()
    try:
        cpus = int(ray.cluster_resources().get("CPU", os.cpu_count() or 1))
        with joblib.parallel_config("ray"):
            yield config.jobs or side_by_side(config.threads, config.device, cpus)
    finally:
        ray.shutdown()
