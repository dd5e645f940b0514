"""Train many seeds of one configuration: together in one process where that is possible."""

from __future__ import annotations

import os
from dataclasses import replace

import joblib
import torch
from rich.console import Console
from stable_baselines3.common.vec_env import VecEnv

from rn_rl.errors import UserError
from rn_rl.experiment.runs import checkpoint, monitors
from rn_rl.experiment.runs.console import StatusLines, Watch, command_line, say
from rn_rl.experiment.runs.folder import Run, new_run
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.runs.trust import plain_name, refuse_links
from rn_rl.experiment.training.config import TrainConfig, check_seeds
from rn_rl.experiment.training.envpool import no_envpool
from rn_rl.experiment.training.memory import largest_batch
from rn_rl.experiment.training.resolve import resolve
from rn_rl.experiment.training.seed_batch import BATCHES, make_model_silently, train_batch
from rn_rl.experiment.training.single import train
from rn_rl.normalization.plugins import WithRegistered

ENGINES = ("auto", "process", "batch")
VECTOR_ENVS = ("auto", "envpool", "gymnasium")


def several(config: TrainConfig) -> bool:
    """Return True if several seeds are to be trained, or a run of a seed batch is continued.

    Raises:
        UserError: ``--engine``, ``--vector-env``, ``--seeds`` or ``--memory`` has no valid value.
    """
    for name, value, known in (
        ("--engine", config.engine, ENGINES),
        ("--vector-env", config.vector_env, VECTOR_ENVS),
    ):
        if value not in known:
            raise UserError(f"{name} {value}: expected one of {', '.join(known)}")
    check_seeds(config.seeds)
    if config.memory is not None and not config.memory > 0:
        raise UserError(f"--memory {config.memory}: expected GB above 0")
    if config.resume is not None:
        return bool(Run(config.resume).read_spec().together)
    return config.seeds > 1 or config.engine == "batch"


def train_seeds(config: TrainConfig, console: Console | None = None) -> list[Run]:
    """Train ``config.seeds`` agents, or continue the seed batch of ``config.resume``.

    Args:
        config: options of the training.
        console: where progress is printed; default: standard output, unless ``config.quiet``.

    Returns:
        The runs in the order of their seeds.

    Raises:
        UserError: an option cannot be used, or ``--engine batch`` where seeds cannot be trained
            together.
        TrainingStopped: after Ctrl-C, once the checkpoints are written.
    """
    console = console or Console(quiet=config.quiet)
    if config.resume is not None:
        return resume_batch(config, console)
    with StatusLines(console, "setting up"):
        spec = resolve(config)
        specs = [replace(spec, seed=config.seed + i) for i in range(config.seeds)]
        trial = spec.make_env()
        reason = no_batch(spec, trial)
    if reason and config.engine == "batch":
        raise UserError(f"--engine batch: {reason}; use --engine process")
    if config.engine == "process" or reason:
        trial.close()
        if reason:
            say(console, f"one process for each seed, since {reason}")
        return in_processes(config, console)
    return train_together(config, specs, trial, console)


def train_together(
    config: TrainConfig,
    specs: list[RunSpec],
    trial: VecEnv,
    console: Console,
    watch: Watch | None = None,
) -> list[Run]:
    """Train seeds in this process, in as few batches as memory allows.

    Args:
        config: options of the training.
        specs: description of every seed's run.
        trial: an environment of a single run. It is closed.
        console: where progress is printed.
        watch: progress and stop request shared with a caller that handles Ctrl-C.

    Returns:
        The runs in the order of ``specs``.

    Raises:
        UserError: a seed does not fit into memory, or envpool cannot step the environment.
        TrainingStopped: after Ctrl-C or ``watch.stop``, once the checkpoints are written.
    """
    torch.set_num_threads(specs[0].threads)
    with StatusLines(console, "setting up"):
        size = largest_batch(specs, trial, console, config.memory)
        vector_env = choose_envs(config, specs[0], trial, console)
    specs = [replace(spec, vector_env=vector_env) for spec in specs]
    runs: list[Run] = []
    for first in range(0, len(specs), size):
        chunk = specs[first : first + size]
        folders = [new_run(config.out, spec) for spec in chunk]
        train_batch(
            chunk,
            folders,
            trial,
            console,
            compile=config.compile,
            watch=watch,
            track=config.track,
        )
        runs.extend(folders)
    trial.close()
    return runs


