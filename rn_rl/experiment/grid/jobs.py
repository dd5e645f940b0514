"""A grid of trainings: which are done, which are to do, and one job after another, wherever it runs."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
import traceback
import warnings
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from rich.console import Console
from stable_baselines3.common.vec_env import VecEnv

from rn_rl.errors import TrainingStopped, UserError
from rn_rl.experiment.evaluation.config import EvaluateConfig
from rn_rl.experiment.evaluation.evaluate import evaluate
from rn_rl.experiment.grid.leases import Claims
from rn_rl.experiment.runs import checkpoint
from rn_rl.experiment.runs.console import Watch
from rn_rl.experiment.runs.folder import Run, RunSpec, file_name, light
from rn_rl.experiment.runs.io import write_json
from rn_rl.experiment.runs.records import Final, read_final
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.launch import no_batch, resume_batch, train_together
from rn_rl.experiment.training.single import resolve, train

LEAST_PART = 4
"""Seeds of a batch that is worth a process of its own."""


@dataclass
class Cell:
    """All seeds of one (algorithm, environment, normalizer)."""

    config: TrainConfig
    specs: list[RunSpec]
    """One a seed."""
    together: bool
    """Whether its seeds are trained in a batch."""
    reason: str | None = None
    """Why not, if that was not asked for."""
    label: str | None = None
    """Instead of its normalizer, where others have the same."""

    @property
    def name(self) -> str:
        """Of its rows and messages."""
        spec = self.specs[0]
        if self.label:
            return f"{self.label} {spec.algo} {spec.env}"
        return f"{spec.norm} {spec.algo} {spec.env}"

    @property
    def keys(self) -> list[str]:
        """One a seed."""
        return [key_of(spec) for spec in self.specs]


@dataclass
class Job:
    """What one process does at a stretch."""

    config: TrainConfig
    specs: list[RunSpec]
    together: bool
    episodes: int
    """Of the evaluation after the training."""
    stop_file: Path
    batch: tuple[str, ...] = ()
    """Of a batch that was begun: its folders. It goes on as a whole, or not at all."""
    arguments: list[str] = field(default_factory=lambda: list(sys.argv))
    """The command line, which every run records."""
    parent: int = field(default_factory=os.getpid)
    """Process that made the job."""

    @property
    def keys(self) -> list[str]:
        """Of what it trains."""
        return [key_of(spec) for spec in self.specs]

    @property
    def batch_key(self) -> list[str]:
        """Of the batch that goes on, if there is one."""
        text = " ".join((*self.batch, self.specs[0].norm, self.specs[0].algo))
        return [f"batch-{hashlib.sha256(text.encode()).hexdigest()[:12]}"] if self.batch else []


@dataclass
class Outcome:
    """What became of a job's seeds."""

    done: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    """Key, and the reason in one line."""
    retried: dict[str, str] = field(default_factory=dict)
    """The same of first failures, after which more was tried."""


def key_of(spec: RunSpec) -> str:
    """The same for two trainings that are to give the same run."""
    identity = {**spec.settings(), "norm": spec.norm, "seed": spec.seed}
    text = json.dumps(identity, sort_keys=True, default=str)
    readable = f"{spec.norm}-{spec.algo}-{file_name(spec.env)}-{spec.seed}"
    safe = "".join(c if c.isalnum() or c in "+-._" else "_" for c in readable)[:80]
    return f"{safe}-{hashlib.sha256(text.encode()).hexdigest()[:12]}"


def make_cell(config: TrainConfig, seeds: list[int], engine: str) -> Cell:
    """Check a cell, and find out whether its seeds can be trained together.

    Raises:
        UserError: anything that the user can fix.
    """
    spec = resolve(replace(config, seed=seeds[0]))
    if spec.eval_freq > spec.timesteps:
        raise UserError(
            f"--eval-freq {spec.eval_freq}: expected at most the {spec.timesteps:,} timesteps of a run"
        )
    specs = [replace(spec, seed=seed) for seed in seeds]
    trial = spec.make_env(n_envs=1)
    try:
        with warnings.catch_warnings():  # the same will be said of the real ones
            warnings.simplefilter("ignore")
            spec.make_model(trial, **light(spec))
        reason = None if engine == "process" else why_not_together(spec, trial)
    finally:
        trial.close()
    if reason and engine == "batch":
        raise UserError(f"--engine batch: {reason}; use --engine auto or process")
    return Cell(config, specs, together=engine != "process" and reason is None, reason=reason)


def why_not_together(spec: RunSpec, trial: VecEnv) -> str | None:
    """See :func:`~.launch.no_batch`, which builds an agent of all environments."""
    if spec.n_envs == trial.num_envs:
        return no_batch(spec, trial)
    env = spec.make_env()
    try:
        return no_batch(spec, env)
    finally:
        env.close()


@dataclass
class Found:
    """A run of a cell on disk."""

    run: Run
    spec: RunSpec
    timesteps: int
    """That its checkpoint has behind it; -1 without one."""
    final: Final | None
    """The evaluation of its last policy, if there is one."""

    @property
    def trained(self) -> bool:
        """Whether nothing is left to train."""
        return self.timesteps >= self.spec.timesteps or (
            self.timesteps >= 0 and checkpoint.has_episodes(self.run.checkpoint, self.spec.episodes)
        )


def run_folders(root: Path, spec: RunSpec) -> list[Path]:
    """Where runs of a cell are, or were begun."""
    parent = root / spec.norm.replace("/", "-") / spec.algo
    return sorted(parent.glob(f"{file_name(spec.env)}_*"))


