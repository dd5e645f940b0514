"""``rn-rl compare``: no training is repeated or lost, and a seed that fails does not affect others."""

import contextlib
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
import psutil
import pytest
from gymnasium.envs.classic_control import CartPoleEnv
from ray.cluster_utils import Cluster
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from rn_rl.cli import main
from rn_rl.experiment.grid import leases
from rn_rl.experiment.grid.disk import find_cell_runs
from rn_rl.experiment.runs.folder import Run
from tests.factories import slow_unless

TINY = ["--algo", "dqn", "--env", "CartPole-v1", "--config", "paper", "--timesteps", "400"]
TINY += ["--eval-freq", "200", "--eval-episodes", "1", "--final-episodes", "2", "--quiet"]
TINY += ["--set", "learning_starts=100"]


def compare(out, *arguments, seeds=2, norms="none,rn"):
    """Run the command in this process, one job after the other."""
    shape = ["--seeds", str(seeds), "--norms", norms, "--jobs", "1"]
    return main(["compare", *TINY, *shape, "--out", str(out), *arguments])


def policies(out):
    """Times at which the policies were written."""
    return {p: p.stat().st_mtime_ns for p in sorted(out.glob("*/*/*/policy.safetensors"))}


def test_a_complete_training_is_not_repeated(tmp_path, capsys):
    assert compare(tmp_path, seeds=1) == 0
    first = policies(tmp_path)
    assert len(first) == 2
    page = (tmp_path / "report.html").read_text()
    assert "2 runs" in page and "2 episodes after the training" in page
    assert compare(tmp_path, seeds=1) == 0
    assert policies(tmp_path) == first
    assert compare(tmp_path, norms="none") == 0  # with more seeds only the new ones are trained
    later = policies(tmp_path)
    assert len(later) == 3 and first.items() <= later.items()
    seeds = [Run(p.parent).read_spec().seed for p in later]
    assert sorted(seeds) == [0, 0, 1]
    assert compare(tmp_path, "--set", "gamma=0.9", norms="none", seeds=1) == 0  # another setting
    assert len(policies(tmp_path)) == 4
    assert list(leases.leases_folder(tmp_path).iterdir()) == []
    capsys.readouterr()
    assert main(["status", str(tmp_path)]) == 0  # every training is in a plan
    assert capsys.readouterr().out.endswith("\n4 of 4 runs are done, 100% of their timesteps\n")
    command = Run(next(iter(later)).parent).read_spec().command
    assert command  # for the report


@pytest.mark.parametrize("engine", ["batch", pytest.param("process", marks=pytest.mark.slow)])
def test_tensorboard_shows_a_grid_with_sensible_names(tmp_path, engine):
    """Runs have the names of their folders, and the same figures however they were trained."""
    assert (
        compare(tmp_path, "--engine", engine, "--timesteps", "2000", seeds=1, norms="none,rn") == 0
    )
    files = EventMultiplexer().AddRunsFromDirectory(str(tmp_path)).Reload()
    assert sorted(files.Runs()) == ["none/dqn/CartPole-v1_1", "rn/dqn/CartPole-v1_1"]
    logged = set(files.Runs()["rn/dqn/CartPole-v1_1"]["tensors"])
    layers = [f"normalizer/{what}/q_net.{i}" for what in ("gain", "code_length") for i in (1, 4)]
    expected = {"eval/mean_reward", "rollout/ep_rew_mean", "train/loss", *layers}
    expected.add("train/learning_rate")
    assert expected <= logged
    metadata = files.SummaryMetadata("rn/dqn/CartPole-v1_1", "_hparams_/session_start_info")
    stored = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info.hparams
    assert (stored["norm"].string_value, stored["seed"].number_value) == ("rn", 0)
    assert stored["learning_rate"].number_value == 1e-3 and stored["policy_kwargs.net_arch"]


