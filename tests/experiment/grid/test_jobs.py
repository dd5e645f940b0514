"""Jobs of a grid: how seeds are divided among processes, and batches that continue as a whole."""

from dataclasses import replace

import numpy as np
import pytest
from rich.console import Console

from rn_rl.errors import TrainingStopped
from rn_rl.experiment.grid import leases
from rn_rl.experiment.grid.cells import make_cell
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.grid.disk import find_cell_runs
from rn_rl.experiment.grid.jobs import make_jobs, run_job
from rn_rl.experiment.grid.workers import side_by_side
from rn_rl.experiment.runs import checkpoint
from rn_rl.experiment.runs.console import Watch
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.launch import train_together
from rn_rl.normalization import split_names


def test_an_interrupted_batch_continues_as_a_whole_or_not_at_all(tmp_path):
    config = TrainConfig(algo="dqn", env="CartPole-v1", config="paper", out=tmp_path)
    config = replace(config, timesteps=2000, eval_freq=1000, eval_episodes=1, quiet=True)
    cell = make_cell(config, [0, 1], "auto")
    stop = tmp_path / "stop"
    watch = Watch(stop=True)  # between the first two phases
    trial = cell.specs[0].make_env()
    with pytest.raises(TrainingStopped):
        train_together(config, cell.specs, trial, Console(quiet=True), watch)
    job = make_jobs(tmp_path, cell, 1, 1, stop)[0]
    assert len(job.batch) == 2
    with leases.Leases(tmp_path, job.keys[:1]):
        assert run_job(job).done == []
    policies = list(tmp_path.glob("*/*/*/policy.safetensors"))
    assert policies and not list(tmp_path.glob("*/*/*/final.json"))
    assert sorted(run_job(job).done) == sorted(job.keys)
    assert len(list(tmp_path.glob("*/*/*/policy.safetensors"))) == 2


def test_checkpoints_of_a_batch_killed_while_writing_them_have_one_timestep(tmp_path):
    def state(steps):
        return {"x": np.zeros(1)}, {"counters": {"num_timesteps": steps}}

    folders = [tmp_path / f"{i}" / "checkpoint" for i in range(3)]
    for folder in folders:
        checkpoint.write_state(folder, *state(100))
    for folder in folders[:2]:  # killed before the third was written: back to 100
        checkpoint.write_pending(folder, *state(200))
    checkpoint.adopt_pending(folders)
    assert [checkpoint.timesteps_done(folder) for folder in folders] == [100] * 3
    for folder in folders:
        checkpoint.write_pending(folder, *state(200))
    checkpoint.pending_file(folders[0]).replace(
        checkpoint.state_file(folders[0])
    )  # killed while renaming
    checkpoint.adopt_pending(folders)
    assert [checkpoint.timesteps_done(folder) for folder in folders] == [200] * 3
    assert not any(checkpoint.pending_file(folder).exists() for folder in folders)


def test_a_batch_is_divided_among_processes_of_four_seeds_or_more(tmp_path):
    config = TrainConfig(algo="dqn", env="CartPole-v1", config="paper", out=tmp_path)
    for seeds, parts in ((10, 2), (7, 1), (20, 4)):
        cell = make_cell(config, list(range(seeds)), "auto")
        jobs = make_jobs(tmp_path, cell, 2, 4, tmp_path / "stop")
        assert len(jobs) == parts
        assert sorted(s.seed for job in jobs for s in job.specs) == list(range(seeds))
    assert find_cell_runs(tmp_path, cell.specs[0]) == {}


def test_there_is_a_training_for_each_core_and_one_on_a_gpu():
    assert side_by_side(1, "cpu", 8) == 8 and side_by_side(3, "cpu", 8) == 2
    assert (
        side_by_side(9, "cpu", 8) == side_by_side(1, "cuda", 8) == side_by_side(1, "cuda:1", 8) == 1
    )


def test_names_are_separated_by_commas_outside_of_parentheses():
    assert split_names("none, ln+ramp(5, 5000),rn,none") == ["none", "ln+ramp(5, 5000)", "rn"]
    assert CompareConfig().norms == "none,ln,rn,ln+rn"
