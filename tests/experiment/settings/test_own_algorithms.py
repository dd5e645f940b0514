"""``--algo module:Class``: a subclass of an algorithm, from a file of the current folder."""

import json
import sys

import pytest
import yaml
from rich.console import Console
from stable_baselines3 import DQN

from rn_rl import cli
from rn_rl.cli import main
from rn_rl.errors import UserError
from rn_rl.experiment.grid.file import with_file
from rn_rl.experiment.grid.grid import new_grid
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.settings.algorithms import algorithm
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.resolve import resolve
from rn_rl.experiment.tuning.space import space_of

MODULE = """
from stable_baselines3 import DQN
from rn_rl.agents import RNDQN


class Patient(DQN):
    def __init__(self, *args, patience=1, **kwargs):
        super().__init__(*args, **kwargs)
        self.patience = patience

    def _excluded_save_params(self):
        return [*super()._excluded_save_params(), "patience"]

    def train(self, gradient_steps, batch_size=100):
        super().train(gradient_steps * self.patience, batch_size)


class Own(RNDQN):
    pass


Odd = dict
"""

TRAIN = "--env CartPole-v1 --timesteps 64 --eval-freq 0 --quiet --out runs"
SETTINGS = "--set learning_starts=16 train_freq=8 batch_size=8 buffer_size=200 gradient_steps=1"


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    (tmp_path / "own_algos.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)  # as the command does
    yield
    sys.modules.pop("own_algos", None)


def test_it_trains_continues_and_is_evaluated(tmp_path, capsys):
    words = f"train --algo own_algos:Patient --norm ln {TRAIN} {SETTINGS} patience=3"
    assert main(words.split()) == 0
    [spec] = tmp_path.glob("runs/*/*/*/run.yaml")
    assert spec.parent.parent.name == "own_algos-Patient"
    model, env = Run(spec.parent).load_agent()
    env.close()
    assert type(model).__name__ == "Patient" and isinstance(model, DQN) and model.patience == 3
    assert main(f"train --resume {spec.parent} --timesteps 128 --quiet".split()) == 0
    capsys.readouterr()
    assert main(f"evaluate {spec.parent} --episodes 2 --json".split()) == 0
    assert json.loads(capsys.readouterr().out)["algo"] == "own_algos:Patient"


def test_what_it_does_not_say_is_that_of_its_base():
    row = algorithm("own_algos:Patient")
    assert row.kind == "dqn" and row.replay and row.zoo_file == "dqn"
    assert algorithm("own_algos:Own").kind == "rndqn" and algorithm("dqn").kind == "dqn"


def test_a_grid_compares_it_with_its_base(tmp_path):
    words = f"compare --algo own_algos:Own,rndqn --norms rn --seeds 1 --jobs 1 {TRAIN} {SETTINGS}"
    words = words.replace("--eval-freq 0", "--eval-freq 32 --eval-episodes 1 --final-episodes 1")
    assert main(words.split()) == 0
    found = [yaml.safe_load(p.read_text())["algo"] for p in tmp_path.glob("runs/*/*/*/run.yaml")]
    assert sorted(found) == ["own_algos:Own", "rndqn"]
    assert "own_algos:Own" in (tmp_path / "runs/report.html").read_text()


def cells(*words):
    typed = with_file(["compare", "--env", "CartPole-v1", "--norms", "none", *words])
    config = cli.parse(cli.subcommands(cli.COMMANDS), typed, "rn-rl", None)
    grid = new_grid(config, Console(quiet=True))
    return {cell.specs[0].algo: cell.specs[0].hyperparameters for cell in grid.cells}


def test_settings_of_it_alone_are_typed_or_from_a_grid_file(tmp_path):
    own = "own_algos:Patient"
    both = ("--algo", f"{own},dqn", "--set")
    found = cells(*both, f"{own}:gamma=0.9", "dqn:gamma=0.8", f"{own}:patience=2", "tau=0.5")
    assert {algo: given["gamma"] for algo, given in found.items()} == {own: 0.9, "dqn": 0.8}
    assert found[own]["patience"] == 2 and "patience" not in found["dqn"]
    assert found[own]["tau"] == found["dqn"]["tau"] == 0.5
    (tmp_path / "study.yml").write_text(
        f"algo: [{own}, dqn]\nset: {{{own}: {{gamma: 0.7, policy_kwargs: {{net_arch: [8]}}}}, tau: 0.5}}"
    )
    found = cells("--grid", "study.yml")
    assert found[own]["gamma"] == 0.7 and found["dqn"]["gamma"] != 0.7
    assert found[own]["policy_kwargs"]["net_arch"] == [8]
    assert found[own]["tau"] == found["dqn"]["tau"] == 0.5


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("own_algos:Own:gamma=0.9", "own_algos:Own is not trained here, but own_algos:Patient"),
        ("own_algos:Nothing:gamma=0.9", "expected a class in 'own_algos' that is a subclass"),
        ("no_such:Thing:gamma=0.9", "cannot import 'no_such'"),
    ],
)
def test_a_wrong_prefix_is_one_line(given, said, capsys):
    assert main(["train", "--algo", "own_algos:Patient", *TRAIN.split(), "--set", given]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_a_conf_file_has_a_part_for_it_or_for_its_base(tmp_path):
    own, path = "own_algos:Patient", tmp_path / "own.yml"
    config = TrainConfig(algo=own, env="CartPole-v1", conf_file=path)
    path.write_text("dqn: {default: {gamma: 0.6}}\nppo: {default: {gamma: 0.5}}\n")
    assert resolve(config).hyperparameters["gamma"] == 0.6
    path.write_text(f"{own}: {{default: {{gamma: 0.7}}}}\ndqn: {{default: {{gamma: 0.6}}}}\n")
    assert resolve(config).hyperparameters["gamma"] == 0.7


def test_ranges_and_the_paper_s_settings_are_those_of_its_base():
    assert space_of(algorithm("own_algos:Patient"), None) == space_of(algorithm("dqn"), None)
    own = TrainConfig(algo="own_algos:Own", env="CartPole-v1", config="paper")
    base = TrainConfig(algo="rndqn", env="CartPole-v1", config="paper")
    assert resolve(own).hyperparameters == resolve(base).hyperparameters
    other = TrainConfig(algo="dqn", env="CartPole-v1", config="paper")
    assert resolve(other).hyperparameters != resolve(base).hyperparameters


@pytest.mark.parametrize(
    ("algo", "said"),
    [
        ("no_such:Thing", "cannot import 'no_such' (ModuleNotFoundError"),
        ("own_algos:Nothing", "expected a class in 'own_algos' that is a subclass"),
        ("own_algos:Odd", "expected a class in 'own_algos' that is a subclass"),
        (":", "algorithm ':'"),
    ],
)
def test_a_mistake_is_one_line(algo, said, capsys):
    assert main(["train", "--algo", algo, *TRAIN.split()]) == 2
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


def test_priors_of_transitions_need_a_subclass_of_ours():
    own = algorithm("own_algos:Own")
    assert own.computing_priors("sn(prior=td)") is own
    with pytest.raises(
        UserError, match=r"sn\(prior=td\) with own_algos:Patient: .* subclass of the"
    ):
        algorithm("own_algos:Patient").computing_priors("sn(prior=td)")
    assert algorithm("ppo").computing_priors("sn(prior=td)").path == "rn_rl.agents.RNPPO"
