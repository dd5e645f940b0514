"""Train one seed into a run folder, or continue such a run exactly."""

from __future__ import annotations

import contextlib
import shutil
from typing import Any

import torch
from rich.console import Console
from sb3_contrib import MaskablePPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList
from stable_baselines3.common.type_aliases import TrainFrequencyUnit
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from rn_rl.agents import NormalizerLogger, ValueTargets
from rn_rl.agents.callbacks import online_norms
from rn_rl.errors import TrainingStopped, UserError
from rn_rl.experiment.evaluation.episodes import unmasked, uses_masks
from rn_rl.experiment.runs import checkpoint, monitors
from rn_rl.experiment.runs.console import StatusLines, Watch, command_line, say, shell
from rn_rl.experiment.runs.divergence import find_divergence, write_divergence
from rn_rl.experiment.runs.folder import Run, load_weights, new_run
from rn_rl.experiment.runs.io import remove_temporaries
from rn_rl.experiment.runs.scalars import make_logger
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.runs.tracking import make_tracker
from rn_rl.experiment.runs.trust import refuse_links
from rn_rl.experiment.settings.algorithms import algorithm
from rn_rl.experiment.training.callbacks import (
    PhaseCallback,
    evaluation_folder,
    has_phases,
    make_evaluation,
)
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.interrupts import stop_on_interrupt
from rn_rl.experiment.training.probe import RunProbe
from rn_rl.experiment.training.progress import ProgressCallback
from rn_rl.experiment.training.resolve import resolve
from rn_rl.experiment.training.saving import save_agent, save_run
from rn_rl.experiment.training.state import is_saved_whole, restore_training


def train(config: TrainConfig, console: Console | None = None, watch: Watch | None = None) -> Run:
    """Train an agent, or continue one.

    Whatever ends the training (Ctrl-C, an error in the environment), the run then holds what was
    trained and can be loaded. A training that diverges ends there, and the run says so
    (:attr:`.Run.divergence`).

    Args:
        config: options of the training.
        console: where progress is printed; default: standard output, unless ``config.quiet``.
        watch: progress and stop request shared with a caller that handles Ctrl-C; default: Ctrl-C
            is handled here.

    Returns:
        The run.

    Raises:
        UserError: an option, or the run to continue, cannot be used.
        TrainingStopped: after Ctrl-C or ``watch.stop``, once the checkpoint is written.
    """
    console = console or Console(quiet=config.quiet)
    own_interrupts = watch is None
    watch = watch or Watch()
    with StatusLines(console, "setting up") as lines:
        resuming = config.resume is not None
        spec, run = continue_run(config) if resuming else start_run(config)
        torch.set_num_threads(spec.threads)
        tracker = make_tracker(config.track, run, spec)
        env = spec.make_env(monitor_dir=run.folder, append_monitor=resuming)
        model = spec.make_model(env)
        done = checkpoint.timesteps_done(run.checkpoint) if resuming else None
        model.set_logger(make_logger(run.folder, done, spec.shown_settings(), tracker))
        evaluation = make_evaluation(spec, run, model)
        log = NormalizerLogger()
        probe = RunProbe(run) if spec.probe else None
        if resuming:
            try:
                restore_training(run.checkpoint, model, evaluation, log, probe)
            except BaseException:
                env.close()
                raise
        elif config.from_agent is not None:
            load_weights(config.from_agent, spec, model, trust=config.trust)
        describe(spec, run, model, console)
        title = f"{spec.norm} {spec.algo} {spec.env} seed {spec.seed}"
        progress = ProgressCallback(spec.timesteps, evaluation, title, lines, watch)
        handler = stop_on_interrupt(console, watch) if own_interrupts else contextlib.nullcontext()
        with handler:
            boundary = PhaseCallback(
                run, spec, evaluation, log, watch, resuming=resuming, probe=probe
            )
            callbacks: list[BaseCallback] = [log, boundary, progress, ValueTargets()]
            if spec.eval_freq > 0:
                callbacks.insert(2, evaluation)
            if probe is not None:  # ends the phase before a checkpoint is written
                callbacks.insert(0, probe)
            masking: dict[str, Any] = {}
            if isinstance(model, MaskablePPO):
                masking = {"use_masking": uses_masks(model, env)}
            every = CallbackList(callbacks)
            try:
                if resuming and is_complete(spec, run):  # killed before its policy was written
                    every.init_callback(model)
                    save_agent(run, spec, model, log, probe)
                else:
                    model.learn(
                        spec.timesteps - model.num_timesteps,
                        callback=every,
                        reset_num_timesteps=not resuming,
                        **masking,
                    )
                    boundary.check_weights()
                    save_run(run, spec, model, evaluation, log, probe)
            except TrainingStopped:  # all files are written
                raise
            except BaseException as error:
                # on a full disk the files before stay
                full = isinstance(error, OSError)
                with contextlib.suppress(OSError) if full else contextlib.nullcontext():
                    save_agent(run, spec, model, log, probe)
                found = find_divergence(model.policy.named_parameters(), model.num_timesteps)
                if found is None or not isinstance(error, Exception):
                    raise
                # also where NaN weights made the environment or a distribution fail
                write_divergence(run.divergence_file, found)
                say(console, f"run {run.folder}: {found}")
            finally:
                progress.close()
                if probe is not None:
                    probe.close()
                model.logger.close()
                shutil.rmtree(evaluation_folder(run), ignore_errors=True)
                try:
                    evaluation.eval_env.close()
                finally:
                    env.close()
    return run


