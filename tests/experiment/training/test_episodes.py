"""Runs that end after a number of training episodes, alone and in a batch of seeds."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.torch import load_file

from rn_rl.agents import RNDQN
from rn_rl.cli import main
from rn_rl.experiment.runs import checkpoint, monitors
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.training import seed_batch_run
from rn_rl.experiment.training.seed_batch_run import SeedBatchRun

PAPER = ["--algo", "rndqn", "--env", "CartPole-v1", "--config", "paper", "--norm", "rn"]


def trained(out, *more, episodes=6):
    shape = ["--episodes", str(episodes), "--eval-freq", "0", "--quiet", "--out", str(out)]
    assert main(["train", *PAPER, *shape, *more]) == 0
    folders = sorted((out / "rn" / "rndqn").iterdir())
    return {Run(folder).read_spec().seed: Run(folder) for folder in folders}


def rows(run):
    return (run.folder / "0.monitor.csv").read_text().splitlines()[2:]


def assert_no_update_follows_the_last_episode(run, end):
    """The saved agent has the updates of the rollouts before timestep ``end``, and no more."""
    model = RNDQN.load(run.zip_file("CartPole-v1"), device="cpu")
    frequency = model.train_freq.frequency
    rollouts = range(frequency, end, frequency)
    trained = [t for t in rollouts if t > model.learning_starts]
    assert model.num_timesteps == end
    assert model._n_updates == len(trained) * model.gradient_steps > 0


def test_a_run_ends_with_its_last_episode(tmp_path, capsys):
    (run,) = trained(tmp_path).values()
    assert len(rows(run)) == 6
    lengths = [int(row.split(",")[1]) for row in rows(run)]
    assert_no_update_follows_the_last_episode(run, sum(lengths))
    assert checkpoint.timesteps_done(run.checkpoint) == sum(lengths)
    assert monitors.has_episodes(run.checkpoint, 6)
    assert not monitors.has_episodes(run.checkpoint, 7)
    assert main(["train", "--resume", str(run.folder), "--quiet"]) == 2
    assert "has all of its 6 episodes" in capsys.readouterr().err


@pytest.mark.parametrize("vector_env", ["gymnasium", "envpool"])
def test_each_seed_of_a_batch_ends_with_its_own_last_episode(tmp_path, vector_env, capsys):
    """A seed that has all of its episodes keeps its policy of then, while the others continue."""
    how = ["--engine", "batch", "--vector-env", vector_env]
    together = trained(tmp_path / "together", "--seeds", "3", *how)
    ends = {}
    for seed, run in together.items():
        ends[seed] = sum(int(row.split(",")[1]) for row in rows(run)[:6])
        assert len(rows(run)) == 6
        assert monitors.has_episodes(run.checkpoint, 6)
        assert_no_update_follows_the_last_episode(run, ends[seed])
    assert main(["train", "--resume", str(together[0].folder), "--quiet"]) == 2
    assert "its batch has all of its 6 episodes" in capsys.readouterr().err
    first = min(ends, key=ends.__getitem__)
    assert ends[first] + 8 < max(
        ends.values()
    )  # else the seeds end together, and this test cannot fail
    (alone,) = trained(tmp_path / "alone", "--seed", str(first), *how).values()
    assert rows(alone)[:6] and ends[first] == sum(int(r.split(",")[1]) for r in rows(alone)[:6])
    mine, theirs = (load_file(run.policy_file) for run in (together[first], alone))
    for name, value in theirs.items():
        np.testing.assert_allclose(mine[name], value, rtol=0, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("vector_env", ["gymnasium", "envpool"])
def test_monitor_files_of_seeds_that_stay_in_the_batch_end_with_their_run(
    tmp_path, vector_env, monkeypatch
):
    monkeypatch.setattr(seed_batch_run, "LEAVING", 1)  # when all have ended
    how = ["--seeds", "3", "--engine", "batch", "--vector-env", vector_env]
    runs = trained(tmp_path, *how).values()
    assert [len(rows(run)) for run in runs] == [6, 6, 6]


def test_monitor_files_of_a_resumed_batch_end_with_their_run(tmp_path, monkeypatch):
    """The batch is stopped when one of its seeds has all of its episodes and the others go on."""
    monkeypatch.setattr(seed_batch_run, "LEAVING", 1)
    start = SeedBatchRun.on_rollout_start

    def stopping(self):
        self.watch.stop = bool(self.finished.any())
        return start(self)

    shape = ["--episodes", "6", "--eval-freq", "0", "--quiet", "--out", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(SeedBatchRun, "on_rollout_start", stopping)
        how = ["--seeds", "3", "--engine", "batch", "--vector-env", "gymnasium"]
        assert main(["train", *PAPER, *shape, *how]) == 130
    runs = [Run(folder) for folder in sorted((tmp_path / "rn" / "rndqn").iterdir())]
    assert min(len(rows(run)) for run in runs) < 6
    assert main(["train", "--resume", str(runs[0].folder), "--quiet"]) == 0
    assert [len(rows(run)) for run in runs] == [6, 6, 6]


@pytest.mark.parametrize(
    "vector_env", [pytest.param("gymnasium", marks=pytest.mark.slow), "envpool"]
)
def test_seeds_that_have_all_of_their_episodes_leave_the_batch(tmp_path, vector_env, monkeypatch):
    """A smaller batch goes on; every run is what it is in a batch that nobody leaves."""
    how = ["--seeds", "6", "--engine", "batch", "--vector-env", vector_env]
    sizes, leave = [], SeedBatchRun._leave_finished

    def noted(self):
        before = len(self.runs)
        leave(self)
        sizes.append((before, len(self.runs), self.batch.size, self.envs.training.num_seeds))

    monkeypatch.setattr(SeedBatchRun, "_leave_finished", noted)
    leaving = trained(tmp_path / "leaving", *how, "--eval-freq", "50", "--eval-episodes", "2")
    assert len(sizes) > 1 and sizes[0][0] == 6
    assert all(before > after == batch == envs for before, after, batch, envs in sizes)
    assert [after for _, after, *_ in sizes[:-1]] == [before for before, *_ in sizes[1:]]
    monkeypatch.setattr(seed_batch_run, "LEAVING", 1)  # when all have ended
    staying = trained(tmp_path / "staying", *how, "--eval-freq", "50", "--eval-episodes", "2")
    ends = set()
    for seed, run in leaving.items():
        other = staying[seed]
        # the times differ
        mine, theirs = ([row.split(",")[:2] for row in rows(each)] for each in (run, other))
        assert mine == theirs and len(mine) == 6
        ends.add(sum(int(length) for _, length in mine))
        assert len(run.read_spec().together) == 6
        with np.load(run.evaluations_file) as mine, np.load(other.evaluations_file) as theirs:
            for name in mine.files:
                np.testing.assert_array_equal(mine[name], theirs[name])
        mine, theirs = load_file(run.policy_file), load_file(other.policy_file)
        for name, value in theirs.items():
            np.testing.assert_allclose(mine[name], value, rtol=0, atol=1e-5, err_msg=name)
    assert len(ends) > 3  # else the seeds end together


def test_a_grid_does_not_repeat_a_run_that_has_its_episodes(tmp_path, capsys):
    words = ["compare", *PAPER[:-2], "--norms", "none", "--seeds", "2", "--episodes", "4"]
    words += [
        "--eval-freq",
        "400000",
        "--final-episodes",
        "1",
        "--jobs",
        "1",
        "--out",
        str(tmp_path),
    ]
    assert main(words) == 0
    before = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("policy.safetensors")}
    assert len(before) == 2
    capsys.readouterr()
    assert main(words) == 0
    assert "2 trainings, 2 of them done" in capsys.readouterr().out
    assert before == {p: p.stat().st_mtime_ns for p in tmp_path.rglob("policy.safetensors")}
    finals = [json.loads(p.read_text()) for p in tmp_path.rglob("final.json")]
    assert all(final["episodes"] == 1 for final in finals)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--algo", "ppo", "--episodes", "5"], "--episodes 5: ppo learns from rollouts"),
        (
            ["--algo", "dqn", "--episodes", "5", "--n-envs", "2"],
            "--episodes 5: counts the episodes of",
        ),
        (["--algo", "dqn", "--episodes", "0"], "--episodes 0: expected at least 1"),
    ],
)
def test_bad_input_is_one_line(words, said, tmp_path, capsys):
    assert main(["train", "--env", "CartPole-v1", *words, "--out", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1
