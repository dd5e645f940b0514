"""Environments of a seed batch, for training and for evaluation, and what run folders keep of them."""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.env_util import unwrap_wrapper
from stable_baselines3.common.monitor import Monitor, ResultsWriter
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
    VecNormalize,
    sync_envs_normalization,
    unwrap_vec_normalize,
)

from rn_rl.agents.seed_batch.vector_envs import Episode, SeedEnvs, VecSeedEnvs
from rn_rl.experiment.envs.checks import count_timesteps_from
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.runs.weights import load_vecnormalize_state, vecnormalize_state
from rn_rl.experiment.training.envpool import env_seeds, fast_envs
from rn_rl.experiment.training.state import restore_environments, snapshots

TRAINING, EVALUATION = range(2)
"""Purposes of environments, whose seeds differ."""


class BatchEnvs(ABC):
    """Training and evaluation environments of a seed batch.

    Attributes:
        training: the environments that seeds learn in, ``n_envs`` for each.
        evaluation: those of evaluations, ``eval_episodes`` for each seed.
    """

    training: SeedEnvs
    evaluation: SeedEnvs

    @abstractmethod
    def begin_monitors(self) -> None:
        """Create the monitor files of new runs that do not exist yet."""

    @abstractmethod
    def record(self, episode: Episode) -> None:
        """Note a finished training episode for the monitor file of its environment."""

    @abstractmethod
    def end_monitors(self, seed: int) -> None:
        """Write no more episodes of a seed, which goes on in the batch although its run is complete."""

    @abstractmethod
    def write_monitors(self) -> None:
        """Write the episodes noted so far to ``<env>.monitor.csv`` of their runs."""

    @abstractmethod
    def synchronize(self) -> None:
        """Give the evaluation environments the training environments' observation statistics."""

    @abstractmethod
    def normalizer(self, seed: int) -> VecNormalize | None:
        """Return the observation statistics of a seed; None where observations are as they are."""

    @abstractmethod
    def state(self, seed: int) -> dict[str, Any]:
        """Return all that a checkpoint keeps of one seed's environments, as plain data."""

    @abstractmethod
    def restore(self, stored: Sequence[dict[str, Any]]) -> bool:
        """Restore the :meth:`state` of every seed.

        Returns:
            False if these environments cannot be restored, so that every one begins a new episode.
        """

    def keep(self, seeds: Sequence[int]) -> None:
        """Go on with the environments of some seeds, given by number, in their present state."""
        self.training.keep(seeds)
        self.evaluation.keep(seeds)

    def close(self) -> None:
        """Close all environments."""
        try:
            self.training.close()
        finally:
            self.evaluation.close()


def monitors_of(env: VecEnv) -> list[Monitor]:
    """Return SB3's Monitor of each environment."""
    inner = env.unwrapped
    assert isinstance(inner, DummyVecEnv)
    found = [unwrap_wrapper(one, Monitor) for one in inner.envs]
    return [monitor for monitor in found if isinstance(monitor, Monitor)]


