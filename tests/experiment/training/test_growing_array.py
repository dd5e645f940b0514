"""Growing arrays, and a training that leaves no tensor behind at a phase."""

import gc

import numpy as np
import pytest
import torch

from rn_rl.cli import main
from rn_rl.experiment.training.growing_array import GrowingArray
from rn_rl.experiment.training.seed_batch_run import SeedBatchRun


@pytest.mark.parametrize("begun", [0, 1, 64, 65])
def test_the_array_has_the_rows_that_were_appended(begun):
    every = np.random.default_rng(begun).normal(size=(300, 3, 2))
    rows = GrowingArray(list(every[:begun]))
    for count in range(begun, 300):
        assert len(rows) == count
        rows.append(every[count])
        assert rows.array.shape == (count + 1, 3, 2) and rows.array.dtype == every.dtype
    assert np.array_equal(rows.array, every)


def test_a_row_is_copied_and_an_array_may_be_empty():
    row, rows = np.ones(2, np.float32), GrowingArray()
    assert len(rows) == len(rows.array) == 0
    rows.append(row)
    row[:] = 0
    assert rows.array.tolist() == [[1, 1]] and rows.array.dtype == np.float32


@pytest.mark.parametrize("algo", ["dqn", pytest.param("ppo", marks=pytest.mark.slow)])
def test_no_phase_leaves_a_tensor_behind(algo, tmp_path, monkeypatch):
    """Nor a small array that shares its memory: among the large blocks of updates it fragments memory."""
    alive, on_rollout_start = [], SeedBatchRun.on_rollout_start

    def counted(self):
        on_rollout_start(self)
        if len(self.records.phases) in (60, 100):  # after all functions have been traced
            gc.collect()
            found = [o for o in gc.get_objects() if issubclass(type(o), torch.Tensor)]
            alive.append(len(found))
            del found

    monkeypatch.setattr(SeedBatchRun, "on_rollout_start", counted)
    rollout = 8 if algo == "dqn" else 16
    settings = {
        "dqn": ["train_freq=8", "learning_starts=16", "gradient_steps=2"],
        "ppo": ["n_steps=16", "n_epochs=1"],
    }[algo]
    arguments = f"--algo {algo} --env CartPole-v1 --norm rn --seeds 2 --n-envs 1".split()
    arguments += ["--timesteps", str(104 * rollout), "--eval-freq", "0", "--engine", "batch"]
    arguments += ["--out", str(tmp_path), "--set", *settings, "batch_size=16"]
    assert main(["train", *arguments]) == 0
    before, after = alive
    assert after - before < 10
