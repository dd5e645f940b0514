"""Train one agent into a run folder; continue one exactly."""

from __future__ import annotations

import shlex
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from sb3_contrib import ARS, MaskablePPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, EvalCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import TrainFrequencyUnit

from rn_rl.agents import NormalizerLogger
from rn_rl.agents.callbacks import online_norms
from rn_rl.errors import TrainingStopped, UserError
from rn_rl.experiment.envs.make import check_env_id
from rn_rl.experiment.evaluation.episodes import evaluation_callback, uses_masks
from rn_rl.experiment.runs import checkpoint
from rn_rl.experiment.runs.console import Watch
from rn_rl.experiment.runs.folder import Run, load_weights, new_run
from rn_rl.experiment.runs.io import write_npz
from rn_rl.experiment.runs.rng_state import generator_states
from rn_rl.experiment.runs.spec import RunSpec, command_line
from rn_rl.experiment.settings.algorithms import ALGORITHMS, algorithm
from rn_rl.experiment.settings.hyperparameters import (
    check_given,
    merge_nested,
    parse_assignments,
    tuned,
)
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.progress import ProgressCallback
from rn_rl.normalization import canonical_spec, check_recordings


def resolve(config: TrainConfig) -> RunSpec:
    """Check everything a user said, before anything is made, and fill in what was not said."""
    if config.algo is None:
        raise UserError(f"--algo is missing: one of {', '.join(ALGORITHMS)}")
    if config.env is None:
        raise UserError("--env is missing: such as CartPole-v1; 'rn-rl zoo' shows the tuned ones")
    algo = algorithm(config.algo)
    norm = canonical_spec(config.norm)
    check_recordings(norm)
    check_env_id(config.env)
    hyperparameters = tuned(algo, config.env, config.config)
    given = parse_assignments(config.set, "--set")
    env_kwargs = parse_assignments(config.env_kwargs, "--env-kwargs")
    if env_kwargs:
        given = merge_nested(given, {"env_kwargs": env_kwargs})
    check_given(algo, given)
    hyperparameters = merge_nested(hyperparameters, given)
    policy_kwargs = hyperparameters.get("policy_kwargs") or {}
    if not isinstance(policy_kwargs, dict):
        raise UserError(f"--set policy_kwargs={policy_kwargs}: expected names and values")
    default_timesteps = int(hyperparameters.pop("n_timesteps", 1e5))
    default_envs = int(hyperparameters.pop("n_envs", 1))
    (hyperparameters.get("policy_kwargs") or {}).pop("norm", None)
    timesteps = default_timesteps if config.timesteps is None else config.timesteps
    n_envs = default_envs if config.n_envs is None else config.n_envs
    eval_freq = max(timesteps // 20, 1) if config.eval_freq is None else config.eval_freq
    if config.device.startswith("cuda") and not torch.cuda.is_available():
        raise UserError(f"--device {config.device}: torch sees no GPU here; use --device cpu")
    for name, value, least in (
        ("timesteps", timesteps, 1),
        ("n-envs", n_envs, 1),
        ("eval-freq", eval_freq, 0),
        ("eval-episodes", config.eval_episodes, 1),
        ("episodes", 1 if config.episodes is None else config.episodes, 1),
        ("seed", config.seed, 0),
        ("threads", config.threads, 1),
    ):
        if value < least:
            raise UserError(f"--{name} {value}: expected at least {least}")
    if config.episodes is not None and (n_envs != 1 or not algo.replay):
        raise UserError(
            f"--episodes {config.episodes}: counts the episodes of one environment that a replay memory "
            f"learns from, and {algo.name} has {n_envs}; use --timesteps"
            if algo.replay
            else f"--episodes {config.episodes}: {algo.name} learns from rollouts; use --timesteps"
        )
    return RunSpec(
        algo=algo.name,
        env=config.env,
        norm=norm,
        seed=config.seed,
        timesteps=timesteps,
        n_envs=n_envs,
        eval_freq=eval_freq,
        eval_episodes=config.eval_episodes,
        device=config.device,
        threads=config.threads,
        config=config.config,
        hyperparameters=hyperparameters,
        command=command_line(),
        started_from=str(config.from_agent) if config.from_agent else None,
        episodes=config.episodes,
    )


def train(config: TrainConfig, console: Console | None = None, watch: Watch | None = None) -> Run:
    """Train an agent, or continue one.

    Args:
        config: what the user said.
        console: where progress is shown.
        watch: how somebody else follows the training, and stops it; Ctrl-C is then theirs.

    Returns:
        The run. Whatever ends the training (Ctrl-C, an error in the environment), the run holds what
        was trained and can be loaded; Ctrl-C raises :class:`TrainingStopped` after that.

    Raises:
        UserError: anything that the user can fix.
    """
    console = console or Console(quiet=config.quiet)
    resuming = config.resume is not None
    spec, run = continued(config) if resuming else started(config)
    torch.set_num_threads(spec.threads)
    env = spec.make_env(monitor_dir=run.folder, append_monitor=resuming)
    model = spec.make_model(env)
    model.set_logger(configure(str(run.folder), ["tensorboard"]))
    evaluation = make_evaluation(spec, run, model)
    log = NormalizerLogger()
    if resuming:
        checkpoint.restore_training(run.checkpoint, model, evaluation, log)
    elif config.from_agent is not None:
        load_weights(config.from_agent, spec, model, trust=config.trust)
    describe(spec, run, model, console)
    title = f"{spec.norm} {spec.algo} {spec.env} seed {spec.seed}"
    progress = ProgressCallback(spec.timesteps, evaluation, title, console, watch)
    with stop_on_interrupt(console, watch) as interrupt:
        boundary = BoundaryCallback(run, spec, evaluation, log, interrupt, resuming=resuming)
        callbacks: list[BaseCallback] = [log, boundary, progress]
        if spec.eval_freq > 0:
            callbacks.insert(2, evaluation)
        try:
            masking: dict[str, Any] = {}
            if isinstance(model, MaskablePPO):
                masking = {"use_masking": uses_masks(model, env)}
            model.learn(
                spec.timesteps - model.num_timesteps,
                callback=CallbackList(callbacks),
                reset_num_timesteps=not resuming,
                **masking,
            )
            checkpoint.save_training(run.checkpoint, model, evaluation, log)
        finally:
            progress.close()
            run.save_agent(spec, model)
            write_code_length(run, log, model)
            env.close()
            evaluation.eval_env.close()
            model.logger.close()
            shutil.rmtree(scratch(run), ignore_errors=True)
    return run


def started(config: TrainConfig) -> tuple[RunSpec, Run]:
    """A new run folder, made only after everything that can be refused has been tried."""
    spec = resolve(config)
    trial_env = spec.make_env(n_envs=1)
    model = spec.make_model(trial_env, training=False)
    if config.from_agent is not None:
        load_weights(config.from_agent, spec, model, trust=config.trust)
    trial_env.close()
    run = new_run(config.out, spec)
    run.write_spec(spec)
    return spec, run


def continued(config: TrainConfig) -> tuple[RunSpec, Run]:
    """An old run, its monitor files cut back to its checkpoint."""
    assert config.resume is not None
    run = Run(config.resume)
    spec = run.read_spec()
    done = checkpoint.timesteps_done(run.checkpoint)
    if config.timesteps is not None:
        spec = replace(spec, timesteps=config.timesteps)
    if done >= spec.timesteps:
        raise UserError(
            f"run {run.folder} has {done:,} of {spec.timesteps:,} timesteps; to go further give "
            "more with --timesteps"
        )
    if checkpoint.has_episodes(run.checkpoint, spec.episodes):
        raise UserError(f"run {run.folder} has all of its {spec.episodes:,} episodes")
    check_resumable(spec, run)
    checkpoint.trim_monitors(run.checkpoint)
    run.write_spec(spec)
    return spec, run


def check_resumable(spec: RunSpec, run: Run) -> None:
    """Raise a :class:`UserError` for the one kind of run that cannot be continued exactly."""
    falling = [
        name
        for name in ("learning_rate", "delta_std")
        if isinstance(spec.hyperparameters.get(name), str)
    ]
    if spec.algo == "ars" and falling:
        raise UserError(
            f"run {run.folder}: {falling[0]} falls over the run, and ARS begins such schedules anew "
            f"whenever it continues; start another run, with --from {run.folder}"
        )


def scratch(run: Run) -> Path:
    """Where SB3 writes before a file is moved to its place."""
    return run.folder / ".evaluation"


def make_evaluation(spec: RunSpec, run: Run, model: BaseAlgorithm) -> EvalCallback:
    """SB3's evaluation, whose files appear in the run whole."""
    env = spec.make_env(n_envs=1, seed=spec.seed + 10_000, evaluation=True)
    folder = scratch(run)
    return evaluation_callback(model, env)(
        env,
        callback_on_new_best=MoveCallback(folder / "best_model.zip", run.best_model_file),
        callback_after_eval=MoveCallback(folder / "evaluations.npz", run.evaluations_file),
        n_eval_episodes=spec.eval_episodes,
        eval_freq=max(spec.eval_freq // spec.n_envs, 1),
        log_path=str(folder),
        best_model_save_path=str(folder),
        deterministic=spec.deterministic_evaluation,
        verbose=0,
    )


class MoveCallback(BaseCallback):
    """Moves a finished file to its place."""

    def __init__(self, source: Path, target: Path) -> None:
        super().__init__()
        self.source, self.target = source, target

    def _on_step(self) -> bool:
        self.source.replace(self.target)
        return True


class BoundaryCallback(BaseCallback):
    """Between two phases: a checkpoint now and then, and the place where Ctrl-C stops."""

    def __init__(
        self,
        run: Run,
        spec: RunSpec,
        evaluation: EvalCallback,
        log: NormalizerLogger,
        interrupt: Watch,
        *,
        resuming: bool = False,
    ) -> None:
        super().__init__()
        self.run, self.spec = run, spec
        self.evaluation, self.log, self.interrupt = evaluation, log, interrupt
        self.resuming = resuming
        self._every = max(spec.timesteps // 10, 1)
        self._next = 0
        self._episodes = 0
        self._random: dict[str, np.ndarray] | None = None

    def _on_training_start(self) -> None:
        self._next = self.model.num_timesteps + self._every
        # SB3 counts an episode after this callback has seen its end
        self._episodes = int(getattr(self.model, "_episode_num", 0))
        self._on_rollout_end()

    def _on_rollout_end(self) -> None:
        if isinstance(self.model, ARS):  # draws before it says that a rollout begins
            self._random = generator_states(self.model)

    def _on_rollout_start(self) -> None:
        if self.resuming:
            checkpoint.restore_rollout(self.run.checkpoint, self.model)
            self.resuming = False
        due = self.model.num_timesteps >= self._next
        if due or self.interrupt.stop:
            checkpoint.save_training(
                self.run.checkpoint,
                self.model,
                self.evaluation,
                self.log,
                rollout_began=not isinstance(self.model, ARS),
                random=self._random,
            )
            self._next = self.model.num_timesteps + self._every
            if due:
                self.run.save_agent(self.spec, self.model)
        if self.interrupt.stop:
            raise TrainingStopped(
                f"stopped at timestep {self.model.num_timesteps:,}; continue with: rn-rl train "
                f"--resume {shlex.quote(str(self.run.folder))}"
            )

    def _on_step(self) -> bool:
        if self.spec.episodes is None:
            return True
        self._episodes += int(np.sum(self.locals["dones"]))
        return self._episodes < self.spec.episodes


@contextmanager
def stop_on_interrupt(console: Console, watch: Watch | None = None) -> Iterator[Watch]:
    """The first Ctrl-C asks for a stop at the next boundary, the second stops at once.

    Whoever gives a watch asks for the stop, and handles Ctrl-C.
    """
    if watch is not None:
        yield watch
        return
    asked = Watch()

    def handle(number: int, frame: FrameType | None) -> None:
        if asked.stop:
            raise KeyboardInterrupt
        asked.stop = True
        console.print("stopping after this phase (Ctrl-C again: at once, without a checkpoint)")

    try:
        before = signal.signal(signal.SIGINT, handle)
    except ValueError:  # not in the main thread: whoever runs us handles Ctrl-C
        yield asked
        return
    try:
        yield asked
    finally:
        signal.signal(signal.SIGINT, before)


def describe(spec: RunSpec, run: Run, model: BaseAlgorithm, console: Console) -> None:
    """What is about to run; with a half-life, how many phases there will be."""
    console.print(f"run folder: {run.folder}", soft_wrap=True, highlight=False)
    assert model.env is not None
    if isinstance(model, MaskablePPO) and not uses_masks(model, model.env):
        console.print(f"{spec.env} has no action_masks(): trained without masks, as PPO would")
    norms = online_norms(model.policy)
    if isinstance(model, ARS):
        if norms:
            console.print(
                f"ars has no gradient phases: the normalizers of {spec.norm} keep their first state"
            )
        return
    halves = {n.half_life for n in norms.values() if getattr(n, "half_life", None)}
    count = phases(spec, model)
    to_come = "each episode is one" if count is None else f"this run will have about {count:,}"
    for half_life in sorted(halves):  # type: ignore[type-var]
        console.print(f"half-life {half_life:g} phases; {to_come}")


def phases(spec: RunSpec, model: Any) -> int | None:
    """How many commits a run will have: 0 for ARS, None where episodes decide."""
    if isinstance(model, ARS):
        return 0
    left = spec.timesteps - model.num_timesteps
    if not hasattr(model, "train_freq"):
        return max(-(-left // (model.n_steps * model.n_envs)), 0)
    if model.train_freq.unit is TrainFrequencyUnit.EPISODE:
        return None
    left -= max(model.learning_starts - model.num_timesteps, 0)
    return max(left // (model.train_freq.frequency * model.n_envs), 0)


def write_code_length(run: Run, log: NormalizerLogger, model: BaseAlgorithm) -> None:
    """``code_length.npz``: the gain of every layer at every rollout, and the size of commits.

    The size is a KL (``commit_kl``), or a change of the action (``commit_action``) for TD3 and DDPG.
    Rollouts up to ``learning_starts`` filled the memory and had no commit.
    """
    if log.layer_names:
        write_npz(
            run.code_length_file,
            layers=np.array(log.layer_names),
            timesteps=np.array([t for t, _ in log.history]),
            gains=np.array([g for _, g in log.history]),
            commit_kl=np.array(log.commit_kls),
            commit_action=np.array(log.commit_actions),
            learning_starts=np.array(getattr(model, "learning_starts", 0)),
        )
