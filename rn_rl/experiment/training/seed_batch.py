"""One batch of seeds, from its environments to its run folders."""

from __future__ import annotations

import contextlib
import shlex
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecNormalize,
    sync_envs_normalization,
    unwrap_vec_normalize,
)

from rn_rl.agents import SeedBatch, SeedBatchDQN, SeedBatchPPO, SeedBatchRecurrentPPO
from rn_rl.agents.seed_batch.actor_critic import components
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.agents.seed_batch.vector_envs import SeedEnvs, VecSeedEnvs
from rn_rl.errors import TrainingStopped
from rn_rl.experiment.evaluation.seed_batch import play
from rn_rl.experiment.runs import checkpoint
from rn_rl.experiment.runs.console import Watch
from rn_rl.experiment.runs.folder import Run, RunSpec, load_vecnormalize_state, vecnormalize_state
from rn_rl.experiment.runs.io import whole, write_npz
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.envpool import env_seeds, fast_envs
from rn_rl.experiment.training.growing_array import Rows
from rn_rl.experiment.training.progress import TrainingProgress
from rn_rl.experiment.training.single import stop_on_interrupt
from rn_rl.normalization import RegularityNorm

BATCHES: dict[str, type[SeedBatchDQN] | type[SeedBatchPPO]] = {
    "dqn": SeedBatchDQN,
    "rndqn": SeedBatchDQN,
    "ppo": SeedBatchPPO,
    "rnppo": SeedBatchPPO,
    "ppo_lstm": SeedBatchRecurrentPPO,
}
"""Algorithms whose seeds can be trained together."""

TRAINING, EVALUATION = range(2)
"""What the seeds of environments are for."""