def test_a_missing_evaluation_is_made_without_training_again(tmp_path):
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
def test_a_failed_seed_is_tried_again_then_named_and_stops_no_other(tmp_path, engine, capsys):
    shape = ["--env", "Frail-v0", "--config", "zoo", "--env-kwargs", "seed=2", "--engine", engine]
    shape += ["--set", "learning_starts=100", "buffer_size=1000"]
    assert compare(tmp_path, *shape, seeds=4, norms="none") == 2
    error = capsys.readouterr().err
    assert (
        "1 of 4 trainings failed, and again by themselves, such as none dqn Frail-v0 seed 2"
        in error
    )
    assert "the environment gave observation nan at timestep" in error
    finals = [json.loads(p.read_text()) for p in tmp_path.glob("*/*/*/final.json")]
    assert sorted(final["seed"] for final in finals) == [0, 1, 3]
    log = next((tmp_path / ".grid" / "failures").glob("none-dqn-Frail-v0-2-*.txt")).read_text()
    assert log.count("Traceback (most recent call last)") >= 2
    page = (tmp_path / "report.md").read_text()
    assert "3 runs" in page and "failed, by itself too" in page


def start(out, *arguments, **options):
    """Start the command in a process group of its own, as a terminal does."""
    command = [sys.executable, "-m", "rn_rl", "compare", *TINY, "--out", str(out), *arguments]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, start_new_session=True, **pipes, **options)


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("engine", "timesteps"), [("auto", 10_000), ("process", 5_000)])
def test_ctrl_c_then_the_same_command(tmp_path, engine, timesteps):
    """All runs end at a checkpoint, and continue from it."""
    shape = ["--seeds", "2", "--norms", "rn", "--engine", engine, "--timesteps", str(timesteps)]
    shape += ["--eval-freq", str(timesteps // 2)]
    process = start(tmp_path, *shape)
    wait_for(lambda: any(leases.timesteps_in_work(tmp_path).values()) or process.poll() is not None)
    os.killpg(process.pid, signal.SIGINT)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 130, error
    assert "the same command goes on where it stopped" in error
    begun = {p: p.stat().st_ino for p in tmp_path.glob("*/*/*/checkpoint/state.npz")}
    assert begun
    assert list(leases.leases_folder(tmp_path).iterdir()) == []
    process = start(tmp_path, *shape)
    _, error = process.communicate(timeout=400)
    assert process.returncode == 0, error
    folders = [p.parent.parent for p in begun]
    assert len(policies(tmp_path)) == 2
    for folder in folders:
        monitor = (folder / "0.monitor.csv").read_text().splitlines()
        lengths = sum(int(line.split(",")[1]) for line in monitor[2:])
        assert timesteps - 500 < lengths <= timesteps  # one training in two parts


def test_two_commands_share_a_folder(tmp_path):
    """As on two machines: no run is trained twice, and both commands report all runs."""
    shape = ["--engine", "process", "--report"]
    typed = ["--seeds", "3", "--norms", "none", "--jobs", "1"]
    there = start(tmp_path, *typed, *shape, str(tmp_path / "there.html"))
    wait_for(lambda: list(tmp_path.glob("*/*/*/run.yaml")))
    assert compare(tmp_path, *shape, str(tmp_path / "here.html"), seeds=3, norms="none") == 0
    _, error = there.communicate(timeout=400)
    assert there.returncode == 0, error
    for page in ("here", "there"):
        assert "3 runs" in (tmp_path / f"{page}.html").read_text()
    assert len(policies(tmp_path)) == 3


@pytest.mark.slow
@pytest.mark.parametrize("once", [True, False])
def test_a_killed_process_does_not_affect_other_trainings(tmp_path, once):
    """A training killed once is tried again; one killed again, when it runs alone, has failed."""
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_ray_cluster_loses_a_node_and_gets_another(tmp_path):
    """One of three nodes is killed during a training and another joins: each run is trained once."""
    cluster = Cluster()
    try:
        nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
        place = ["--engine", "ray", "--address", cluster.address, "--seeds", "4"]
        long = ["--timesteps", "40000", "--eval-freq", "20000"]
        process = start(tmp_path, *place, *long, "--norms", "none,ln,rn,ln+rn")
        taken = leases.leases_folder(tmp_path)
        wait_for(lambda: len(list(taken.glob("*"))) >= 3 * 4)  # three batches of four seeds
        time.sleep(3)
        holders = {json.loads(path.read_text())["pid"] for path in taken.glob("*")}
        assert len(holders) == 3 and all(map(psutil.pid_exists, holders))
        cluster.remove_node(nodes[-1], allow_graceful=False)
        wait_for(lambda: not all(map(psutil.pid_exists, holders)))
        cluster.add_node(num_cpus=1)
        _, error = process.communicate(timeout=500)
        assert process.returncode == 0, error
    finally:
        cluster.shutdown()
    # a batch that is killed before its first checkpoint leaves folders without a policy
    trained = [path.parent for path in policies(tmp_path)]
    assert len({(folder.parts[-3], Run(folder).read_spec().seed) for folder in trained}) == 16
    assert len(trained) == 16
    for folder in trained:
        assert Run(folder).read_spec().timesteps == 40_000
        assert (folder / "final.json").is_file()


@pytest.mark.slow
def test_a_batch_that_is_lost_three_times_is_trained_seed_by_seed(tmp_path):
    """Its process is killed in each of the three tries; then each seed has a job of its own."""
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=1)
        place = ["--engine", "ray", "--address", cluster.address, "--seeds", "2", "--norms", "rn"]
        process = start(tmp_path, *place, "--timesteps", "20000", "--eval-freq", "10000")
        taken = leases.leases_folder(tmp_path)
        killed: set[int] = set()

        def holders() -> set[int]:
            found = set()
            for path in taken.glob("*"):
                with contextlib.suppress(OSError, ValueError):  # it is being written
                    found.add(json.loads(path.read_text())["pid"])
            return found - killed

        for _ in range(3):
            wait_for(lambda: len(holders()) == 1 and len(list(taken.glob("*"))) == 2)
            [worker] = holders()
            os.kill(worker, signal.SIGKILL)
            killed.add(worker)
        wait_for(lambda: holders() and len(list(taken.glob("*"))) == 1)
        _, error = process.communicate(timeout=300)
        assert process.returncode == 0, error
    finally:
        cluster.shutdown()
    seeds = [Run(path.parent).read_spec().seed for path in policies(tmp_path)]
    assert sorted(seeds) == [0, 1]


def test_an_evaluation_of_a_shorter_training_does_not_count(tmp_path):
    """``final.json`` of the shorter training says nothing about the longer one."""
    assert compare(tmp_path, norms="none", seeds=1) == 0
    run = Run(next(iter(policies(tmp_path))).parent)
    run.write_spec(replace(run.read_spec(), timesteps=50_000))
    found = find_cell_runs(tmp_path, run.read_spec())
    assert not next(iter(found.values())).trained


@pytest.mark.parametrize(
    "bad",
    slow_unless({"algo: dqn"}.__contains__, ("algo: [", "- 1", "algo: dqn", "timesteps: 50k")),
)
def test_a_damaged_run_does_not_stop_a_grid(tmp_path, bad, capsys):
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


def test_a_normalizer_by_two_names_is_trained_once(tmp_path):
    assert compare(tmp_path, norms="gain(2),gain(c=2), none", seeds=1) == 0
    assert len(policies(tmp_path)) == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--norms", "none,lm"], "unknown normalizer 'lm'"),
        (["--algo", "dqn,dqm"], "unknown algorithm 'dqm'. Did you mean 'dqn'"),
        (["--env", "CartPole-v9"], "unknown environment 'CartPole-v9'"),
        (["--env", "Pendulum-v1", "--config", "zoo"], "its actions are Box"),
        (["--seeds", "0"], "--seeds 0: expected at least 1"),
        (["--seeds", "99999999"], "--seeds 99999999: expected at least 1 and at most 10,000"),
        (["--engine", "fast"], "--engine fast: expected one of auto, process, batch, ray"),
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


def test_an_algorithm_without_batches_says_so(tmp_path, capsys):
    words = ["compare", "--algo", "ars", "--env", "CartPole-v1", "--engine", "batch"]
    assert main([*words, "--set", "n_delta=4", "--out", str(tmp_path / "runs")]) == 2
    assert "use --engine auto or process" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written(tmp_path, capsys):
    (tmp_path / "file").touch()
    assert main(["compare", *TINY, "--out", str(tmp_path / "file" / "runs")]) == 2
    assert "cannot write there" in capsys.readouterr().err
