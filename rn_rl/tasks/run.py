"""``rn-rl task``: train the missing runs in a pool of processes, then write and print the page."""

from __future__ import annotations

import contextlib
import os
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import joblib
import torch
from joblib.externals.loky.process_executor import BrokenProcessPool
from rich.console import Console
from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
from rich.progress import Progress as ProgressBar

from rn_rl.errors import TrainingStopped, UserError, first_line
from rn_rl.experiment.runs.console import StatusLines, clock, command_line, say
from rn_rl.experiment.runs.io import write_text
from rn_rl.experiment.training.config import check_seeds
from rn_rl.experiment.training.interrupts import begin_worker, stop_on_interrupt
from rn_rl.normalization import split_names
from rn_rl.normalization.plugins import WithRegistered
from rn_rl.tasks.config import TaskConfig
from rn_rl.tasks.registry import find_task
from rn_rl.tasks.store import Run, Store, latest
from rn_rl.tasks.task import Task, split_arm

if TYPE_CHECKING:
    from rn_rl.tasks.results import Results

SEEDS, TOY_SEEDS = 5, 2
"""Seeds by default."""

MOST_SEED = 2_000_000_000
"""Largest first seed: scikit-learn's models take seeds below 2**32."""

STOPPING = "stopping after the runs in work (Ctrl-C again: at once)"
"""Line that acknowledges the first Ctrl-C."""


@dataclass(frozen=True)
class Job:
    """A run to train."""

    task: str
    arm: str
    setting: str
    seed: int
    data: Path | None
    toy: bool
    commit_every: int | None
    protocol: str

    def done(self, seconds: float = 0.0) -> Run:
        """Return the run without results, whose key is that of the finished run."""
        values = (self.arm, self.setting, self.seed, self.commit_every, self.protocol)
        return Run(*values, seconds, {}, {})

    @property
    def name(self) -> str:
        """Arm, setting and seed, for messages."""
        return f"{self.arm}, {self.setting}, seed {self.seed}"


@dataclass(frozen=True)
class Failure:
    """A run that raised an error."""

    name: str
    reason: str
    trace: str


@dataclass
class Progress:
    """Numbers of runs, read by the thread that prints the status; asked to stop by ``stop = True``."""

    total: int
    done: int
    before: int
    started: float
    stop: bool = False

    def status(self) -> str:
        """Return the progress with the time left as one line."""
        told = f"{self.done} of {self.total} runs"
        fresh = self.done - self.before
        if fresh and self.done < self.total:
            left = (time.monotonic() - self.started) / fresh * (self.total - self.done)
            told += f", about {clock(left)} left"
        return told


def run_task(config: TaskConfig) -> Results:
    """Train what is missing, then write and print the page.

    Returns:
        The runs of this command, also those that an earlier one had trained.

    Raises:
        UserError: anything that the user can fix, or runs failed.
        TrainingStopped: Ctrl-C; the same command goes on.
    """
    # need SciPy and matplotlib, which the processes that train do not
    from rn_rl.tasks.page import write_page
    from rn_rl.tasks.results import Results

    task = find_task(config.task)
    console = Console(quiet=config.quiet)
    jobs = make_jobs(task, config)
    stem = config.out / (f"{task.name}-toy" if config.toy else task.name)
    store = Store(Path(f"{stem}.jsonl"))
    with store.locked():
        finished = latest(store.read())
        todo = [job for job in jobs if job.done().key not in finished]
        progress = Progress(len(jobs), len(jobs) - len(todo), len(jobs) - len(todo), 0.0)
        say(console, f"{task.name}: {progress.status()} done; {jobs[0].protocol}")
        failures = train_all(todo, store, progress, config, console)
        finished = latest(store.read())
        runs = [finished[job.done().key] for job in jobs if job.done().key in finished]
        arms = dict.fromkeys(job.arm for job in jobs)
        settings = dict.fromkeys(job.setting for job in jobs)
        results = Results(task, runs, arms, settings, config.toy)
        if runs:
            write_page(results, stem, jobs[0].protocol, [command_line()], console)
    if failures:
        path = Path(f"{stem}-failures.txt")
        write_text(path, "\n".join(f"{each.name}\n{each.trace}" for each in failures))
        raise UserError(
            f"{len(failures)} of {len(jobs)} runs failed, such as {failures[0].name}: "
            f"{failures[0].reason}; more is in {path}, and the same command tries them again"
        )
    if progress.stop:
        raise TrainingStopped("stopped; the same command goes on where it stopped")
    return results