def in_processes(config: TrainConfig, console: Console) -> list[Run]:
    """Train every seed by itself, as many side by side as there are cores for their threads."""
    configs = [
        replace(config, seeds=1, seed=config.seed + i, quiet=True, engine="process")
        for i in range(config.seeds)
    ]
    jobs = max(min((os.cpu_count() or 1) // config.threads, config.seeds), 1)
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    runs: list[Run] = []
    with StatusLines(console, lambda: f"{len(runs)} of {len(configs)} trained") as lines:
        for run in parallel(joblib.delayed(WithRegistered(train))(each) for each in configs):
            runs.append(run)
            lines.print(f"  {len(runs)} of {len(configs)}: {run.folder}")
    return sorted(runs, key=lambda run: run.read_spec().seed)


def no_batch(spec: RunSpec, env: VecEnv) -> str | None:
    """Return the reason why the seeds of a run cannot be trained together; None if they can.

    Args:
        spec: description of the run.
        env: its environment.
    """
    batch = BATCHES.get(spec.algo)
    if batch is None:
        return f"{spec.algo} is not one of {', '.join(BATCHES)}"
    if spec.started_from:
        return "--from begins from one agent's weights"
    return batch.cannot(make_model_silently(spec, env))


def choose_envs(config: TrainConfig, spec: RunSpec, trial: VecEnv, console: Console) -> str:
    """Return the library that steps a seed batch: ``"envpool"`` or ``"gymnasium"``.

    The reason against envpool is printed, unless gymnasium was asked for.

    Raises:
        UserError: envpool was asked for and cannot step this environment.
    """
    if config.vector_env == "gymnasium":
        return "gymnasium"
    reason = no_envpool(spec, trial)
    if reason and config.vector_env == "envpool":
        raise UserError(f"--vector-env envpool: {reason}; use --vector-env gymnasium")
    if reason:
        say(console, f"environments by gymnasium, since {reason}")
    return "gymnasium" if reason else "envpool"


def resume_batch(config: TrainConfig, console: Console, watch: Watch | None = None) -> list[Run]:
    """Continue the seed batch that the run ``config.resume`` belongs to.

    Args:
        config: options of the training; ``timesteps`` may extend it.
        console: where progress is printed.
        watch: progress and stop request shared with a caller that handles Ctrl-C.

    Returns:
        The runs of the batch.

    Raises:
        UserError: the batch has all of its timesteps or episodes, or its checkpoints stand at
            different timesteps; or another option is given that would change their settings.
        TrainingStopped: after Ctrl-C or ``watch.stop``, once the checkpoints are written.
    """
    assert config.resume is not None
    config.check_resume()
    first = Run(config.resume).usable_spec(trust=config.trust)
    torch.set_num_threads(first.threads)
    if not all(plain_name(name) for name in first.together):
        raise UserError(
            f"{Run(config.resume).spec_file}: together={first.together}: expected names of folders "
            "beside the run"
        )
    runs = [Run(config.resume.parent / name) for name in first.together]
    specs = [run.usable_spec(trust=config.trust) for run in runs]
    for run in runs:
        refuse_links(run.folder)
    if all(run.divergence is not None for run in runs):
        raise UserError(f"run {config.resume} cannot continue: all seeds of its batch diverged")
    adopted = checkpoint.adopt_pending([run.checkpoint for run in still_in_batch(runs, first)])
    batch = runs
    runs = still_in_batch(batch, first)
    specs = [spec for spec, run in zip(specs, batch, strict=True) if run in runs]
    done = {checkpoint.timesteps_done(run.checkpoint) for run in runs}
    if len(done) != 1:
        raise UserError(
            f"run {config.resume}: the checkpoints of its batch stand at timesteps "
            f"{', '.join(f'{t:,}' for t in sorted(done))}; expected one for all"
        )
    specs = [spec.with_timesteps(config.timesteps, command_line()) for spec in specs]
    timesteps = done.pop()
    episodes = all(monitors.has_episodes(run.checkpoint, first.episodes) for run in runs)
    if adopted and (episodes or timesteps >= specs[0].timesteps):
        # killed while it renamed its last checkpoints, after all else was written
        say(console, f"run {config.resume}: its batch was complete but for names of files")
        return batch
    if episodes and all(run.policy_file.is_file() for run in runs):
        raise UserError(
            f"run {config.resume}: its batch has all of its {first.episodes:,} episodes"
        )
    if timesteps >= specs[0].timesteps and all(run.has_policy_of(timesteps) for run in runs):
        raise UserError(
            f"run {config.resume} has all of its {specs[0].timesteps:,} timesteps; to go further give "
            "more with --timesteps"
        )
    trial = first.make_env()
    train_batch(
        specs,
        runs,
        trial,
        console,
        compile=config.compile,
        resuming=True,
        watch=watch,
        track=config.track,
    )
    trial.close()
    return batch


def still_in_batch(runs: list[Run], spec: RunSpec) -> list[Run]:
    """Return the runs of a seed batch without those that left it, which had ended.

    A run that left has a checkpoint of an earlier timestep than the others.

    Args:
        runs: all runs of the batch.
        spec: description of one of them.
    """
    files = (checkpoint.state_file, checkpoint.pending_file)
    newest = [max(checkpoint.timesteps_in(path(run.checkpoint)) for path in files) for run in runs]
    return [
        run
        for run, timesteps in zip(runs, newest, strict=True)
        if timesteps == max(newest)
        or not (run.divergence or monitors.has_episodes(run.checkpoint, spec.episodes))
    ]
