"""``rn-rl tune``: real trials, as many for each normalizer, continued, and written as a conf-file."""

import math
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import yaml
from ray.cluster_utils import Cluster

from rn_rl.analysis.summary import summarize
from rn_rl.cli import main
from rn_rl.errors import UserError
from rn_rl.experiment.grid.cells import check_seeds
from rn_rl.experiment.runs.records import find_runs, read_records
from rn_rl.experiment.settings.algorithms import algorithm
from rn_rl.experiment.settings.shipped import shipped
from rn_rl.experiment.training.conf_file import SEARCHED
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.resolve import resolve
from rn_rl.experiment.tuning.config import TuneConfig
from rn_rl.experiment.tuning.space import space_of
from rn_rl.experiment.tuning.study import open_study
from rn_rl.experiment.tuning.trial import run_trial

SPACE = """
a2c:
  learning_rate: {log: [1.0e-4, 1.0e-2]}
  n_steps: {range: [4, 8]}
  policy_kwargs.net_arch: {choice: [[8], [16, 16]]}
"""


@pytest.fixture
def config(tmp_path):
    (tmp_path / "space.yml").write_text(SPACE)
    return TuneConfig(
        algo="a2c",
        env="CartPole-v1",
        norms="none,ln",
        trials=2,
        seeds=1,
        timesteps=64,
        n_envs=1,
        eval_freq=32,
        eval_episodes=1,
        out=tmp_path / "tuning",
        space=tmp_path / "space.yml",
        pruner="none",
    )


def options(config):
    named = ("algo", "env", "norms", "trials", "seeds", "timesteps", "n_envs", "eval_freq")
    named += ("eval_episodes", "out", "space", "pruner", "engine")
    pairs = ((f"--{name.replace('_', '-')}", str(getattr(config, name))) for name in named)
    return ["tune", *(text for pair in pairs for text in pair)]


def trials(config, norm):
    return open_study(config, norm).get_trials(deepcopy=False)


def test_a_search_is_fair_continues_and_gives_a_conf_file(config, capsys):
    assert main(options(config)) == 0
    assert "compare on new seeds" in capsys.readouterr().out
    states = {norm: [t.state.name for t in trials(config, norm)] for norm in ("none", "ln")}
    assert states == {"none": ["COMPLETE"] * 2, "ln": ["COMPLETE"] * 2}
    first = [t.params for t in trials(config, "none")]
    assert first[0] != first[1]
    best = max(trials(config, "ln"), key=lambda t: t.value).params
    [path] = config.out.glob("a2c-ln.yml")
    spec = resolve(TrainConfig(algo="a2c", env="CartPole-v1", norm="ln", conf_file=path))
    assert spec.hyperparameters["learning_rate"] == best["learning_rate"]
    assert spec.hyperparameters["n_steps"] == best["n_steps"]
    arch = [[8], [16, 16]][best["policy_kwargs.net_arch"]]
    assert spec.hyperparameters["policy_kwargs"]["net_arch"] == arch
    assert (spec.timesteps, spec.n_envs) == (64, 1)
    assert list(yaml.safe_load(path.read_text())) == ["CartPole-v1"]
    # a trial that a killed process left is replaced, and only missing trials are run
    more = replace(config, norms="none", trials=3)
    open_study(config, "none").ask()
    assert main(options(more)) == 0
    states = [t.state.name for t in trials(more, "none")]
    assert sorted(states) == ["COMPLETE"] * 3 + ["FAIL"]
    assert [t.params for t in trials(more, "none")][:2] == first
    assert not list(config.out.glob(".trial-*"))  # runs of trials are removed
    assert main(options(more)) == 0
    assert len(trials(more, "none")) == 4


def test_a_file_may_claim_any_number_of_seeds(tmp_path):
    path = tmp_path / "x.yml"
    path.write_text(SEARCHED.format(0, 999_999_999))
    with pytest.raises(UserError, match="with --seed 1000000000"):
        check_seeds([5], path)
    check_seeds([10**9], path)