def make_jobs(task: Task, config: TaskConfig) -> list[Job]:
    """Return the runs of a command: seed by seed, so that a part of them is already a comparison.

    Raises:
        UserError: an option is wrong, or the data cannot be read.
    """
    count = config.seeds if config.seeds is not None else TOY_SEEDS if config.toy else SEEDS
    check_seeds(count)
    if not 0 <= config.seed <= MOST_SEED:
        raise UserError(f"--seed {config.seed}: expected 0 to {MOST_SEED:,}")
    if config.jobs is not None and config.jobs < 1:
        raise UserError(f"--jobs {config.jobs}: expected at least 1")
    if config.data is not None and not config.data.exists():
        raise UserError(f"--data {config.data}: there is no such file or folder")
    steps = parse_steps(config.commit_every, task.commit_every)
    given = split_names(config.norms) or (task.toy_arms if config.toy else task.arms)
    arms = list(dict.fromkeys(task.check_arm(name) for name in given))
    chosen = split_names(config.settings)
    usual = (config.toy and task.toy_settings) or task.settings
    settings = [task.check_setting(name) for name in chosen or usual]
    data = config.data.resolve() if config.data is not None else None
    protocol = task.protocol(data, config.toy)
    jobs = []
    for seed in range(config.seed, config.seed + count):
        for setting in settings:
            for arm in arms:
                every = split_arm(arm)[1] or steps
                shared = (data, config.toy, every, protocol)
                jobs.append(Job(task.name, arm, setting, seed, *shared))
    return jobs


def parse_steps(text: str | None, default: int | None) -> int | None:
    """Return the optimizer steps of a phase; None for an epoch.

    Raises:
        UserError: the text is neither ``epoch`` nor a number of at least 1.
    """
    if text is None:
        return default
    if text == "epoch":
        return None
    if not (text.isdecimal() and int(text) >= 1):
        raise UserError(
            f"--commit-every {text!r}: expected a number of optimizer steps of at least 1, or epoch"
        )
    return int(text)


def train_all(
    todo: list[Job], store: Store, progress: Progress, config: TaskConfig, console: Console
) -> list[Failure]:
    """Train runs side by side and store each when it is finished.

    Returns:
        The runs that raised an error.

    Raises:
        UserError: a process was killed.
    """
    failures: list[Failure] = []
    if not todo:
        return failures
    progress.started = time.monotonic()

    def wanted() -> Iterator[Job]:
        for job in todo:
            if progress.stop:
                return
            yield job

    # a toy ends before other processes have started
    usual = 1 if config.toy else os.cpu_count() or 1
    processes = min(config.jobs or usual, len(todo))
    with (
        stop_on_interrupt(console, progress, STOPPING),
        StatusLines(console, progress.status),
        shown(console, progress) as refresh,
    ):
        try:
            for outcome in side_by_side(wanted(), processes):
                if isinstance(outcome, Failure):
                    failures.append(outcome)
                    say(console, f"  failed: {outcome.name}: {outcome.reason}", style="red")
                else:
                    store.append(outcome)
                progress.done += 1
                refresh()
        except BrokenProcessPool:
            raise UserError(
                f"a process was killed, perhaps for memory, after {progress.done} of "
                f"{progress.total} runs; the same command goes on, with --jobs 1 it needs least"
            ) from None
    return failures


@contextlib.contextmanager
def shown(console: Console, progress: Progress) -> Iterator[Callable[[], None]]:
    """Show a live bar on a terminal inside this context; yields the function that updates it."""
    if not console.is_terminal or console.quiet:
        yield lambda: None
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with ProgressBar(*columns, console=console) as bar:
        task = bar.add_task(progress.status(), total=progress.total, completed=progress.done)
        yield lambda: bar.update(task, completed=progress.done, description=progress.status())


def side_by_side(jobs: Iterator[Job], processes: int) -> Iterator[Run | Failure]:
    """Yield the outcome of each job when it is finished; in this process if ``processes`` is 1."""
    if processes == 1:
        threads = torch.get_num_threads()
        try:
            yield from map(train, jobs)
        finally:
            torch.set_num_threads(threads)
        return
    options = {"inner_max_num_threads": 1, "initializer": begin_worker}
    with joblib.parallel_config("loky", **options), warnings.catch_warnings():
        # loky replaces a process that has grown, after its job; nothing is lost
        warnings.filterwarnings("ignore", "A worker stopped while some jobs", UserWarning)
        pool = joblib.Parallel(
            n_jobs=processes, return_as="generator_unordered", pre_dispatch=processes, batch_size=1
        )
        yield from pool(joblib.delayed(WithRegistered(train))(job) for job in jobs)


def train(job: Job) -> Run | Failure:
    """Train one run with one thread."""
    torch.set_num_threads(1)
    started = time.monotonic()
    try:
        result = find_task(job.task).train_one(
            split_arm(job.arm)[0],
            job.setting,
            job.seed,
            data=job.data,
            toy=job.toy,
            commit_every=job.commit_every,
        )
    except Exception as error:  # one run must not take the others along
        return Failure(job.name, first_line(error), traceback.format_exc())
    run = job.done(time.monotonic() - started)
    run.metrics = {name: float(value) for name, value in result.metrics.items()}
    run.curves = result.curves
    return run
