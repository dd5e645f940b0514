"""Train many seeds of one configuration: together in one process where that is possible."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import joblib
import numpy as np
import psutil
import torch
from rich.console import Console
from sb3_contrib import RecurrentPPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from rn_rl.errors import UserError
from rn_rl.experiment.runs import checkpoint
from rn_rl.experiment.runs.console import Watch
from rn_rl.experiment.runs.folder import Run, new_run
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.envpool import no_envpool
from rn_rl.experiment.training.seed_batch import BATCHES, BatchTraining, make_model
from rn_rl.experiment.training.single import resolve, train

ENGINES = ("auto", "process", "batch")
VECTOR_ENVS = ("auto", "envpool", "gymnasium")


def several(config: TrainConfig) -> bool:
    """Whether a training is of several seeds, or goes on with some that were trained together.

    Raises:
        UserError: an engine or a kind of environments that does not exist, or fewer than one seed.
    """
    for name, value, known in (
        ("--engine", config.engine, ENGINES),
        ("--vector-env", config.vector_env, VECTOR_ENVS),
    ):
        if value not in known:
            raise UserError(f"{name} {value}: expected one of {', '.join(known)}")
    if config.seeds < 1:
        raise UserError(f"--seeds {config.seeds}: expected at least 1")
    if config.memory is not None and not config.memory > 0:
        raise UserError(f"--memory {config.memory}: expected GB above 0")
    if config.resume is not None:
        return bool(Run(config.resume).read_spec().together)
    return config.seeds > 1 or config.engine == "batch"


def train_seeds(config: TrainConfig, console: Console | None = None) -> list[Run]:
    """Train ``config.seeds`` agents, or continue a batch of them.

    Raises:
        UserError: anything that the user can fix, ``--engine batch`` where there is no such thing
            included.
    """
    console = console or Console(quiet=config.quiet)
    if config.resume is not None:
        return resume_batch(config, console)
    spec = resolve(config)
    specs = [replace(spec, seed=config.seed + i) for i in range(config.seeds)]
    trial = spec.make_env()
    reason = no_batch(spec, trial)
    if reason and config.engine == "batch":
        raise UserError(f"--engine batch: {reason}; use --engine process")
    if config.engine == "process" or reason:
        trial.close()
        if reason:
            console.print(f"one process for each seed, since {reason}", soft_wrap=True)
        return in_processes(config, console)
    return train_together(config, specs, trial, console)


def train_together(
    config: TrainConfig,
    specs: list[RunSpec],
    trial: VecEnv,
    console: Console,
    watch: Watch | None = None,
) -> list[Run]:
    """Train seeds in one process, in as few batches as memory allows.

    Args:
        config: what the user said.
        specs: of each seed.
        trial: the environment of a single run; it is closed.
        console: where progress is shown.
        watch: how somebody else follows the training, and stops it.
    """
    spec = specs[0]
    size = largest_batch(config, specs, trial, console)
    fast = choose_envs(config, spec, trial, console)
    specs = [replace(one, vector_env="envpool" if fast else "gymnasium") for one in specs]
    runs: list[Run] = []
    for first in range(0, len(specs), size):
        chunk = specs[first : first + size]
        folders = [new_run(config.out, one) for one in chunk]
        with BatchTraining(config, chunk, folders, trial, console, watch=watch) as training:
            training.run()
        runs.extend(folders)
    trial.close()
    return runs


def in_processes(config: TrainConfig, console: Console) -> list[Run]:
    """One training after the other on every core."""
    one = [
        replace(config, seeds=1, seed=config.seed + i, quiet=True, engine="process")
        for i in range(config.seeds)
    ]
    jobs = max(min((os.cpu_count() or 1) // config.threads, config.seeds), 1)
    parallel = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered")
    runs = []
    for run in parallel(joblib.delayed(train)(each) for each in one):
        runs.append(run)
        console.print(f"  {len(runs)} of {len(one)}: {run.folder}", soft_wrap=True, highlight=False)
    return sorted(runs, key=lambda run: run.read_spec().seed)


def no_batch(spec: RunSpec, env: VecEnv) -> str | None:
    """Why the seeds of a run cannot be trained together; None if they can."""
    batch = BATCHES.get(spec.algo)
    if batch is None:
        return f"{spec.algo} is not one of {', '.join(BATCHES)}"
    if spec.started_from:
        return "--from begins from one agent's weights"
    return batch.cannot(make_model(spec, env))


def bytes_of_seed(spec: RunSpec, env: VecEnv) -> int:
    """About what one seed of a batch takes: memory, weights and what an update computes."""
    model = make_model(spec, env)
    row = int(np.prod(env.observation_space.shape)) * env.observation_space.dtype.itemsize  # type: ignore
    weights = sum(p.numel() for p in model.policy.parameters())
    stored = (
        model.n_steps * env.num_envs * 2 * (row + 24)  # a rollout, and shuffled once more
        if isinstance(model, OnPolicyAlgorithm)
        else model.buffer_size * (2 * row + 16)
    )
    widths: list[int] = []

    def count(_: Any, __: Any, out: Any) -> None:
        widths.append((out[0] if isinstance(out, tuple) else out).numel())

    hooks = [
        module.register_forward_hook(count)
        for module in model.policy.modules()
        if not list(module.children())
    ]
    given = [torch.zeros(1, *env.observation_space.shape, device=model.device)]  # type: ignore[misc]
    if isinstance(model, RecurrentPPO):
        lstm: Any = model.policy.lstm_actor
        state = (torch.zeros(lstm.num_layers, 1, lstm.hidden_size, device=model.device),) * 2
        given += [RNNStates(state, state), torch.zeros(1, device=model.device)]  # type: ignore[list-item]
    with torch.no_grad():
        model.policy(*given)
    for hook in hooks:
        hook.remove()
    # 4 bytes; forward, backward and what is observed
    activations = 3 * 4 * sum(widths) * model.batch_size
    return stored + 4 * 6 * weights + activations


def free_memory(device: str) -> int:
    """Bytes here, or on a GPU if it has less: a batch there keeps nearly all of itself on it."""
    here: int = psutil.virtual_memory().available
    return here if device == "cpu" else min(here, torch.cuda.mem_get_info(device)[0])


def largest_batch(
    config: TrainConfig, specs: Sequence[RunSpec], env: VecEnv, console: Console
) -> int:
    """How many seeds fit into memory; says what they will take."""
    each = bytes_of_seed(specs[0], env)
    free = free_memory(specs[0].device)
    budget = free / 2 if config.memory is None else config.memory * 1e9
    size = int(budget // each)
    if size < 1:
        raise UserError(
            f"one seed takes about {each / 1e9:.2f} GB and there are {budget / 1e9:.2f} GB for it; set a "
            "smaller buffer_size, or give more (train: --memory, compare: fewer --jobs)"
        )
    size = min(size, len(specs))
    chunks = -(-len(specs) // size)
    console.print(
        f"{len(specs)} seeds in {chunks} batch{'es' * (chunks > 1)} of up to {size}: about "
        f"{size * each / 1e9:.2f} GB of {free / 1e9:.1f} GB free",
        highlight=False,
    )
    return size


def choose_envs(config: TrainConfig, spec: RunSpec, trial: VecEnv, console: Console) -> bool:
    """Whether envpool steps the environments; says why not, unless that was asked for."""
    if config.vector_env == "gymnasium":
        return False
    reason = no_envpool(spec, trial)
    if reason and config.vector_env == "envpool":
        raise UserError(f"--vector-env envpool: {reason}; use --vector-env gymnasium")
    if reason:
        console.print(f"environments by gymnasium, since {reason}", soft_wrap=True)
    return reason is None


def resume_batch(config: TrainConfig, console: Console, watch: Watch | None = None) -> list[Run]:
    """Continue the batch that a run belongs to."""
    assert config.resume is not None
    first = Run(config.resume).read_spec()
    runs = [Run(config.resume.parent / name) for name in first.together]
    specs = [run.read_spec() for run in runs]
    checkpoint.adopt_pending([run.checkpoint for run in runs])
    done = {checkpoint.timesteps_done(run.checkpoint) for run in runs}
    if len(done) != 1:
        raise UserError(
            f"run {config.resume}: the checkpoints of its batch stand at timesteps "
            f"{', '.join(f'{t:,}' for t in sorted(done))}; expected one for all"
        )
    specs = [replace(spec, timesteps=config.timesteps or spec.timesteps) for spec in specs]
    if done.pop() >= specs[0].timesteps:
        raise UserError(
            f"run {config.resume} has all of its {specs[0].timesteps:,} timesteps; to go further give "
            "more with --timesteps"
        )
    trial = first.make_env()
    with BatchTraining(config, specs, runs, trial, console, resuming=True, watch=watch) as training:
        training.run()
    trial.close()
    return runs
