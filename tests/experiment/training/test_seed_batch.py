"""A seed batch before it trains; what becomes of its windows, evaluations and diverged seeds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rn_rl.agents.seed_batch import SeedBatchSAC
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.experiment.runs.console import StatusLines, Watch
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.launch import train_seeds
from rn_rl.experiment.training.resolve import resolve
from rn_rl.experiment.training.seed_batch import BATCHES, make_model_silently
from rn_rl.experiment.training.seed_batch_envs import EnvpoolBatchEnvs
from rn_rl.experiment.training.seed_batch_run import SeedBatchRun


def test_making_a_seed_batch_writes_nothing_and_sets_no_threads(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: 1 / 0)
    spec = resolve(TrainConfig(algo="ppo", env="CartPole-v1", norm="rn", out=tmp_path, threads=2))
    specs = [replace(spec, seed=seed) for seed in range(2)]
    runs = [Run(tmp_path / str(seed)) for seed in range(2)]
    trial = spec.make_env()
    envs = EnvpoolBatchEnvs(specs, runs, trial, done=0)
    batch = BATCHES["ppo"]([make_model_silently(one, trial) for one in specs], envs.training)
    lines = StatusLines(Console(quiet=True), "")
    made = SeedBatchRun(specs, runs, batch, envs, Streams([0, 1], "noise", (5, 1)), lines, Watch())
    assert len(made.records.layers) == len(batch.stack.norms) > 0
    envs.close()
    trial.close()
    assert not list(tmp_path.iterdir())


def test_the_window_of_training_returns_is_stats_window_size(tmp_path):
    options: dict[str, Any] = {"algo": "dqn", "env": "CartPole-v1", "norm": "none", "seeds": 2}
    settings = ("learning_starts=1000", "train_freq=10", "buffer_size=500", "stats_window_size=2")
    when = {"timesteps": 300, "eval_freq": 100, "eval_episodes": 1, "quiet": True}
    config = TrainConfig(**options, **when, set=settings, out=tmp_path, vector_env="gymnasium")
    for run in train_seeds(config):
        rows = np.loadtxt(run.folder / "0.monitor.csv", delimiter=",", skiprows=2)
        ends = np.cumsum(rows[:, 1])
        assert (ends < 100).sum() > 2  # else the last two are all
        logged = EventAccumulator(str(run.folder)).Reload().Scalars("rollout/ep_rew_mean")
        assert [event.step for event in logged] == [100, 200, 300]
        for event in logged:
            assert event.value == pytest.approx(rows[ends <= event.step, 0][-2:].mean())


def test_a_seed_that_diverges_shortly_before_an_evaluation_ends_alone(tmp_path, monkeypatch):
    """The environments refuse actions that are not finite, which would end the others too."""
    update = SeedBatchSAC.update

    def breaking(self: Any, minibatch: Any) -> None:
        update(self, minibatch)
        if self.num_timesteps == 45:
            with torch.no_grad():
                self.actor.weights[0] = float("nan")

    monkeypatch.setattr(SeedBatchSAC, "update", breaking)
    settings = ("learning_starts=20", "policy_kwargs.net_arch=[8]", "batch_size=8")
    config = TrainConfig(
        algo="sac",
        env="Pendulum-v1",
        norm="none",
        timesteps=70,
        eval_freq=50,
        eval_episodes=1,
        set=(*settings, "buffer_size=500", "train_freq=1", "gradient_steps=1"),
        out=tmp_path,
        seeds=2,
        vector_env="gymnasium",
        quiet=True,
    )
    broken, whole = train_seeds(config)
    assert broken.divergence is not None and broken.divergence.timesteps == 50
    assert not broken.evaluations_file.exists() and whole.divergence is None
    assert np.load(whole.evaluations_file)["timesteps"].tolist() == [50]
