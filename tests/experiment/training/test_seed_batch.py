"""A seed batch before it trains."""

from __future__ import annotations

from dataclasses import replace

import torch
from rich.console import Console

from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.experiment.runs.console import StatusLines, Watch
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.training.config import TrainConfig
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
