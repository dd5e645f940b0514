"""A seed batch in training: its records, evaluations and checkpoints, and who leaves it."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from rn_rl.agents import (
    SeedBatch,
    SeedBatchProbe,
)
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.errors import TrainingStopped
from rn_rl.experiment.evaluation.episodes import play_seed_batch
from rn_rl.experiment.runs import checkpoint, monitors
from rn_rl.experiment.runs.console import StatusLines, Watch, say, shell
from rn_rl.experiment.runs.divergence import MOST_WEIGHT, find_divergence, write_divergence
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.io import atomic_write
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.runs.weights import save_zip
from rn_rl.experiment.settings.algorithms import algorithm
from rn_rl.experiment.training.callbacks import PHASES_PER_CHECK, is_due
from rn_rl.experiment.training.probe import put_log, put_states, take_log, take_states, write_seed
from rn_rl.experiment.training.progress import TrainingProgress
from rn_rl.experiment.training.seed_batch_envs import (
    BatchEnvs,
)
from rn_rl.experiment.training.seed_batch_records import SeedBatchRecords
from rn_rl.normalization import RegularityNorm
from rn_rl.probe.records import MOST_ROWS

LEAVING = 0.25
"""Share of the seeds of a batch that have all of their episodes, at which these seeds leave it.

