"""SB3 callbacks of a single run: evaluation, checkpoints, the end by episodes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from sb3_contrib import ARS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from rn_rl.agents import NormalizerLogger
from rn_rl.errors import TrainingStopped
from rn_rl.experiment.evaluation.episodes import evaluation_callback
from rn_rl.experiment.runs.console import shell
from rn_rl.experiment.runs.divergence import Diverged, find_divergence
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.io import replace_file
from rn_rl.experiment.runs.rng_state import generator_states
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.runs.weights import add_vecnormalize
from rn_rl.experiment.settings.algorithms import algorithm
from rn_rl.experiment.training.interrupts import Stoppable
from rn_rl.experiment.training.probe import RunProbe
from rn_rl.experiment.training.saving import save_run
from rn_rl.experiment.training.state import restore_rollout

PHASES_PER_CHECK = 100
"""Phases of an algorithm with a replay buffer, many and short, between two looks at the weights."""


def has_phases(model: BaseAlgorithm) -> bool:
    """Return True if an algorithm learns by gradients, in phases that begin with a commit.

    ARS does not. It also draws its candidates before it calls back that a rollout begins, so that
    its checkpoint needs the random states of before.
    """
    return not isinstance(model, ARS)


def evaluation_folder(run: Run) -> Path:
    """Hidden folder of a run in which SB3 writes files of evaluations before they are moved."""
    return run.folder / ".evaluation"


def make_evaluation(spec: RunSpec, run: Run, model: BaseAlgorithm) -> EvalCallback:
    """Make SB3's evaluation callback; its files replace those of the run only when complete."""
    env = spec.make_env(n_envs=1, seed=spec.seed + 10_000, evaluation=True)
    folder = evaluation_folder(run)
    kind = type("Evaluation", (AtTimesteps, evaluation_callback(model, env)), {})
    made: EvalCallback = kind(
        env,
        every=spec.eval_freq,
        callback_on_new_best=MoveAgent(folder / "best_model.zip", run.best_model_file),
        callback_after_eval=MoveCallback(folder / "evaluations.npz", run.evaluations_file),
        n_eval_episodes=spec.eval_episodes,
        log_path=str(folder),
        best_model_save_path=str(folder),
        deterministic=spec.deterministic_evaluation,
        verbose=0,
    )
    return made


def is_due(timesteps: int, n_envs: int, every: int) -> bool:
    """Return True if the last step of all environments reached a multiple of ``every`` timesteps."""
    return timesteps // every > (timesteps - n_envs) // every


class AtTimesteps(EvalCallback):
    """Base of SB3's evaluation callbacks: evaluates a single run at the timesteps of a seed batch.

    SB3 counts calls, ``eval_freq // n_envs`` between two evaluations: too few timesteps if ``n_envs``
    does not divide ``eval_freq``.

    Args:
        env: environment of the evaluations.
        every: timesteps between evaluations, see :func:`is_due`.
        kwargs: other arguments of the callback.
    """

    def __init__(self, env: VecEnv, every: int, **kwargs: Any) -> None:
        super().__init__(env, eval_freq=1, **kwargs)
        self.every = every

    def _on_step(self) -> bool:
        if not is_due(self.num_timesteps, self.training_env.num_envs, self.every):
            return True
        return super()._on_step()


class MoveCallback(BaseCallback):
    """Move a finished file to its place.

    Args:
        source: the file.
        target: its new path, on the same file system.
    """

    def __init__(self, source: Path, target: Path) -> None:
        super().__init__()
        self.source, self.target = source, target

    def _on_step(self) -> bool:
        replace_file(self.source, self.target)
        return True


class MoveAgent(MoveCallback):
    """Move a zip to its place, with the statistics of VecNormalize as they are now."""

    def _on_step(self) -> bool:
        add_vecnormalize(self.source, self.model.get_vec_normalize_env())
        return super()._on_step()


class PhaseCallback(BaseCallback):
    """Between two phases, write checkpoints, look for divergence and stop on request.

    It also ends the training after a number of episodes.

    The agent and a checkpoint are written ten times in a run, and before a stop.

    Args:
        run: the run.
        spec: its description.
        evaluation: callback whose records a checkpoint contains.
        log: likewise.
        watch: its ``stop`` is the request to stop.
        resuming: restore the random state of the checkpoint once more when the first rollout
            begins; see :mod:`rn_rl.experiment.training.state`.
        probe: callback that probes the layers, if the run has one.

    Raises:
        TrainingStopped: after a request to stop, once the checkpoint is written.
        Diverged: weights are not finite or too large.
    """

    def __init__(
        self,
        run: Run,
        spec: RunSpec,
        evaluation: EvalCallback,
        log: NormalizerLogger,
        watch: Stoppable,
        *,
        resuming: bool = False,
        probe: RunProbe | None = None,
    ) -> None:
        super().__init__()
        self.run, self.spec = run, spec
        self.evaluation, self.log, self.watch = evaluation, log, watch
        self.resuming, self.probe = resuming, probe
        self._every = max(spec.timesteps // 10, 1)
        self._phases = 0
        self._next = 0
        self._episodes = 0
        self._random: dict[str, np.ndarray] | None = None

    def _on_training_start(self) -> None:
        self._next = self.model.num_timesteps + self._every
        # SB3 counts an episode only after this callback's step
        self._episodes = int(getattr(self.model, "_episode_num", 0))
        self._on_rollout_end()

    def _on_rollout_end(self) -> None:
        if not has_phases(self.model):
            self._random = generator_states(self.model)

    def _on_rollout_start(self) -> None:
        if self.resuming:
            restore_rollout(self.run.checkpoint, self.model)
            self.resuming = False
        due = self.model.num_timesteps >= self._next
        check_every = PHASES_PER_CHECK if algorithm(self.spec.algo).replay else 1
        if due or self._phases % check_every == 0:
            self.check_weights()
        self._phases += 1
        if due or self.watch.stop:
            save_run(
                self.run,
                self.spec,
                self.model,
                self.evaluation,
                self.log,
                self.probe,
                rollout_began=has_phases(self.model),
                random=self._random,
            )
            self._next = self.model.num_timesteps + self._every
        if self.watch.stop:
            raise TrainingStopped(
                f"stopped at timestep {self.model.num_timesteps:,}; continue with: "
                + shell("rn-rl", "train", "--resume", self.run.folder)
            )

    def check_weights(self) -> None:
        """Raise :class:`Diverged` if a weight is not finite or too large."""
        found = find_divergence(self.model.policy.named_parameters(), self.model.num_timesteps)
        if found is not None:
            raise Diverged(found)

    def _on_step(self) -> bool:
        if self.spec.episodes is None:
            return True
        self._episodes += int(np.sum(self.locals["dones"]))
        return self._episodes < self.spec.episodes
