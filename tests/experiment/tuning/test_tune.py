"""``rn-rl tune``: real trials, as many for each normalizer, continued, and written as a conf-file."""

import io
import math
import os
import re
import shlex
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import yaml
from ray.cluster_utils import Cluster
from rich.console import Console

from rn_rl import cli
from rn_rl.analysis.summary import notes_on, summarize
from rn_rl.cli import main
from rn_rl.commands.tune import write_found
from rn_rl.errors import UserError
from rn_rl.experiment.grid.cells import check_seeds
from rn_rl.experiment.runs.records import find_runs, read_records
from rn_rl.experiment.settings.algorithms import algorithm
from rn_rl.experiment.settings.shipped import shipped
from rn_rl.experiment.training.conf_file import SEARCHED, searched_seeds
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.resolve import resolve
from rn_rl.experiment.tuning.config import TuneConfig
from rn_rl.experiment.tuning.progress import SearchProgress, displayed
from rn_rl.experiment.tuning.space import space_of
from rn_rl.experiment.tuning.study import load_optuna, open_study
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
    path.write_text(SEARCHED.format("CartPole-v1", 0, 999_999_999))
    with pytest.raises(UserError, match="with --seed 1000000000"):
        check_seeds([5], path, "CartPole-v1")
    check_seeds([10**9], path, "CartPole-v1")
    check_seeds([5], path, "Acrobot-v1")
    path.write_text(
        "# chosen by rn-rl tune on seeds 3 to 4\n"
    )  # as files were for all environments
    assert searched_seeds(path, "CartPole-v1") == range(3, 5)


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
    assert main([*words.replace("none,ln", "rn").split(), "--seed", "1"]) == 2
    error = capsys.readouterr().err
    command = f"rn-rl tune --algo a2c --env CartPole-v1 --norms rn --out {config.out}"
    assert "no hyperparameters of a2c with rn; it has a2c-ln.yml, a2c-none.yml" in error
    assert error.rstrip().endswith(command) and error.count("\n") == 1
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
    [note] = [note for note in summary.notes if "rn-rl tune chose" in note]
    assert note.endswith("rn-rl tune chose hyperparameters on seed 0; no run is of these.")
    found = summary.tasks[0].arms["ln"].runs[0].spec
    assert found.searched == [0, 0]
    summary.tasks[0].arms["ln"].runs[0].spec = replace(found, seed=0)
    assert "; 1 of 4 runs are of these, whose" in notes_on(summary.tasks[0], "none")[-1]
    # what --set gives is of all arms
    assert main([*words.split(), "--seed", "1", "--seeds", "2", "--set", "gamma=0.5"]) == 0
    assert len(summarize(*read_records(find_runs(out))).tasks) == 2


OTHER_SPACE = SPACE.replace("[4, 8]", "[4, 9]")


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        (["--seed", "5"], "seeds 0 to 0, and now 5 to 5"),
        (["--seeds", "2"], "seeds 0 to 0, and now 0 to 1"),
        (["--set", "gamma=0.5"], "gamma none, and now 0.5"),
        (["--eval-episodes", "2"], "eval_episodes 1, and now 2"),
        (["--n-envs", "2"], "n_envs 1, and now 2"),
        ([OTHER_SPACE], "space n_steps range [4, 8], and now range [4, 9]"),
        (
            [f"{OTHER_SPACE}  gamma: {{range: [0.5, 0.9]}}\n"],
            ", and now range [4, 9]; space gamma none,",
        ),
    ],
)
def test_another_search_does_not_continue_a_study(config, capsys, changed, said):
    """A study with a trial, which is made here without training."""
    config.out.mkdir()
    study = open_study(config, "ln")
    study.add_trial(load_optuna().trial.create_trial(value=3.0))
    if "\n" in changed[0]:
        config.space.write_text(changed[0])
        changed = []
    assert main([*options(config), *changed]) == 2
    told = capsys.readouterr().err
    assert f"--out {config.out}: its search for ln was made with " in told and said in told
    assert told.count("\n") == 1 and "give another --out" in told
    assert not list(config.out.glob("*.yml"))  # also for none, which has no study yet


def test_a_larger_number_of_trials_and_another_sampler_continue(config):
    config.out.mkdir()
    open_study(config, "ln").ask()
    other = replace(config, trials=7, sampler="random", pruner="halving", jobs=2, engine="process")
    assert len(trials(other, "ln")) == 1


