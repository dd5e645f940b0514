"""Grids of trainings: nothing twice, nothing lost, one bad seed costs nobody else anything."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from ray.cluster_utils import Cluster
from rich.console import Console
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer

from rn_rl.cli import main
from rn_rl.errors import TrainingStopped
from rn_rl.experiment.grid import leases
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.grid.grid import listed
from rn_rl.experiment.grid.jobs import find, make_cell, make_jobs, run_job, side_by_side
from rn_rl.experiment.runs import checkpoint
from rn_rl.experiment.runs.console import Watch
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.launch import train_together

TINY = ["--algo", "dqn", "--env", "CartPole-v1", "--config", "paper", "--timesteps", "400"]
TINY += ["--eval-freq", "200", "--eval-episodes", "1", "--final-episodes", "2", "--quiet"]
TINY += ["--set", "learning_starts=100"]


def compare(out, *arguments, seeds=2, norms="none,rn"):
    """In this process, one job after the other."""
    shape = ["--seeds", str(seeds), "--norms", norms, "--jobs", "1"]
    return main(["compare", *TINY, *shape, "--out", str(out), *arguments])


def policies(out):
    """When each policy was written."""
    return {p: p.stat().st_mtime_ns for p in sorted(out.glob("*/*/*/policy.safetensors"))}


def test_what_is_done_is_not_done_again(tmp_path):
    assert compare(tmp_path) == 0
    first = policies(tmp_path)
    assert len(first) == 4
    page = (tmp_path / "report.html").read_text()
    assert "4 runs" in page and "2 episodes after the training" in page
    assert compare(tmp_path) == 0
    assert policies(tmp_path) == first
    assert compare(tmp_path, seeds=3) == 0  # more seeds: the new ones alone
    later = policies(tmp_path)
    assert len(later) == 6 and first.items() <= later.items()
    seeds = [Run(p.parent).read_spec().seed for p in later]
    assert sorted(seeds) == [0, 0, 1, 1, 2, 2]
    assert compare(tmp_path, "--set", "gamma=0.9", norms="none") == 0  # another setting
    assert len(policies(tmp_path)) == 8
    assert list(leases.claims_folder(tmp_path).iterdir()) == []
    command = Run(next(iter(later)).parent).read_spec().command
    assert command  # recorded, so that a report can tell it


@pytest.mark.parametrize("engine", ["batch", "process"])
def test_tensorboard_shows_a_grid_with_sensible_names(tmp_path, engine):
    """Runs by the names of their folders, and the same figures whichever way they were trained."""
    assert (
        compare(tmp_path, "--engine", engine, "--timesteps", "2000", seeds=1, norms="none,rn") == 0
    )
    files = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    assert sorted(files.Runs()) == ["none/dqn/CartPole-v1_1", "rn/dqn/CartPole-v1_1"]
    logged = set(files.Runs()["rn/dqn/CartPole-v1_1"]["tensors"])
    layers = [f"normalizer/{what}/q_net.{i}" for what in ("gain", "code_length") for i in (1, 4)]
    expected = {"eval/mean_reward", "rollout/ep_rew_mean", "train/loss", *layers}
    assert expected <= logged


def test_an_evaluation_that_is_missing_is_all_that_is_made_up_for(tmp_path):
    assert compare(tmp_path, norms="none") == 0
    before = policies(tmp_path)
    finals = sorted(tmp_path.glob("*/*/*/final.json"))
    finals[0].unlink()
    finals[1].write_text("{")
    assert compare(tmp_path, norms="none") == 0
    assert policies(tmp_path) == before
    assert all(json.loads(final.read_text())["episodes"] == 2 for final in finals)


class Frail(CartPoleEnv):
    """CartPole that gives NaN, or kills its process once, at the 50th step with a certain seed."""

    def __init__(self, seed, fuse=None):
        super().__init__()
        self.bad, self.fuse, self.count = seed, fuse, 0

    def reset(self, *, seed=None, options=None):
        if seed is not None:
            self.seed = seed
        return super().reset(seed=seed, options=options)

    def step(self, action):
        observation, *rest = super().step(action)
        self.count += 1
        if self.seed == self.bad and self.count == 50:
            if self.fuse is None:
                observation = np.full_like(observation, np.nan)
            elif not Path(self.fuse).exists():
                if Path(self.fuse).parent.exists():
                    Path(self.fuse).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return observation, *rest


@pytest.fixture(autouse=True)
def frail():
    gym.register("Frail-v0", Frail, max_episode_steps=500)
    yield
    del gym.registry["Frail-v0"]


@pytest.mark.parametrize("engine", ["auto", "process"])
def test_a_failed_seed_is_tried_again_named_and_stops_nobody(tmp_path, engine, capsys):
    shape = ["--env", "Frail-v0", "--config", "zoo", "--env-kwargs", "seed=2", "--engine", engine]
    shape += ["--set", "learning_starts=100", "buffer_size=1000"]
    assert compare(tmp_path, *shape, seeds=4, norms="none") == 2
    error = capsys.readouterr().err
    assert "1 of 4 trainings failed, and again by themselves, such as none-dqn-Frail-v0-2" in error
    assert "the environment gave observation nan at timestep" in error
    finals = [json.loads(p.read_text()) for p in tmp_path.glob("*/*/*/final.json")]
    assert sorted(final["seed"] for final in finals) == [0, 1, 3]
    log = next((tmp_path / ".grid" / "failures").glob("none-dqn-Frail-v0-2-*.txt")).read_text()
    assert log.count("Traceback (most recent call last)") >= 2
    page = (tmp_path / "report.md").read_text()
    assert "3 runs" in page and "failed, by itself too" in page


def start(out, *arguments, **options):
    """The command in a process group of its own, as a terminal has it."""
    command = [sys.executable, "-m", "rn_rl", "compare", *TINY, "--out", str(out), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **pipes, **options)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("engine", "timesteps"),
    [("auto", 10_000), pytest.param("process", 5_000, marks=pytest.mark.slow)],
)
def test_ctrl_c_then_the_same_command(tmp_path, engine, timesteps):
    """All runs end at a checkpoint, and go on from there."""
    shape = ["--seeds", "2", "--norms", "rn", "--engine", engine, "--timesteps", str(timesteps)]
    shape += ["--eval-freq", str(timesteps // 2)]
    process = start(tmp_path, *shape)
    wait_for(lambda: any(leases.running(tmp_path).values()) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "the same command goes on where it stopped" in error
    begun = {p: p.stat().st_ino for p in tmp_path.glob("*/*/*/checkpoint/state.npz")}
    assert begun
    assert list(leases.claims_folder(tmp_path).iterdir()) == []
    process = start(tmp_path, *shape)
    _, error = process.communicate(timeout=400)
    assert process.returncode == 0, error
    folders = [p.parent.parent for p in begun]
    assert len(policies(tmp_path)) == 2
    for folder in folders:
        monitor = (folder / "0.monitor.csv").read_text().splitlines()
        lengths = sum(int(line.split(",")[1]) for line in monitor[2:])
        assert timesteps - 500 < lengths <= timesteps  # one training, in two sittings


def test_two_commands_share_a_folder(tmp_path):
    """As two machines would: nothing is trained twice, and both report everything."""
    shape = ["--seeds", "3", "--norms", "none,rn", "--engine", "process", "--jobs", "1"]
    both = [start(tmp_path, *shape, "--report", str(tmp_path / f"{i}.html")) for i in range(2)]
    for i, process in enumerate(both):
        _, error = process.communicate(timeout=400)
        assert process.returncode == 0, error
        assert "6 runs" in (tmp_path / f"{i}.html").read_text()
    assert len(policies(tmp_path)) == 6


@pytest.mark.parametrize("once", [pytest.param(True, marks=pytest.mark.slow), False])
def test_a_process_that_is_killed_costs_others_nothing(tmp_path, once):
    """Killed once, it is tried again; killed again, by itself, it alone has failed."""
    module = tmp_path / "frail_env.py"
    source = Path(__file__).read_text()
    frail = source[source.index("class Frail") : source.index("@pytest.fixture(autouse=True)")]
    head = (
        "import os, signal\nimport gymnasium as gym\nimport numpy as np\nfrom pathlib import Path\n"
    )
    head += "from gymnasium.envs.classic_control import CartPoleEnv\n\n\n"
    module.write_text(f'{head}{frail}gym.register("Frail-v0", Frail, max_episode_steps=500)\n')
    out = tmp_path / "runs"
    shape = ["--env", "frail_env:Frail-v0", "--config", "zoo", "--engine", "process", "--jobs", "2"]
    fuse = f"fuse={tmp_path}/fuse" if once else f"fuse={tmp_path}/none/such"
    shape += ["--seeds", "3", "--norms", "none", "--env-kwargs", "seed=1", fuse]
    shape += ["--set", "learning_starts=100", "buffer_size=1000"]
    process = start(out, *shape, env={**os.environ, "PYTHONPATH": str(tmp_path)})
    said, error = process.communicate(timeout=400)
    assert process.returncode == (0 if once else 2), said + error
    finals = [json.loads(p.read_text()) for p in out.glob("*/*/*/final.json")]
    assert sorted(final["seed"] for final in finals) == ([0, 1, 2] if once else [0, 2])
    if not once:
        assert "1 of 3 trainings failed" in error
        log = next((out / ".grid" / "failures").glob("*Frail-v0-1-*.txt"))
        assert "its process was killed" in log.read_text()


def test_ray_on_two_nodes(tmp_path):
    """A cluster of two nodes on this machine; each has room for one training."""
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1)
        shape = ["--engine", "ray", "--address", cluster.address]
        process = start(tmp_path, *shape, "--seeds", "2", "--norms", "none,rn")
        _, error = process.communicate(timeout=400)
        assert process.returncode == 0, error
    finally:
        cluster.shutdown()
    assert len(policies(tmp_path)) == 4


def test_a_claim_has_one_holder(tmp_path):
    key = leases.claims_folder(tmp_path) / "key"
    with leases.Claims(tmp_path, ["key", "other"]) as first:
        assert first.held == ["key", "other"]
        with leases.Claims(tmp_path, ["key"]) as second:
            assert second.held == []
        assert key.exists()
    assert not key.exists()


def test_a_claim_of_the_dead_is_taken_over(tmp_path):
    folder = leases.claims_folder(tmp_path)
    folder.mkdir(parents=True)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    key = folder / "key"
    key.write_text(json.dumps({**leases.holder(), "pid": gone.pid}))
    assert leases.running(tmp_path) == {}
    with leases.Claims(tmp_path, ["key"]) as mine:
        assert mine.held == ["key"]
    far = json.dumps({"host": "elsewhere", "pid": gone.pid})  # a number that means nothing here
    key.write_text(far)
    assert not leases.take(key)  # alive as far as we know
    old = time.time() - leases.STALE - 1
    os.utime(key, (old, old))
    assert leases.take(key)


def test_one_at_a_time_writes_a_file(tmp_path):
    path = tmp_path / "count"
    path.write_text("0")
    code = (
        "import sys, time; from pathlib import Path; from rn_rl.experiment.grid.leases import alone\n"
        "path = Path(sys.argv[1])\n"
        "for _ in range(5):\n"
        "    with alone(path):\n"
        "        count = int(path.read_text()); time.sleep(0.02); path.write_text(str(count + 1))\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    several = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=120) for process in several] == [0, 0, 0]
    assert path.read_text() == "15" and list(tmp_path.iterdir()) == [path]


def test_who_slept_for_too_long_stops_and_leaves_the_claim_to_its_new_holder(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.05)
    with leases.Claims(tmp_path, ["key"]) as sleeper:
        theirs = json.dumps({"host": "elsewhere", "pid": 1, "id": "theirs"})
        key = leases.claims_folder(tmp_path) / "key"
        key.write_text(theirs)
        wait_for(lambda: sleeper.watch.stop, 10)
        assert sleeper.held == []
    assert key.read_text() == theirs


def test_a_begun_batch_goes_on_as_a_whole_or_not_at_all(tmp_path):
    config = TrainConfig(algo="dqn", env="CartPole-v1", config="paper", out=tmp_path)
    config = replace(config, timesteps=2000, eval_freq=1000, eval_episodes=1, quiet=True)
    cell = make_cell(config, [0, 1], "auto")
    stop = tmp_path / "stop"
    watch = Watch(stop=True)  # at the first boundary
    trial = cell.specs[0].make_env()
    with pytest.raises(TrainingStopped):
        train_together(config, cell.specs, trial, Console(quiet=True), watch)
    job = make_jobs(tmp_path, cell, 1, 1, stop)[0]
    assert len(job.batch) == 2
    with leases.Claims(tmp_path, job.keys[:1]):
        assert run_job(job).done == []
    assert policies(tmp_path) and not list(tmp_path.glob("*/*/*/final.json"))
    assert sorted(run_job(job).done) == sorted(job.keys)
    assert len(policies(tmp_path)) == 2


def test_a_batch_that_is_killed_between_its_checkpoints_stands_at_one_timestep(tmp_path):
    def state(steps):
        return {"x": np.zeros(1)}, {"counters": {"num_timesteps": steps}}

    folders = [tmp_path / f"{i}" / "checkpoint" for i in range(3)]
    for folder in folders:
        checkpoint.write(folder, *state(100))
    for folder in folders[:2]:  # killed before the third was written: back to 100
        checkpoint.prepare(folder, *state(200))
    checkpoint.adopt(folders)
    assert [checkpoint.timesteps(folder) for folder in folders] == [100] * 3
    for folder in folders:
        checkpoint.prepare(folder, *state(200))
    checkpoint.coming(folders[0]).replace(checkpoint.file(folders[0]))  # killed while renaming
    checkpoint.adopt(folders)
    assert [checkpoint.timesteps(folder) for folder in folders] == [200] * 3
    assert not any(checkpoint.coming(folder).exists() for folder in folders)


def test_a_run_that_went_on_for_longer_is_not_done(tmp_path):
    """``final.json`` of the shorter training says nothing about the longer one."""
    assert compare(tmp_path, norms="none", seeds=1) == 0
    run = Run(next(iter(policies(tmp_path))).parent)
    run.write_spec(replace(run.read_spec(), timesteps=50_000))
    found = find(tmp_path, run.read_spec())
    assert not next(iter(found.values())).trained


@pytest.mark.parametrize("bad", ["algo: [", "- 1", "algo: dqn", "timesteps: 50k"])
def test_what_cannot_be_read_stops_no_grid(tmp_path, bad, capsys):
    assert compare(tmp_path, norms="none", seeds=1) == 0
    first = next(iter(policies(tmp_path))).parent
    (first / "run.yaml").write_text(bad)
    (tmp_path / "none/dqn/CartPole-v1_7").mkdir()
    assert compare(tmp_path, norms="none", seeds=1) == 0
    assert str(first) in (tmp_path / "report.md").read_text()
    again = next(p.parent for p in policies(tmp_path) if p.parent != first)
    (again / "checkpoint" / "state.npz").write_bytes(b"PK\x03\x04")
    (again / "final.json").write_text("[]")
    assert compare(tmp_path, norms="none", seeds=1) == 0
    assert len(policies(tmp_path)) == 3


def test_one_thing_by_two_names_is_trained_once(tmp_path):
    assert compare(tmp_path, norms="gain(2),gain(c=2), none", seeds=1) == 0
    assert len(policies(tmp_path)) == 2


def test_a_batch_is_parted_among_processes_but_not_below_four_seeds(tmp_path):
    config = TrainConfig(algo="dqn", env="CartPole-v1", config="paper", out=tmp_path)
    for seeds, parts in ((10, 2), (7, 1), (20, 4)):
        cell = make_cell(config, list(range(seeds)), "auto")
        jobs = make_jobs(tmp_path, cell, 2, 4, tmp_path / "stop")
        assert len(jobs) == parts
        assert sorted(s.seed for job in jobs for s in job.specs) == list(range(seeds))
    assert find(tmp_path, cell.specs[0]) == {}


def test_every_core_has_a_training_and_a_gpu_has_one():
    assert side_by_side(1, "cpu", 8) == 8 and side_by_side(3, "cpu", 8) == 2
    assert (
        side_by_side(9, "cpu", 8) == side_by_side(1, "cuda", 8) == side_by_side(1, "cuda:1", 8) == 1
    )


def test_names_are_separated_by_commas_outside_of_parentheses():
    assert listed("none, ln+ramp(5, 5000),rn,none") == ["none", "ln+ramp(5, 5000)", "rn"]
    assert CompareConfig().norms == "none,ln,rn,ln+rn"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--norms", "none,lm"], "unknown normalizer 'lm'"),
        (["--algo", "dqn,dqm"], "unknown algorithm 'dqm'. Did you mean 'dqn'"),
        (["--env", "CartPole-v9"], "unknown environment 'CartPole-v9'"),
        (["--env", "Pendulum-v1", "--config", "zoo"], "its actions are Box"),
        (["--seeds", "0"], "--seeds 0: expected at least 1"),
        (["--engine", "fast"], "--engine fast: expected one of auto, process, batch, ray"),
        (
            ["--engine", "batch", "--algo", "a2c", "--config", "zoo", "--set", "gamma=0.9"],
            "use --engine auto or process",
        ),
        (["--address", "here:1"], "--address here:1: is for --engine ray"),
        (["--eval-freq", "0"], "a comparison needs evaluations"),
        (["--jobs", "0"], "--jobs 0: expected at least 1"),
        (["--norms", ","], "--norms is missing"),
        (["--baseline", "nonee"], "unknown normalizer 'nonee'"),
        (["--baseline", "rln"], "--baseline rln: expected one of none, ln, rn, ln+rn"),
        (["--report", "."], "--report .: expected the name of a page"),
        (["--report", "page.md"], "--report page.md: expected the name of a page"),
        (["--eval-freq", "500"], "--eval-freq 500: expected at most the 400 timesteps"),
        (["--threshold", "nan"], "--threshold nan: expected a return"),
        (["--set", "policy_kwargs=5"], "policy_kwargs=5: expected names and values"),
        (["--agent", "nobody.zip"], "--agent nobody.zip: no such file"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_trained(tmp_path, arguments, message, capsys):
    assert main(["compare", *TINY, "--out", str(tmp_path / "runs"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1
    assert not (tmp_path / "runs").exists()


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["compare", *TINY, "--out", str(tmp_path / "file" / "runs")]) == 2
    assert "cannot write there" in capsys.readouterr().err