def is_readable(folder: Path) -> bool:
    """Whether a folder tells what run it is."""
    try:
        Run(folder).read_spec()
    except UserError:
        return False
    return True


def find(root: Path, spec: RunSpec) -> dict[str, Found]:
    """The runs of a cell on disk by key; of several with one key, the farthest."""
    found: dict[str, Found] = {}
    for folder in run_folders(root, spec):
        run = Run(folder)
        try:
            its = run.read_spec()
        except UserError:
            continue  # the report names it
        final = read_final(run, [])
        if final is not None and final.timesteps >= its.timesteps:
            steps = its.timesteps
        else:
            try:
                steps = checkpoint.timesteps(run.checkpoint)
            except (UserError, OSError, KeyError, ValueError):  # none, or half of one
                steps = -1
        key = key_of(its)
        if key not in found or found[key].timesteps < steps:
            found[key] = Found(run, its, steps, final)
    return found


def is_done(found: Found | None, episodes: int) -> bool:
    """Whether a run is trained, and its last policy evaluated in so many episodes at least."""
    if found is None or found.final is None:
        return False
    return found.final.episodes >= episodes and found.final.timesteps >= found.spec.timesteps


def make_jobs(root: Path, cell: Cell, episodes: int, parts: int, stop_file: Path) -> list[Job]:
    """What is left to do of a cell: at most so many parts of a batch, or one job a seed.

    A batch that was interrupted goes on as a whole.
    """
    found = find(root, cell.specs[0])
    todo = [spec for spec in cell.specs if not is_done(found.get(key_of(spec)), episodes)]
    jobs = []

    def add(specs: list[RunSpec], together: bool, batch: tuple[str, ...] = ()) -> None:
        jobs.append(Job(cell.config, specs, together, episodes, stop_file, batch))

    begun: dict[tuple[str, ...], list[RunSpec]] = {}
    fresh = []
    for spec in todo:
        on_disk = found.get(key_of(spec))
        if on_disk is not None and on_disk.timesteps >= 0 and on_disk.spec.together:
            begun.setdefault(tuple(on_disk.spec.together), []).append(spec)
        else:
            fresh.append(spec)
    for batch, specs in begun.items():
        add(specs, True, batch)
    if not cell.together:
        for spec in fresh:
            add([spec], False)
    elif fresh:
        count = max(min(parts, len(fresh) // LEAST_PART), 1)
        for part in range(count):
            add(fresh[part::count], True)
    return jobs


def run_job(job: Job) -> Outcome:
    """Claim, train what is missing, evaluate; every failure is tried once more, the others go on.

    Seeds of a batch that fails are tried again in halves, so that one bad seed does not cost the rest.
    """
    if os.getpid() != job.parent:  # a worker, whose own command line says nothing
        sys.argv = job.arguments
    outcome = Outcome()
    if job.stop_file.exists():
        return outcome
    with Claims(job.config.out, job.batch_key + job.keys, job.stop_file) as claims:
        mine = [spec for spec in job.specs if key_of(spec) in claims.held]
        if job.batch and len(claims.held) < 1 + len(job.specs):
            mine = []  # somebody has a part of it, and a batch cannot be parted
        if mine:
            with contextlib.suppress(TrainingStopped):
                attempt(replace(job, specs=mine), claims.watch, outcome, afresh=False)
    return outcome


def attempt(job: Job, watch: Watch, outcome: Outcome, *, afresh: bool) -> None:
    """Train and evaluate; see :func:`run_job`."""
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
    """An error as a reader of a table wants it."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def record_failure(root: Path, key: str, what: str) -> None:
    """The traceback, for whoever wants to find out."""
    folder = failures(root)
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / f"{key}.txt").open("a", encoding="utf-8") as stream:
        stream.write(what + "\n")


def failures(root: Path) -> Path:
    """Where the tracebacks of failed trainings are."""
    return root / ".grid" / "failures"


def train_missing(job: Job, watch: Watch, *, afresh: bool) -> None:
    """Go on with what was begun (unless afresh), train the rest, and evaluate last policies."""
    console = Console(quiet=True)
    found = find(job.config.out, job.specs[0])
    left = []
    for spec in job.specs:
        on_disk = found.get(key_of(spec))
        if on_disk is not None and on_disk.trained:
            continue
        if on_disk is None or on_disk.timesteps < 0 or afresh:
            left.append(spec)
        elif on_disk.spec.together:
            resume_batch(replace(job.config, resume=on_disk.run.folder), console, watch)
            found = find(job.config.out, spec)  # the others of its batch are trained now too
        else:
            train(replace(job.config, resume=on_disk.run.folder), console, watch)
    if left and job.together:
        trial = left[0].make_env()
        train_together(job.config, [replace(s, together=[]) for s in left], trial, console, watch)
    else:
        for spec in left:
            train(replace(job.config, seed=spec.seed), console, watch)
    found = find(job.config.out, job.specs[0])
    for spec in job.specs:
        finish(found[key_of(spec)], job.episodes)


def finish(found: Found, episodes: int) -> None:
    """``final.json``: the last policy, evaluated as the training's evaluations were."""
    if is_done(found, episodes):
        return
    stochastic = not found.spec.deterministic_evaluation
    result = evaluate(EvaluateConfig(found.run.folder, episodes=episodes, stochastic=stochastic))
    write_json(found.run.final_file, asdict(result))


def side_by_side(threads: int, device: str, cores: int) -> int:
    """Processes that run at once on so many cores; on a GPU one, since several take turns there."""
    return 1 if device.startswith("cuda") else max(cores // threads, 1)