def test_a_conf_file_keeps_other_environments_and_their_seeds(config):
    config.out.mkdir()
    path = config.out / "a2c-ln.yml"
    write_found(replace(config, seed=4, seeds=2), path, {"gamma": 0.5})
    assert searched_seeds(path, "CartPole-v1") == range(4, 6)
    write_found(config, path, {"gamma": 0.6})  # of the same environment, which is replaced
    assert searched_seeds(path, "CartPole-v1") == range(1)
    write_found(replace(config, env="Acrobot-v1", seed=7), path, {"gamma": 0.7})
    assert searched_seeds(path, "CartPole-v1") == range(1)
    assert searched_seeds(path, "Acrobot-v1") == range(7, 8)
    assert not searched_seeds(path, "Pendulum-v1")
    assert yaml.safe_load(path.read_text()) == {
        "CartPole-v1": {"gamma": 0.6},
        "Acrobot-v1": {"gamma": 0.7},
    }


def test_the_command_to_compare_can_be_typed(config, capsys, monkeypatch):
    monkeypatch.setattr(
        "rn_rl.commands.tune.search", lambda config, norm, console: done(config, norm)
    )
    spaced = replace(config, norms="none,rn(half_life=100)", out=config.out / "a folder")
    assert main(options(spaced)) == 0
    said = " ".join(capsys.readouterr().out.split("\n"))
    words = shlex.split(said.partition("such as ")[2])
    parsed = cli.parse(cli.subcommands(cli.COMMANDS), words[1:], "rn-rl", None)
    assert (parsed.norms, parsed.conf_file) == (spaced.norms, spaced.out) and parsed.seed == 1
    typed = said.partition("such as ")[2].replace("rn-rl", "printf '%s|'", 1)
    shown = subprocess.run(["bash", "-c", typed], capture_output=True, text=True, check=True)
    assert shown.stdout.split("|")[:-1] == words[1:]


def done(config, norm):
    """Return a study with one trial, which was not trained."""
    study, optuna = open_study(config, norm), load_optuna()
    drawn = {"n_steps": optuna.distributions.IntDistribution(4, 8)}
    study.add_trial(
        optuna.trial.create_trial(params={"n_steps": 5}, distributions=drawn, value=1.0)
    )
    return study


def fake_study(*trials):
    """Return what a display reads of a study: states, values and the steps that were reported."""
    made = [
        SimpleNamespace(
            state=SimpleNamespace(name=state),
            value=value if state == "COMPLETE" else None,
            intermediate_values=dict.fromkeys([value] if state == "RUNNING" else [], 0.0),
        )
        for state, value in trials
    ]
    return SimpleNamespace(get_trials=lambda deepcopy: list(made)), made


def test_progress_has_trials_the_best_value_and_an_estimate(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("rn_rl.experiment.tuning.progress.time.monotonic", lambda: now[0])
    study, made = fake_study()
    progress = SearchProgress(study, "ln", 20, seeds=3, timesteps=1000)
    assert str(progress) == "ln: 0 of 20 trials, no value yet"
    for state, value in (("COMPLETE", 5.0), ("COMPLETE", 9.25), ("PRUNED", 0), ("FAIL", 0)):
        made += fake_study((state, value))[1]
    now[0] = 30.0  # seconds in which three trials ended
    assert re.fullmatch(r"ln: 3 of 20 trials, best 9\.25, about 2:50 left", str(progress))
    made += fake_study(("RUNNING", 750))[1]  # and three quarters of one
    assert re.fullmatch(
        r"ln: 3 of 20 trials, 1 running, best 9\.25, about 2:10 left", str(progress)
    )
    made[-1:] = fake_study(("RUNNING", 1))[1]  # one of three seeds
    assert str(progress).endswith("about 2:30 left")
    continued = SearchProgress(study, "ln", 20, seeds=3, timesteps=10)
    assert str(continued) == "ln: 3 of 20 trials, 1 running, best 9.25"


@pytest.mark.parametrize("terminal", [False, True])
def test_a_search_is_not_silent(terminal, monkeypatch):
    monkeypatch.setattr("rn_rl.experiment.runs.console.LINE_INTERVAL", 0.2)
    monkeypatch.setattr("rn_rl.experiment.tuning.progress.REFRESH_SECONDS", 0.1)
    study, made = fake_study(("RUNNING", 1))
    progress = SearchProgress(study, "ln", 4, seeds=2, timesteps=100)
    written = io.StringIO()
    console = Console(file=written, force_terminal=terminal, width=80)
    with displayed(progress, console):
        end = time.monotonic() + 20
        made += fake_study(("COMPLETE", 7.5))[1]
        while "1 of 4 trials, 1 running, best 7.50" not in written.getvalue():
            assert time.monotonic() < end
            time.sleep(0.05)
    lines = [
        line for line in re.split(r"[\r\n]", re.sub(r"\x1b\[[^m]*[a-zA-Z]", "", written.getvalue()))
    ]
    assert max(map(len, lines)) <= 80 and "passed" in written.getvalue()
    quiet = io.StringIO()
    with displayed(progress, Console(file=quiet, force_terminal=terminal, quiet=True)):
        time.sleep(0.3)
    assert quiet.getvalue() == ""


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
