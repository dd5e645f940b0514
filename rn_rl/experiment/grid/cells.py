"""Cells of a grid: all seeds of one algorithm, environment and normalizer."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from pathlib import Path

from stable_baselines3.common.vec_env import VecEnv

from rn_rl.errors import UserError
from rn_rl.experiment.runs.spec import RunSpec, file_name
from rn_rl.experiment.training.conf_file import searched_seeds
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.launch import no_batch
from rn_rl.experiment.training.resolve import resolve


@dataclass
class Cell:
    """All seeds of one algorithm, environment and normalizer."""

    config: TrainConfig
    """Options of their training; ``seed`` is not read."""
    specs: list[RunSpec]
    """Description of every seed's run."""
    together: bool
    """True if the seeds are trained as a seed batch."""
    reason: str | None = None
    """Reason against a seed batch, unless one process for each seed was asked for."""
    label: str | None = None
    """Name instead of the normalizer's, where another cell has the same normalizer."""

    @property
    def name(self) -> str:
        """Name of the cell in tables and messages."""
        spec = self.specs[0]
        return f"{self.label or spec.norm} {spec.algo} {spec.env}"

    @property
    def keys(self) -> list[str]:
        """Key of every seed's training; see :func:`key_of`."""
        return [key_of(spec) for spec in self.specs]


def key_of(spec: RunSpec) -> str:
    """Return a file name that two trainings share if and only if they are to give the same run."""
    readable = f"{spec.norm}-{spec.algo}-{file_name(spec.env)}-{spec.seed}"
    safe = "".join(c if c.isalnum() or c in "+-._" else "_" for c in readable)[:80]
    return f"{safe}-{hashlib.sha256(spec.identity().encode()).hexdigest()[:12]}"


def check_seeds(seeds: list[int], conf_file: Path, env_id: str) -> None:
    """Raise :class:`UserError` if ``rn-rl tune`` chose an environment's values on one of the seeds."""
    searched = searched_seeds(conf_file, env_id)
    if any(seed in searched for seed in seeds):
        raise UserError(
            f"--seed {seeds[0]}: {conf_file} was chosen on seeds {searched[0]} to {searched[-1]}, on "
            f"which it does too well; compare on new ones, with --seed {searched[-1] + 1}"
        )


def make_cell(config: TrainConfig, seeds: list[int], engine: str) -> Cell:
    """Check the options of a cell and decide if its seeds are trained together.

    Args:
        config: options of the training; ``seed`` is not read.
        seeds: the seeds.
        engine: ``--engine`` of the grid.

    Raises:
        UserError: an option cannot be used.
    """
    spec = resolve(replace(config, seed=seeds[0]))
    if spec.eval_freq > spec.timesteps:
        raise UserError(
            f"--eval-freq {spec.eval_freq}: expected at most the {spec.timesteps:,} timesteps of a run"
        )
    if config.conf_file is not None:
        check_seeds(seeds, Path(spec.config), spec.env)
    specs = [replace(spec, seed=seed) for seed in seeds]
    trial = spec.make_env(n_envs=1)
    try:
        spec.make_model(trial, training=False)
        reason = None if engine == "process" else why_not_together(spec, trial)
    finally:
        trial.close()
    if reason and engine == "batch":
        raise UserError(f"--engine batch: {reason}; use --engine auto or process")
    return Cell(config, specs, together=engine != "process" and reason is None, reason=reason)


def why_not_together(spec: RunSpec, trial: VecEnv) -> str | None:
    """Return :func:`~rn_rl.experiment.training.launch.no_batch` with the run's number of environments.

    Args:
        spec: description of a run.
        trial: one of its environments, used if the run has only one.
    """
    if spec.n_envs == trial.num_envs:
        return no_batch(spec, trial)
    env = spec.make_env()
    try:
        return no_batch(spec, env)
    finally:
        env.close()