def make_model(spec: RunSpec, env: VecEnv) -> Any:
    """A fresh SB3 agent; what it says about its own replay memory, which stays empty, is not shown."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return spec.make_model(env)


class BatchTraining:
    """One batch of seeds from its environments to its run folders.

    Args:
        config: what the user said.
        specs, runs: of each seed.
        trial: the environment of a single run, by which agents are built.
        console: where progress is shown.
        resuming: go on from the checkpoints.
        watch: how somebody else follows the training, and stops it; Ctrl-C is then theirs.
    """

    def __init__(
        self,
        config: TrainConfig,
        specs: list[RunSpec],
        runs: list[Run],
        trial: VecEnv,
        console: Console,
        *,
        resuming: bool = False,
        watch: Watch | None = None,
    ) -> None:
        self.watch = watch
        self.specs, self.runs, self.console = specs, runs, console
        self.spec = specs[0]
        self.seeds = [spec.seed for spec in specs]
        torch.set_num_threads(self.spec.threads)
        self.fast = self.spec.vector_env == "envpool"
        for spec, run in zip(specs, runs, strict=True):
            spec.together = [run.folder.name for run in runs]
            run.write_spec(spec)
        begun = [checkpoint.read_plain(run.checkpoint) for run in runs] if resuming else None
        if begun is not None:
            for run in runs:
                checkpoint.trim_monitor(run.checkpoint)
        self.begin = time.time()
        self.episodes: dict[Path, list[dict[str, float]]] = {}
        if self.fast and not resuming:
            self._begin_monitors()
        n_envs, episodes = self.spec.n_envs, self.spec.eval_episodes
        self.envs = self._make_envs(trial, n_envs, TRAINING, begun)
        self.eval_envs = self._make_envs(trial, episodes, EVALUATION, begun)
        models = [make_model(spec, trial) for spec in specs]
        self.batch: SeedBatch[Any] = BATCHES[self.spec.algo](
            models, self.envs, compile=config.compile
        )
        for model in models:
            model.replay_buffer = None  # the batch has its own
        wide = (episodes, components(trial.action_space))
        self.eval_noise = Streams(self.seeds, "evaluation", wide)
        self.layers = list(self.batch.stack.norms)
        self.phases: list[int] = []  # timesteps at which they ended
        self.gains, self.commit_kls = Rows(), Rows()
        self.evaluations: list[tuple[int, np.ndarray, np.ndarray]] = []
        self.scalars: list[tuple[int, dict[str, np.ndarray]]] = []
        self.best = np.full(len(specs), -np.inf)
        self.recent: list[list[float]] = [[] for _ in specs]
        self.rollouts = 0
        self.ended = np.zeros(len(specs), int)
        """Training episodes that each seed has ended."""
        self.finished = np.zeros(len(specs), bool)
        """Seeds that have all of their episodes: they are saved, and nothing of them is recorded now."""
        self._next_checkpoint = 0
        if begun is not None:
            self._restore(begun)

    def __enter__(self) -> BatchTraining:
        return self

    def __exit__(self, *error: object) -> None:
        self.envs.close()
        self.eval_envs.close()

    def _make_envs(
        self, trial: VecEnv, n_envs: int, purpose: int, begun: list[dict[str, Any]] | None
    ) -> SeedEnvs:
        if self.fast:
            # envpool cannot be put back where it stood: a resumed batch begins new episodes
            key = purpose + 2 * (begun[0]["counters"]["num_timesteps"] if begun else 0)
            return fast_envs(self.spec, env_seeds(self.seeds, n_envs, key), trial)
        training = purpose == TRAINING
        return VecSeedEnvs(
            [
                spec.make_env(
                    n_envs=n_envs,
                    seed=spec.seed if training else spec.seed + 10_000,
                    monitor_dir=run.folder if training else None,
                    append_monitor=begun is not None,
                    evaluation=not training,
                )
                for spec, run in zip(self.specs, self.runs, strict=True)
            ]
        )

    def monitor(self, seed: int, env: int) -> Path:
        """The file that SB3's Monitor writes where gymnasium steps the environments."""
        return self.runs[seed].folder / f"{env}.monitor.csv"

    def _begin_monitors(self) -> None:
        for seed in range(len(self.runs)):
            for env in range(self.spec.n_envs):
                header: dict[str, Any] = {"t_start": self.begin, "env_id": self.spec.env}
                ResultsWriter(str(self.monitor(seed, env)), header).close()

    def write_monitors(self) -> None:
        """Append the episodes since the last time; files are not held open, there may be thousands."""
        for path, rows in self.episodes.items():
            writer = ResultsWriter(str(path), override_existing=False)
            for row in rows:
                writer.write_row(row)
            writer.close()
        self.episodes = {}

    def run(self) -> None:
        """Train; whatever ends it, every run can be loaded."""
        spec, batch = self.spec, self.batch
        for run in self.runs[:1]:
            more = f" and {len(self.runs) - 1} more" if len(self.runs) > 1 else ""
            self.console.print(f"run folder: {run.folder}{more}", soft_wrap=True, highlight=False)
        title = f"{spec.norm} {spec.algo} {spec.env} {len(self.runs)} seeds"
        self.display = TrainingProgress(spec.timesteps, title, self.console, self.watch)
        self.display.start(batch.num_timesteps)
        self._next_checkpoint = batch.num_timesteps + self._every
        with stop_on_interrupt(self.console, self.watch) as self.interrupt:
            try:
                batch.learn(spec.timesteps, self.on_rollout_start, self.on_step)
                self.save_checkpoints()
            finally:
                self.display.close(batch.num_timesteps, self.status)
                self.write_monitors()
                for seed in np.flatnonzero(~self.finished):
                    self.save(int(seed))

    @property
    def _every(self) -> int:
        return max(self.spec.timesteps // 10, 1)

    def status(self) -> str:
        """One line of figures over all seeds."""
        steps = self.display.speed(self.batch.num_timesteps) * len(self.runs)
        parts = [f"{steps:,.0f} steps/s in all"]
        returns = [np.mean(recent[-100:]) for recent in self.recent if recent]
        if returns:
            parts.append(f"training return {np.mean(returns):.2f}")
        if self.evaluations:
            parts.append(f"evaluation {self.evaluations[-1][1].mean():.2f}")
        if self.phases and np.isfinite(self.gains.array[-1]).all():
            parts.append(f"gain {self.gains.array[-1].mean():.2f}")
        return " · ".join(parts)

    def on_rollout_start(self) -> bool:
        """After the commit: gains, the size of the commit, checkpoints, Ctrl-C.

        Returns:
            Whether every seed has all of its episodes.
        """
        batch = self.batch
        now = batch.num_timesteps
        if self.layers and not (self.phases and self.phases[-1] == now):
            self.rollouts += 1
            self.phases.append(now)
            self.gains.append(batch.gains())
            every = 50 if isinstance(batch, SeedBatchDQN) else 1
            size = batch.commit_kl() if self.rollouts % every == 0 else None
            if size is not None:
                self.commit_kls.append(size)
        stop = self.interrupt.stop
        if now >= self._next_checkpoint or stop:
            self._next_checkpoint = now + self._every
            self.save_checkpoints()
        if stop:
            raise TrainingStopped(
                f"{len(self.runs)} seeds stopped at timestep {now:,}; continue with: rn-rl train "
                f"--resume {shlex.quote(str(self.runs[0].folder))}"
            )
        return self._finish_seeds()

    def _finish_seeds(self) -> bool:
        """Save the policies of seeds that have just ended their last episode; see :attr:`finished`."""
        if self.spec.episodes is None:
            return False
        for seed in np.flatnonzero((self.ended >= self.spec.episodes) & ~self.finished):
            self.save(int(seed))
            self.finished[seed] = True
        return bool(self.finished.all())

    def on_step(self) -> None:
        """After each step of all environments: episodes, evaluations, progress."""
        for episode in self.envs.finished:
            self.ended[episode.seed] += 1
            if self.spec.episodes is not None and self.ended[episode.seed] > self.spec.episodes:
                continue
            self.recent[episode.seed].append(episode.reward)
            if self.fast:
                row = {
                    "r": round(episode.reward, 6),
                    "l": episode.length,
                    "t": round(time.time() - self.begin, 6),
                }
                path = self.monitor(episode.seed, episode.env)
                self.episodes.setdefault(path, []).append(row)
        now, every = self.batch.num_timesteps, self.spec.eval_freq
        if every and now // every > (now - self.spec.n_envs) // every:
            self.evaluate()
        self.display.update(now, self.status)

    def evaluate(self) -> None:
        """``eval_episodes`` episodes of every seed, side by side; the best policies are kept."""
        if isinstance(self.envs, VecSeedEnvs) and isinstance(self.eval_envs, VecSeedEnvs):
            for training, held_out in zip(self.envs.envs, self.eval_envs.envs, strict=True):
                sync_envs_normalization(training, held_out)
        returns, lengths = play(
            self.batch,
            self.eval_envs,
            None if self.spec.deterministic_evaluation else self.eval_noise,
        )
        now = self.batch.num_timesteps
        self.evaluations.append((now, returns, lengths))
        means = returns.mean(1)
        for seed, run in enumerate(self.runs):
            if self.finished[seed]:
                continue
            if means[seed] > self.best[seed]:
                self.best[seed] = means[seed]
                with whole(run.best_model_file) as temporary:
                    self.batch.write_back(seed).save(temporary)
            self.write_evaluations(seed)
        row = {"eval/mean_reward": means, "eval/mean_ep_length": lengths.mean(1)}
        row.update({name: loss.cpu().numpy() for name, loss in self.batch.losses.items()})
        recent = [np.mean(r[-100:]) if r else np.nan for r in self.recent]
        row["rollout/ep_rew_mean"] = np.array(recent)
        if self.layers:
            for name, gains in zip(self.layers, self.gains.array[-1].T.copy(), strict=True):
                row[f"normalizer/gain/{name}"] = gains
                if isinstance(self.batch.stack.norms[name], RegularityNorm):
                    row[f"normalizer/code_length/{name}"] = gains  # which it is, for these
            if len(self.commit_kls):
                row["normalizer/commit_kl"] = self.commit_kls.array[-1].copy()
        self.scalars.append((now, row))

    def write_evaluations(self, seed: int) -> None:
        """``evaluations.npz``, as SB3 has it."""
        write_npz(
            self.runs[seed].evaluations_file,
            timesteps=np.array([t for t, _, _ in self.evaluations]),
            results=np.array([returns[seed] for _, returns, _ in self.evaluations]),
            ep_lengths=np.array([lengths[seed] for _, _, lengths in self.evaluations]),
        )

    def save(self, seed: int) -> None:
        """The agent and the records of one seed."""
        run, spec = self.runs[seed], self.specs[seed]
        model = self.batch.write_back(seed)
        run.save_agent(spec, model, self.normalizer(seed))
        if self.layers:
            write_npz(
                run.code_length_file,
                layers=np.array(self.layers),
                timesteps=np.array(self.phases),
                gains=self.gains.array[:, seed],
                commit_kl=self.commit_kls.array[:, seed] if len(self.commit_kls) else np.array([]),
                commit_action=np.array([]),
                learning_starts=np.array(getattr(model, "learning_starts", 0)),
            )
        logger = configure(str(run.folder), ["tensorboard"])
        for timesteps, row in self.scalars:
            for name, values in row.items():
                if np.isfinite(values[seed]):
                    logger.record(name, float(values[seed]))
            logger.dump(timesteps)
        logger.close()

    def normalizer(self, seed: int) -> VecNormalize | None:
        """The statistics of a seed's observations, where they are normalized."""
        if isinstance(self.envs, VecSeedEnvs):
            return unwrap_vec_normalize(self.envs.envs[seed])
        return None

    def save_checkpoints(self) -> None:
        """Of every seed, each in its own run; between two phases."""
        self.write_monitors()
        kept = self._records()
        for seed, run in enumerate(self.runs):
            arrays, plain = self.batch.state(seed)
            for name, values in kept.items():
                arrays[f"records/{name}"] = values if name.endswith("timesteps") else values[seed]
            plain["best"] = float(self.best[seed])
            plain["recent"] = self.recent[seed][-100:]
            plain["rollouts"] = self.rollouts
            plain["evaluation_noise"] = self.eval_noise.state(seed)
            plain["monitor_rows"] = checkpoint.monitor_rows(run.folder)
            if isinstance(self.envs, VecSeedEnvs) and isinstance(self.eval_envs, VecSeedEnvs):
                plain["environments"] = checkpoint.snapshots(self.envs.envs[seed])
                plain["evaluation_environments"] = checkpoint.snapshots(self.eval_envs.envs[seed])
                normalizer = self.normalizer(seed)
                plain["vecnormalize"] = normalizer and vecnormalize_state(normalizer)
            checkpoint.prepare(run.checkpoint, arrays, plain)
        checkpoint.adopt([run.checkpoint for run in self.runs])

    def _records(self) -> dict[str, np.ndarray]:
        """What was recorded so far, seeds first but for the timesteps."""
        by_seed: dict[str, Sequence[np.ndarray] | np.ndarray] = {
            "gains": self.gains.array,
            "commit_kls": self.commit_kls.array,
            "returns": [returns for _, returns, _ in self.evaluations],
            "lengths": [lengths for _, _, lengths in self.evaluations],
        }
        kept = {name: np.array(rows).swapaxes(0, 1) for name, rows in by_seed.items() if len(rows)}
        kept["history_timesteps"] = np.array(self.phases)
        kept["evaluation_timesteps"] = np.array([t for t, _, _ in self.evaluations])
        return kept

    def _restore(self, begun: list[dict[str, Any]]) -> None:
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(checkpoint.read(run.checkpoint)) for run in self.runs]
            stored = [{name: file[name] for name in file.files} for file in files]
        self.batch.restore(list(zip(stored, begun, strict=True)))
        self.eval_noise.restore([plain["evaluation_noise"] for plain in begun])
        self.best = np.array([plain["best"] for plain in begun])
        self.recent = [list(plain["recent"]) for plain in begun]
        self.rollouts = begun[0]["rollouts"]
        self.ended = np.array([sum(n - 2 for n in p["monitor_rows"].values()) for p in begun])
        if self.spec.episodes is not None:
            self.finished = self.ended >= self.spec.episodes

        def rows(name: str) -> np.ndarray:
            key = f"records/{name}"
            return np.stack([s[key] for s in stored], 1) if key in stored[0] else np.array([])

        times = [[int(t) for t in stored[0][f"records/{name}_timesteps"]] for name in RECORDS]
        self.phases = times[0]
        self.gains, self.commit_kls = Rows(rows("gains")), Rows(rows("commit_kls"))
        self.evaluations = list(zip(times[1], rows("returns"), rows("lengths"), strict=True))
        if isinstance(self.envs, VecSeedEnvs) and isinstance(self.eval_envs, VecSeedEnvs):
            for seed, plain in enumerate(begun):
                env, held_out = self.envs.envs[seed], self.eval_envs.envs[seed]
                checkpoint.restore_environments(env, plain["environments"])
                checkpoint.restore_environments(held_out, plain["evaluation_environments"])
                normalizer = self.normalizer(seed)
                if normalizer is not None:
                    load_vecnormalize_state(plain["vecnormalize"], normalizer)
        else:
            self.batch.last_observations = None
            if isinstance(self.batch, SeedBatchPPO):
                self.batch.starts[:] = 1


RECORDS = ("history", "evaluation")
"""What has timesteps of its own."""
