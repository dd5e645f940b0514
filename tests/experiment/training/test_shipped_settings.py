"""Runs with the shipped settings, though a finished agent acts in one environment alone."""

from __future__ import annotations

import shutil
from typing import Any

import pytest
import yaml
from gymnasium import spaces

from rn_rl.agents import PQN
from rn_rl.cli import main
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.settings.algorithms import ALGORITHMS
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.resolve import resolve

ROLLOUT = 64 * 32
PQN_RUN = f"train --algo pqn --seed 1 --timesteps {ROLLOUT} --eval-freq 0 --quiet --out"


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_an_agent_with_the_shipped_settings_acts_in_one_environment(algo):
    discrete = spaces.Discrete in ALGORITHMS[algo].action_spaces
    env_id = "CartPole-v1" if discrete else "Pendulum-v1"
    spec = resolve(TrainConfig(algo=algo, env=env_id))
    env = spec.make_env(n_envs=1)
    model: Any = spec.make_model(env, training=False)
    assert model.n_envs == 1 and len(model.predict(env.reset())[0]) == 1
    env.close()


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A run of PQN of one rollout."""
    out = tmp_path_factory.mktemp("runs")
    assert main([*PQN_RUN.split(), str(out), "--env", "CartPole-v1"]) == 0
    return out / "ln" / "pqn" / "CartPole-v1_1"


def test_a_single_run_has_the_shipped_environments(trained):
    spec = Run(trained).read_spec()
    assert (spec.n_envs, spec.norm, spec.seed, spec.together) == (32, "ln", 1, [])
    assert len(list(trained.glob("*.monitor.csv"))) == 32


def test_a_finished_run_is_evaluated_filmed_and_continued(trained, tmp_path, capsys):
    folder = tmp_path / "CartPole-v1_1"
    shutil.copytree(trained, folder)
    assert main(["evaluate", str(folder), "--episodes", "2"]) == 0
    assert main(["video", str(folder)]) == 0
    assert (folder / "video.mp4").stat().st_size > 0
    assert main(["train", "--resume", str(folder), "--timesteps", str(2 * ROLLOUT), "--quiet"]) == 0
    assert PQN.load(Run(folder).zip_file("CartPole-v1")).num_timesteps == 2 * ROLLOUT
    begun = [*PQN_RUN.split(), str(tmp_path / "more"), "--env", "CartPole-v1"]
    assert main([*begun, "--from", str(folder), "--n-envs", "4"]) == 0
    [spec] = (tmp_path / "more").glob("ln/pqn/*/run.yaml")
    assert yaml.safe_load(spec.read_text())["n_envs"] == 4


@pytest.mark.parametrize(
    "options",
    [
        "--env LunarLander-v3",
        "--env CartPole-v1 --net simba --n-envs 4 --set policy_kwargs.net_arch=small",
    ],
)
def test_other_environments_and_networks_train(options, tmp_path):
    assert main([*PQN_RUN.split(), str(tmp_path), *options.split()]) == 0
    assert len(list(tmp_path.glob("ln/pqn/*/policy.safetensors"))) == 1


@pytest.mark.parametrize("engine", ["process", "batch"])
def test_compare_trains_it(engine, tmp_path):
    words = (
        f"compare --algo pqn --env CartPole-v1 --timesteps {ROLLOUT} --eval-freq {ROLLOUT} --quiet"
    )
    shape = "--eval-episodes 1 --final-episodes 1 --seeds 1 --norms none,ln --jobs 1 --engine"
    assert main([*words.split(), *shape.split(), engine, "--out", str(tmp_path)]) == 0
    assert len(list(tmp_path.glob("*/pqn/*/final.json"))) == 2


@pytest.mark.parametrize("seeds", ["1", "2"])
def test_a_rollout_that_is_too_short_leaves_no_run(seeds, tmp_path, capsys):
    words = [*PQN_RUN.split(), str(tmp_path), "--env", "CartPole-v1", "--n-envs", "1"]
    assert main([*words, "--seeds", seeds]) == 2
    error = capsys.readouterr().err
    assert "batch_size=128: expected 1 to 64, the rows of a rollout (64 steps of 1" in error
    assert error.count("\n") == 1 and not list(tmp_path.iterdir())


def test_ppo_of_one_step_is_evaluated_in_one_environment(tmp_path):
    words = "train --algo ppo --env CartPole-v1 --timesteps 16 --n-envs 8 --eval-freq 0 --quiet"
    settings = ["--set", "n_steps=1", "batch_size=8", "n_epochs=1"]
    assert main([*words.split(), *settings, "--out", str(tmp_path)]) == 0
    [folder] = tmp_path.glob("none/ppo/*")
    assert main(["evaluate", str(folder), "--episodes", "1"]) == 0