A smaller batch is faster, but it takes seconds to trace its networks again.
"""

COMMITS_PER_KL = 50
"""Commits of an algorithm with a replay buffer, many and small, for each one whose KL is measured."""


def probe_interval(batch: SeedBatch[Any], spec: RunSpec) -> int:
    """Return the number of phases of which one is probed, such that a run has at most 2,000 rows."""
    phases = spec.timesteps // max(batch.rollout_length * spec.n_envs, 1)
    return max(1, -(-phases // MOST_ROWS))


class SeedBatchRun:
    """A seed batch in training, with its records, evaluations and checkpoints.

    Args:
        specs: description of every seed's run.
        runs: folder of every seed's run.
        batch: the seeds' networks and their algorithm.
        envs: their environments.
        noise: random numbers of stochastic evaluations.
        lines: prints the progress.
        watch: progress, and the request to stop.
        compile: compile the updates.
        track: service that also gets the scalars.

    Attributes:
        best: highest mean return of an evaluation, for each seed.
        window: number of episodes over which training returns are averaged: ``stats_window_size``.
        recent: the last ``window`` training returns of each seed.
        ended: number of training episodes that each seed has ended.
        finished: seeds that have all of their episodes or diverged, ``(seeds,)``. Their last
            policies are saved, and nothing of them is recorded any more; they leave the batch when
            they are :data:`LEAVING` of it.
    """

    def __init__(
        self,
        specs: Sequence[RunSpec],
        runs: Sequence[Run],
        batch: SeedBatch[Any],
        envs: BatchEnvs,
        noise: Streams,
        lines: StatusLines,
        watch: Watch,
        compile: bool = False,
        track: str = "tensorboard",
    ) -> None:
        self.specs, self.runs, self.spec = specs, runs, specs[0]
        self.compile = compile
        self.batch, self.envs, self.noise = batch, envs, noise
        self.watch = watch
        self.records = SeedBatchRecords(list(batch.norms), runs, specs, track)
        self.probe = (
            SeedBatchProbe(batch, probe_interval(batch, self.spec)) if self.spec.probe else None
        )
        self.best = np.full(len(specs), -np.inf)
        self.window: int = batch.model._stats_window_size
        self.recent: list[deque[float]] = [deque(maxlen=self.window) for _ in specs]
        self.rollouts = 0
        self.ended = np.zeros(len(specs), int)
        self.finished = np.zeros(len(specs), bool)
        self._every = max(self.spec.timesteps // 10, 1)
        self._next_checkpoint = 0
        self._phases = 0
        title = f"{self.spec.norm} {self.spec.algo} {self.spec.env} {len(runs)} seeds"
        self.display = TrainingProgress(self.spec.timesteps, title, lines, watch)

    def train(self) -> None:
        """Train to the last timestep or episode; whatever ends it, save every agent."""
        more = f" and {len(self.runs) - 1} more" if len(self.runs) > 1 else ""
        say(self.display.lines.console, f"run folder: {self.runs[0].folder}{more}")
        self.display.start(self.batch.num_timesteps)
        self._next_checkpoint = self.batch.num_timesteps + self._every
        try:
            while not self.complete:
                self.batch.learn(self.spec.timesteps, self.on_rollout_start, self.on_step)
                if self.probe is not None:
                    self.probe.after_phase()
                self._end_diverged()
                if not self.complete:
                    self._leave_finished()
            self.save()
        except TrainingStopped:  # all files are written
            raise
        except BaseException as error:
            # on a full disk the files before stay
            full = isinstance(error, OSError)
            with contextlib.suppress(OSError) if full else contextlib.nullcontext():
                self.envs.write_monitors()
                self.save_agents()
            raise
        finally:
            self.display.close(self.batch.num_timesteps, self.status)

    @property
    def complete(self) -> bool:
        """True if every seed has all of its timesteps or episodes."""
        return self.batch.num_timesteps >= self.spec.timesteps or bool(self.finished.all())

    def status(self) -> str:
        """Return the figures over all seeds as one line."""
        steps = self.display.speed(self.batch.num_timesteps) * len(self.runs)
        parts = [f"{steps:,.0f} steps/s in all"]
        returns = [np.mean(recent) for recent in self.recent if recent]
        if returns:
            parts.append(f"training return {np.mean(returns):.2f}")
        return " · ".join(parts + self.records.status())

    def on_rollout_start(self) -> bool:
        """Record the commit that just happened, write checkpoints, and stop on request.

        Returns:
            True if so many seeds have all of their episodes that they leave the batch.

        Raises:
            TrainingStopped: on request, once the checkpoints are written.
        """
        now, records = self.batch.num_timesteps, self.records
        if self.probe is not None:
            self.probe.after_phase()
        if records.layers and not (records.phases and records.phases[-1] == now):
            self.rollouts += 1
            records.phases.append(now)
            records.gains.append(self.batch.gains())
            every = COMMITS_PER_KL if algorithm(self.spec.algo).replay else 1
            size = self.batch.commit_kl() if self.rollouts % every == 0 else None
            if size is not None:
                records.commit_kls.append(size)
        if now >= self._next_checkpoint or self.watch.stop:
            stop = self.watch.stop
            self._next_checkpoint = now + self._every
            self.save()
            if stop:
                raise TrainingStopped(
                    f"{len(self.runs)} seeds stopped at timestep {now:,}; continue with: "
                    + shell("rn-rl", "train", "--resume", self.runs[0].folder)
                )
        check_every = PHASES_PER_CHECK if algorithm(self.spec.algo).replay else 1
        if self._phases % check_every == 0:
            self._end_diverged()
        self._phases += 1
        self._finish_seeds()
        if self.probe is not None:  # it observes all seeds of the batch together
            return bool(self.finished.all())
        return bool(self.finished.mean() >= LEAVING)

    def _leave_finished(self) -> None:
        """Continue with the seeds that still learn; see :attr:`finished`."""
        self.save()  # by their checkpoints those that leave have ended
        left = np.flatnonzero(~self.finished).tolist()
        self.envs.keep(left)
        self.batch = self.batch.only(left, self.compile)
        if self.probe is not None:
            self.probe = self.probe.only(self.batch, left)
        self.noise.keep(left)
        self.records.keep(left)
        self.specs, self.runs = [self.specs[i] for i in left], [self.runs[i] for i in left]
        self.recent = [self.recent[i] for i in left]
        self.best, self.ended, self.finished = (
            self.best[left],
            self.ended[left],
            self.finished[left],
        )

    def _end_diverged(self) -> None:
        """Save and record the seeds whose weights diverged, and set these to 0.

        The other seeds go on; what a seed of the batch computes does not reach them.
        """
        for seed, value in enumerate(self.batch.largest_weights()):
            if value <= MOST_WEIGHT:
                continue
            if not self.finished[seed]:
                self._finish(seed)
                named = self.batch.named_parameters(seed)
                found = find_divergence(named, self.batch.num_timesteps)
                assert found is not None
                write_divergence(self.runs[seed].divergence_file, found)
                say(self.display.lines.console, f"run {self.runs[seed].folder}: {found}")
            self.batch.silence(seed)

    def _finish_seeds(self) -> None:
        """Save the policies of seeds that have just ended their last episode; see :attr:`finished`."""
        if self.spec.episodes is None:
            return
        for seed in np.flatnonzero((self.ended >= self.spec.episodes) & ~self.finished):
            self._finish(int(seed))

    def _finish(self, seed: int) -> None:
        """Save the agent of a seed, of which nothing is recorded any more; see :attr:`finished`."""
        self.finished[seed] = True
        self.envs.end_monitors(seed)
        self.save_agent(seed)

    def on_step(self) -> None:
        """Record episodes, evaluate when due and show progress, after a step of all environments."""
        for episode in self.envs.training.finished:
            if self.finished[episode.seed]:
                continue
            self.ended[episode.seed] += 1
            self.recent[episode.seed].append(episode.reward)
            self.envs.record(episode)
        now, every = self.batch.num_timesteps, self.spec.eval_freq
        if every and is_due(now, self.spec.n_envs, every):
            self.evaluate_seeds()
        if self.envs.training.finished:
            self._finish_seeds()  # before the next update, as a single run ends
        self.display.update(now, self.status)

    def evaluate_seeds(self) -> None:
        """Play ``eval_episodes`` episodes of every seed, side by side, and keep its best policy."""
        self._end_diverged()  # actions of weights that are not finite would end the whole batch
        self.envs.synchronize()
        noise = None if self.spec.deterministic_evaluation else self.noise
        returns, lengths = play_seed_batch(self.batch, self.envs.evaluation, noise)
        now = self.batch.num_timesteps
        self.records.evaluations.append((now, returns, lengths))
        means = returns.mean(1)
        for seed, run in enumerate(self.runs):
            if self.finished[seed]:
                continue
            if means[seed] > self.best[seed]:
                self.best[seed] = means[seed]
                with atomic_write(run.best_model_file) as temporary:
                    save_zip(self.batch.write_back(seed), temporary, self.envs.normalizer(seed))
            self.records.write_evaluations(run, seed)
        self.records.scalars.append((now, self._scalars(means, lengths.mean(1))))

    def _scalars(self, returns: np.ndarray, lengths: np.ndarray) -> dict[str, np.ndarray]:
        """Return the figures of now by TensorBoard tag, one value for each seed."""
        row = {"eval/mean_reward": returns, "eval/mean_ep_length": lengths}
        row.update({name: loss.cpu().numpy() for name, loss in self.batch.losses.items()})
        rate = self.batch.optimizer.param_groups[0]["lr"]
        row["train/learning_rate"] = np.full(len(returns), float(rate))
        recent = [np.mean(r) if r else np.nan for r in self.recent]
        row["rollout/ep_rew_mean"] = np.array(recent)
        layers, records = self.records.layers, self.records
        if layers:
            for name, gains in zip(layers, records.gains.array[-1].T.copy(), strict=True):
                row[f"normalizer/gain/{name}"] = gains
                if isinstance(self.batch.norms[name], RegularityNorm):
                    row[f"normalizer/code_length/{name}"] = gains  # the gain of RN is a code length
            if len(records.commit_kls):
                row["normalizer/commit_kl"] = records.commit_kls.array[-1].copy()
        if self.probe is not None:
            row.update(self.probe.scalars())
        return row

    def save(self) -> None:
        """Write the agents and records of all seeds between two phases, and then their checkpoints.

        A process that is killed in between leaves the checkpoints before, from which all of it is
        written again. So a run whose checkpoint is complete has its last policy.
        """
        self.save_agents()
        self.save_checkpoints()

    def save_agents(self) -> None:
        """Write the agents and records of the seeds that still learn."""
        for seed in np.flatnonzero(~self.finished):
            self.save_agent(int(seed))
        self.records.scalars.clear()

    def save_agent(self, seed: int) -> None:
        """Write the agent of one seed and its records."""
        run = self.runs[seed]
        model = self.batch.write_back(seed)
        run.save_agent(self.specs[seed], model, self.envs.normalizer(seed))
        self.records.write_code_length(run, seed, getattr(model, "learning_starts", 0))
        self.records.write_scalars(seed)
        if self.probe is not None:
            write_seed(run, seed, self.probe)

    def save_checkpoints(self) -> None:
        """Write a checkpoint of every seed into its run, between two phases."""
        self.envs.write_monitors()
        kept = self.records.arrays(len(self.runs))
        # finished seeds first: if the process is killed in between, one that still learns lacks its own
        for seed in np.argsort(~self.finished, kind="stable").tolist():
            run = self.runs[seed]
            arrays, plain = self.batch.state(seed)
            arrays.update(kept[seed])
            if self.probe is not None:
                put_log(arrays, self.probe.log.state(seed))
                plain["probe"] = put_states(arrays, self.probe.probes, seed)
            plain["best"] = float(self.best[seed])
            plain["recent"] = list(self.recent[seed])
            plain["rollouts"] = self.rollouts
            plain["evaluation_noise"] = self.noise.state(seed)
            plain["monitor_rows"] = monitors.monitor_rows(run.folder)
            plain.update(self.envs.state(seed))
            checkpoint.write_pending(run.checkpoint, arrays, plain)
        checkpoint.adopt_pending([run.checkpoint for run in self.runs])

    def restore(self, plain: Sequence[dict[str, Any]]) -> None:
        """Continue from the checkpoints.

        Args:
            plain: the plain data of each seed's checkpoint; arrays are read from the runs.
        """
        with contextlib.ExitStack() as stack:
            files = [
                stack.enter_context(checkpoint.open_state(run.checkpoint)) for run in self.runs
            ]
            arrays = [{name: file[name] for name in file.files} for file in files]
        self.batch.restore(list(zip(arrays, plain, strict=True)))
        self.records.restore(arrays, self.batch.num_timesteps)
        if self.probe is not None and plain[0].get("probe"):
            self.probe.restore(
                [take_log(each) for each in arrays],
                [take_states(a, p["probe"]) for a, p in zip(arrays, plain, strict=True)],
            )
        self.noise.restore([each["evaluation_noise"] for each in plain])
        self.best = np.array([each["best"] for each in plain])
        self.recent = [deque(each["recent"], maxlen=self.window) for each in plain]
        self.rollouts = plain[0]["rollouts"]
        self.ended = np.array([monitors.episodes_done(each) for each in plain])
        if self.spec.episodes is not None:
            self.finished = self.ended >= self.spec.episodes
        self.finished |= [run.divergence is not None for run in self.runs]
        for seed in np.flatnonzero(self.finished):
            self.envs.end_monitors(int(seed))
        if not self.envs.restore(plain):
            self.batch.begin_episodes()
