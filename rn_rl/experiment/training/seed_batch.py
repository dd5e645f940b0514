"""Train the seeds of one batch together, and write the run folder of each."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from stable_baselines3.common.vec_env import VecEnv

from rn_rl.agents.seed_batch import (
    SeedBatch,
    SeedBatchA2C,
    SeedBatchCrossQ,
    SeedBatchDQN,
    SeedBatchMaskablePPO,
    SeedBatchPPO,
    SeedBatchPQN,
    SeedBatchQRDQN,
    SeedBatchRecurrentPPO,
    SeedBatchSAC,
    SeedBatchTD3,
    SeedBatchTQC,
    SeedBatchTRPO,
)
from rn_rl.agents.seed_batch.distributions import components
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.experiment.evaluation.episodes import unmasked
from rn_rl.experiment.runs import checkpoint, monitors
from rn_rl.experiment.runs.console import StatusLines, Watch
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.io import remove_temporaries
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.training.interrupts import stop_on_interrupt
from rn_rl.experiment.training.seed_batch_envs import (
    BatchEnvs,
    EnvpoolBatchEnvs,
    GymnasiumBatchEnvs,
)
from rn_rl.experiment.training.seed_batch_run import SeedBatchRun

BATCHES: dict[str, type[SeedBatch[Any]]] = {
    "dqn": SeedBatchDQN,
    "rndqn": SeedBatchDQN,
    "qrdqn": SeedBatchQRDQN,
    "a2c": SeedBatchA2C,
    "ppo": SeedBatchPPO,
    "rnppo": SeedBatchPPO,
    "ppo_lstm": SeedBatchRecurrentPPO,
    "ppo_mask": SeedBatchMaskablePPO,
    "trpo": SeedBatchTRPO,
    "pqn": SeedBatchPQN,
    "sac": SeedBatchSAC,
    "td3": SeedBatchTD3,
    "ddpg": SeedBatchTD3,
    "tqc": SeedBatchTQC,
    "crossq": SeedBatchCrossQ,
}
"""Algorithms whose seeds can be trained together, and the class that does it."""


def make_model_silently(spec: RunSpec, env: VecEnv) -> Any:
    """Make the SB3 agent of a seed without warnings.

    SB3 warns of the memory of its replay buffer, which a seed batch does not use.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spec.make_model(env)


def train_batch(
    specs: Sequence[RunSpec],
    runs: Sequence[Run],
    trial: VecEnv,
    console: Console,
    *,
    compile: bool = False,
    resuming: bool = False,
    watch: Watch | None = None,
    track: str = "tensorboard",
) -> None:
    """Train the seeds of one batch, each into its run folder.

    Whatever ends the training, every run then holds what was trained and can be loaded.

    Args:
        specs: description of every seed's run.
        runs: folder of every seed's run.
        trial: an environment of a single run, with which agents are made.
        console: where progress is printed.
        compile: compile the updates with ``torch.compile``.
        resuming: continue from the runs' checkpoints.
        watch: progress and stop request shared with a caller that handles Ctrl-C; default: Ctrl-C
            is handled here.
        track: service that also gets the scalars.

    Raises:
        TrainingStopped: after Ctrl-C or ``watch.stop``, once the checkpoints are written.
    """
    if not resuming:  # else the run knows also those of its batch that have left it
        together = [run.folder.name for run in runs]
        specs = [replace(spec, together=together) for spec in specs]
    with StatusLines(console, "setting up") as lines, contextlib.ExitStack() as cleanup:
        for spec, run in zip(specs, runs, strict=True):
            run.write_spec(spec)
        stored = [checkpoint.read_plain(run.checkpoint) for run in runs] if resuming else None
        if stored is not None:
            for run in runs:
                remove_temporaries(run.folder)
                monitors.trim_monitors(run.checkpoint)
        envs: BatchEnvs
        if specs[0].vector_env == "envpool":
            done = stored[0]["counters"]["num_timesteps"] if stored else 0
            envs = EnvpoolBatchEnvs(specs, runs, trial, done=done)
        else:
            envs = GymnasiumBatchEnvs(specs, runs, resuming=resuming)
        cleanup.callback(envs.close)
        if not resuming:
            envs.begin_monitors()
        models = [make_model_silently(spec, trial) for spec in specs]
        batch = BATCHES[specs[0].algo](models, envs.training, compile=compile)
        for sentence in unmasked(models[0], trial, specs[0].env):
            lines.print(sentence)
        for model in models:
            empty_memory(model)
        noise_shape = (specs[0].eval_episodes, components(trial.action_space))
        noise = Streams([spec.seed for spec in specs], "evaluation", noise_shape)
        watching = watch or Watch()
        run_of_batch = SeedBatchRun(
            specs, runs, batch, envs, noise, lines, watching, compile, track
        )
        cleanup.callback(run_of_batch.records.close)
        if stored is not None:
            with checkpoint.damage_named(runs[0].checkpoint, ", or one of its seed batch"):
                run_of_batch.restore(stored)
        with contextlib.nullcontext() if watch else stop_on_interrupt(console, run_of_batch.watch):
            run_of_batch.train()


def empty_memory(model: Any) -> None:
    """Give an agent a replay buffer of one transition, since its batch has one of its own."""
    memory = getattr(model, "replay_buffer", None)
    if memory is not None:
        spaces = (memory.observation_space, memory.action_space)
        model.replay_buffer = type(memory)(1, *spaces, memory.device, memory.n_envs)