def test_tuned_normalizers_are_compared_as_one_task(config, capsys):
    assert main(options(config)) == 0
    out = config.out.parent / "runs"
    words = (
        f"compare --algo a2c --env CartPole-v1 --norms none,ln --conf-file {config.out} --jobs 1"
    )
    words += f" --engine process --final-episodes 1 --eval-episodes 1 --quiet --out {out}"
    assert main([*words.split(), "--seeds", "1"]) == 2
    error = capsys.readouterr().err
    assert "was chosen on seeds 0 to 0" in error and error.rstrip().endswith("with --seed 1")
    assert main([*words.split(), "--seed", "1", "--seeds", "2"]) == 0
    summary = summarize(*read_records(find_runs(out)))
    [task] = summary.tasks
    assert list(task.arms) == ["none", "ln"] and len(summary.comparisons) == 1
    for norm, arm in task.arms.items():
        [found] = yaml.safe_load((config.out / f"a2c-{norm}.yml").read_text()).values()
        for run in arm.runs:
            assert run.spec.hyperparameters["n_steps"] == found["n_steps"]
            assert {"learning_rate", "n_steps", "policy_kwargs"} <= set(run.spec.own)
    [note] = [note for note in summary.notes if "tuned for it" in note]
    assert "learning_rate, " in note
    # what --set gives is of all arms
    assert main([*words.split(), "--seed", "1", "--seeds", "2", "--set", "gamma=0.5"]) == 0
    assert len(summarize(*read_records(find_runs(out))).tasks) == 2


def test_a_trial_reports_and_can_be_ended(config):
    config.out.mkdir()
    told = []

    def report(step, value):
        told.append((step, value))
        return True

    several = replace(config, seeds=2, engine="process")
    assert run_trial(several, "none", {"learning_rate": 1e-3}, report) is None
    assert len(told) == 1 and told[0][0] == 1 and math.isfinite(told[0][1])
    together = replace(config, algo="ppo", seeds=2, engine="batch")
    drawn = {"n_steps": 32, "batch_size": 32, "n_epochs": 1}
    whole = run_trial(together, "none", drawn, lambda *_: False)
    assert whole is not None and math.isfinite(whole)


def test_every_algorithm_s_ranges_are_usable():
    for name in shipped("spaces.yml"):
        assert space_of(algorithm(name), None)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ppo: {}", "no ranges of a2c"),
        ("a2c: {gama: {log: [0.1, 1]}}", "gama: unknown hyperparameter of a2c 'gama'"),
        ("a2c: {gamma: {log: [0, 1]}}", "log: expected LOW above 0"),
        ("a2c: {gamma: {range: [1, 0.5]}}", "range: expected [LOW, HIGH]"),
        ("a2c: {gamma: {range: [0.5, 2]}}", "gamma=2: expected at most 1"),
        ("a2c: {gamma: 0.9}", "expected {log: [LOW, HIGH]}"),
        ("a2c: {gamma: {choice: []}}", "choice: expected a list"),
        ("a: [", "cannot be read"),
    ],
)
def test_wrong_ranges_are_one_line(config, text, message):
    config.space.write_text(text)
    with pytest.raises(UserError) as error:
        space_of(algorithm("a2c"), config.space)
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (["--sampler", "best"], "unknown --sampler 'best'"),
        (["--pruner", "x"], "unknown --pruner 'x'"),
        (["--trials", "0"], "--trials 0: expected at least 1"),
        (["--jobs", "0"], "--jobs 0: expected at least 1"),
        (["--engine", "dask"], "--engine dask: expected one of auto, process, batch, ray"),
        (["--address", "x:1"], "--address x:1: is for --engine ray"),
        (["--eval-freq", "0"], "--eval-freq 0: a search needs evaluations"),
        (["--track", "wandb"], "--track wandb: a search keeps its trials in study.db"),
        (["--norms", "xx"], "unknown normalizer 'xx'"),
        (["--space", "no.yml"], "--space no.yml: no such file"),
    ],
)
def test_wrong_options_are_one_line_and_train_nothing(config, capsys, changed, message):
    assert main([*options(config), *changed]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1
    assert not config.out.exists()


def assert_fair(config):
    """Both studies have their number of trials, none of them twice."""
    for norm in ("none", "ln"):
        found = trials(config, norm)
        assert [trial.state.name for trial in found] == ["COMPLETE"] * config.trials
        assert len({str(trial.params) for trial in found}) == config.trials
        assert (config.out / f"a2c-{norm}.yml").is_file()


@pytest.mark.slow
def test_processes_share_the_trials(config):
    config = replace(config, trials=5)
    assert main([*options(config), "--jobs", "2"]) == 0
    assert_fair(config)


@pytest.mark.slow
def test_nodes_of_a_ray_cluster_share_the_trials(config, monkeypatch, tmp_path):
    config = replace(config, trials=4, engine="ray")
    monkeypatch.chdir(tmp_path)  # and the folder is given as one of the present folder
    words = [word.replace(f"{tmp_path}/", "") for word in options(config)]
    cluster = Cluster()
    try:
        cluster.add_node(num_cpus=1)
        cluster.add_node(num_cpus=1)
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "rn_rl", *words, "--address", cluster.address]
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, timeout=400, check=False
        )
        assert done.returncode == 0, done.stderr
    finally:
        cluster.shutdown()
    assert_fair(config)