class GymnasiumBatchEnvs(BatchEnvs):
    """SB3 vector environments, one of each kind for every seed. SB3's Monitor writes their episodes.

    Args:
        specs: description of every seed's run.
        runs: folder of every seed's run.
        resuming: append to the monitor files rather than begin them.
    """

    def __init__(self, specs: Sequence[RunSpec], runs: Sequence[Run], *, resuming: bool) -> None:
        pairs = list(zip(specs, runs, strict=True))
        self._training = [
            spec.make_env(monitor_dir=run.folder, append_monitor=resuming) for spec, run in pairs
        ]
        self._evaluation = [
            spec.make_env(n_envs=spec.eval_episodes, seed=spec.seed + 10_000, evaluation=True)
            for spec in specs
        ]
        self.training = VecSeedEnvs(self._training)
        self.evaluation = VecSeedEnvs(self._evaluation)

    def keep(self, seeds: Sequence[int]) -> None:
        super().keep(seeds)
        self._training = [self._training[seed] for seed in seeds]
        self._evaluation = [self._evaluation[seed] for seed in seeds]

    def begin_monitors(self) -> None:
        pass

    def record(self, episode: Episode) -> None:
        pass

    def end_monitors(self, seed: int) -> None:
        for monitor in monitors_of(self._training[seed]):
            if monitor.results_writer is not None:
                monitor.results_writer.close()
                monitor.results_writer = None

    def write_monitors(self) -> None:
        pass

    def synchronize(self) -> None:
        for training, evaluation in zip(self._training, self._evaluation, strict=True):
            sync_envs_normalization(training, evaluation)

    def normalizer(self, seed: int) -> VecNormalize | None:
        return unwrap_vec_normalize(self._training[seed])

    def state(self, seed: int) -> dict[str, Any]:
        normalizer = self.normalizer(seed)
        return {
            "environments": snapshots(self._training[seed]),
            "evaluation_environments": snapshots(self._evaluation[seed]),
            "vecnormalize": normalizer and vecnormalize_state(normalizer),
        }

    def restore(self, stored: Sequence[dict[str, Any]]) -> bool:
        for seed, plain in enumerate(stored):
            restore_environments(self._training[seed], plain["environments"])
            count_timesteps_from(self._training[seed], plain["counters"]["num_timesteps"])
            restore_environments(self._evaluation[seed], plain["evaluation_environments"])
            normalizer = self.normalizer(seed)
            if normalizer is not None:
                load_vecnormalize_state(plain["vecnormalize"], normalizer)
        return True


class EnvpoolBatchEnvs(BatchEnvs):
    """envpool's environments, which step in C++. They cannot be saved, and write no monitor files.

    Args:
        specs: description of every seed's run.
        runs: folder of every seed's run.
        trial: an environment of a single run as gymnasium makes it, whose spaces these have.
        done: timesteps behind each seed. The environments' seeds depend on it, so that a resumed
            batch does not repeat its first episodes.
    """

    def __init__(
        self, specs: Sequence[RunSpec], runs: Sequence[Run], trial: VecEnv, *, done: int
    ) -> None:
        spec, seeds = specs[0], [each.seed for each in specs]
        self._spec, self._runs = spec, list(runs)
        self._begin = time.time()
        self._episodes: dict[Path, list[dict[str, float]]] = {}
        purposes = ((TRAINING, spec.n_envs), (EVALUATION, spec.eval_episodes))
        self.training, self.evaluation = (
            fast_envs(spec, env_seeds(seeds, n_envs, purpose + 2 * done), trial)
            for purpose, n_envs in purposes
        )

    def keep(self, seeds: Sequence[int]) -> None:
        super().keep(seeds)
        self._runs = [self._runs[seed] for seed in seeds]

    def _monitor(self, seed: int, env: int) -> Path:
        return self._runs[seed].folder / f"{env}.monitor.csv"

    def begin_monitors(self) -> None:
        for seed in range(len(self._runs)):
            for env in range(self._spec.n_envs):
                header: dict[str, Any] = {"t_start": self._begin, "env_id": self._spec.env}
                ResultsWriter(str(self._monitor(seed, env)), header).close()

    def record(self, episode: Episode) -> None:
        row = {
            "r": round(episode.reward, 6),
            "l": episode.length,
            "t": round(time.time() - self._begin, 6),
        }
        self._episodes.setdefault(self._monitor(episode.seed, episode.env), []).append(row)

    def end_monitors(self, seed: int) -> None:
        pass  # only what is given to `record` is written

    def write_monitors(self) -> None:
        # files are not held open between two writes, since there may be thousands
        for path, rows in self._episodes.items():
            writer = ResultsWriter(str(path), override_existing=False)
            for row in rows:
                writer.write_row(row)
            writer.close()
        self._episodes = {}

    def synchronize(self) -> None:
        pass

    def normalizer(self, seed: int) -> None:
        return None

    def state(self, seed: int) -> dict[str, Any]:
        return {}

    def restore(self, stored: Sequence[dict[str, Any]]) -> bool:
        return False