def start_run(config: TrainConfig) -> tuple[RunSpec, Run]:
    """Make a new run folder, after everything that can be refused has been tried.

    Raises:
        UserError: an option cannot be used.
    """
    spec = resolve(config)
    trial_env = spec.make_env(n_envs=1)
    model = spec.make_model(trial_env, training=False)
    if config.from_agent is not None:
        load_weights(config.from_agent, spec, model, trust=config.trust)
    trial_env.close()
    run = new_run(config.out, spec)
    run.write_spec(spec)
    return spec, run


def continue_run(config: TrainConfig) -> tuple[RunSpec, Run]:
    """Open the run of ``config.resume``, and cut its monitor files back to its checkpoint.

    Raises:
        UserError: the run has no checkpoint, is complete, or cannot be continued exactly; or another
            option is given that would change its settings.
    """
    assert config.resume is not None
    config.check_resume()
    run = Run(config.resume)
    spec = run.usable_spec(trust=config.trust)
    refuse_links(run.folder)
    if run.divergence is not None:
        raise UserError(f"run {run.folder} cannot continue: it {run.divergence}")
    done = checkpoint.timesteps_done(run.checkpoint)
    spec = spec.with_timesteps(config.timesteps, command_line())
    if is_complete(spec, run) and run.has_policy_of(done):
        if done >= spec.timesteps:
            raise UserError(
                f"run {run.folder} has {done:,} of {spec.timesteps:,} timesteps; to go further give "
                "more with --timesteps"
            )
        raise UserError(f"run {run.folder} has all of its {spec.episodes:,} episodes")
    trial_env = spec.make_env(n_envs=1)
    check_resumable(spec, run, spec.make_model(trial_env, training=False))
    trial_env.close()
    remove_temporaries(run.folder)
    monitors.trim_monitors(run.checkpoint)
    run.write_spec(spec)
    return spec, run


def is_complete(spec: RunSpec, run: Run) -> bool:
    """Return True if the checkpoint of a run has all of its timesteps or episodes."""
    return checkpoint.timesteps_done(run.checkpoint) >= spec.timesteps or monitors.has_episodes(
        run.checkpoint, spec.episodes
    )


def check_resumable(spec: RunSpec, run: Run, model: BaseAlgorithm) -> None:
    """Raise a :class:`UserError` for agents that a checkpoint does not hold completely.

    Those are ARS with a falling schedule, which begins anew when it continues, and replay buffers that
    keep more than arrays.
    """
    memory = getattr(model, "replay_buffer", None)
    if memory is not None and not is_saved_whole(memory):
        kind = type(memory).__name__
        kind += " with copy_info_dict=true" if isinstance(memory, HerReplayBuffer) else ""
        raise UserError(
            f"run {run.folder}: its {kind} is not saved in checkpoints, so it cannot continue exactly; "
            f"start another run, with {shell('--from', run.folder)}"
        )
    falling = [
        name
        for name in ("learning_rate", "delta_std")
        if isinstance(spec.hyperparameters.get(name), str)
    ]
    if algorithm(spec.algo).kind == "ars" and falling:
        raise UserError(
            f"run {run.folder}: {falling[0]} falls over the run, and ARS begins such schedules anew "
            f"whenever it continues; start another run, with {shell('--from', run.folder)}"
        )


def describe(spec: RunSpec, run: Run, model: BaseAlgorithm, console: Console) -> None:
    """Print the run folder and, beside each half-life in phases, the number of phases to come."""
    say(console, f"run folder: {run.folder}")
    assert model.env is not None
    for sentence in unmasked(model, model.env, spec.env):
        say(console, sentence)
    norms = online_norms(model.policy)
    if not has_phases(model):
        if norms:
            say(
                console,
                f"ars has no gradient phases: the normalizers of {spec.norm} keep their first state",
            )
        return
    halves = {n.half_life for n in norms.values() if getattr(n, "half_life", None)}
    count = phases(spec, model)
    to_come = "each episode is one" if count is None else f"this run will have about {count:,}"
    for half_life in sorted(halves):  # type: ignore[type-var]
        say(console, f"half-life {half_life:g} phases; {to_come}")


def phases(spec: RunSpec, model: Any) -> int | None:
    """Count the phases, and so the commits, that a run still has.

    Returns:
        0 for ARS; None where a phase lasts for an episode, so that the number is not known.
    """
    if not has_phases(model):
        return 0
    left = spec.timesteps - model.num_timesteps
    if not hasattr(model, "train_freq"):
        return max(-(-left // (model.n_steps * model.n_envs)), 0)
    if model.train_freq.unit is TrainFrequencyUnit.EPISODE:
        return None
    left -= max(model.learning_starts - model.num_timesteps, 0)
    return max(left // (model.train_freq.frequency * model.n_envs), 0)
