"""Run folders: their files, exact resume, and loading without pickle."""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import yaml
from gymnasium.envs.classic_control import CartPoleEnv
from rich.console import Console
from safetensors.torch import load_file
from stable_baselines3 import DQN, PPO

from rn_rl.commands.probe import run_probe
from rn_rl.errors import TrainingStopped, UserError
from rn_rl.experiment.evaluation.config import EvaluateConfig, ProbeConfig
from rn_rl.experiment.evaluation.evaluate import evaluate
from rn_rl.experiment.runs.console import StatusLines
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.progress import TrainingProgress
from rn_rl.experiment.training.single import train
from rn_rl.statistics import bootstrap_interval

QUIET = Console(quiet=True)


def quick(out: Path, **options) -> Run:
    settings = {
        "algo": "dqn",
        "env": "CartPole-v1",
        "norm": "rn",
        "timesteps": 700,
        "out": out,
        "set": ("learning_starts=100", "train_freq=8", "gradient_steps=2", "batch_size=16"),
        "eval_freq": 250,
        "eval_episodes": 2,
        "quiet": True,
    }
    return train(TrainConfig(**{**settings, **options}), QUIET)


PPO_SETTINGS = ("n_steps=32", "batch_size=64", "n_epochs=2", "normalize=true")


@pytest.fixture(scope="module")
def dqn_run(tmp_path_factory) -> Run:
    return quick(tmp_path_factory.mktemp("a folder with spaces"))


def test_a_run_folder_has_the_zoo_layout_and_ours(dqn_run):
    assert dqn_run.folder.parts[-3:] == ("rn", "dqn", "CartPole-v1_1")
    found = {str(p.relative_to(dqn_run.folder)) for p in dqn_run.folder.rglob("*") if p.is_file()}
    events = {name for name in found if name.startswith("events.out.tfevents")}
    assert len(events) == 1
    assert found - events == {
        "0.monitor.csv",
        "CartPole-v1.zip",
        "CartPole-v1/args.yml",
        "CartPole-v1/config.yml",
        "best_model.zip",
        "checkpoint/state.npz",
        "code_length.npz",
        "evaluations.npz",
        "policy.safetensors",
        "run.yaml",
    }


def test_run_yaml_is_plain_and_complete(dqn_run):
    stored = yaml.safe_load(dqn_run.spec_file.read_text())
    assert stored["seed"] == 0 and stored["timesteps"] == 700
    assert stored["hyperparameters"]["batch_size"] == 16
    assert {"torch", "stable_baselines3", "gymnasium", "rn_rl"} <= set(stored["versions"])


def test_code_length_has_a_row_for_each_phase(dqn_run):
    stored = np.load(dqn_run.code_length_file)
    assert stored["gains"].shape == (len(stored["timesteps"]), 2)
    assert stored["gains"][-1].min() > 1.5


def test_the_next_run_gets_the_next_number(dqn_run):
    second = quick(dqn_run.folder.parents[2], timesteps=20, eval_freq=0)
    assert second.folder.name == "CartPole-v1_2"


def test_same_seed_same_run_bit_for_bit(dqn_run, tmp_path):
    again = quick(tmp_path)
    assert same_tensors(again, dqn_run)


def test_stock_sb3_loads_the_zip_and_acts_the_same(dqn_run):
    stock = DQN.load(dqn_run.zip_file("CartPole-v1"))
    ours, env = dqn_run.load_agent()
    observations = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    assert (
        stock.predict(observations, deterministic=True)[0]
        == ours.predict(observations, deterministic=True)[0]
    ).all()
    env.close()


def test_loading_a_run_never_unpickles(dqn_run, tmp_path):
    moved = tmp_path / "elsewhere"
    shutil.copytree(dqn_run.folder, moved)
    (moved / "CartPole-v1.zip").unlink()
    result = evaluate(EvaluateConfig(moved, episodes=3))
    assert len(result.returns) == 3

    class Bomb:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "exploded"),))

    with zipfile.ZipFile(moved / "best_model.zip", "w") as archive:
        archive.writestr("policy.pth", pickle.dumps(Bomb()))
        archive.writestr("data", pickle.dumps(Bomb()))
    with pytest.raises(UserError, match="is damaged or not an agent"):
        evaluate(EvaluateConfig(moved / "best_model.zip", episodes=1))
    assert not (tmp_path / "exploded").exists()


def test_evaluation_is_seeded_and_its_interval_holds_the_mean(dqn_run):
    first = evaluate(EvaluateConfig(dqn_run.folder, episodes=10))
    again = evaluate(EvaluateConfig(dqn_run.folder, episodes=10))
    assert first == again
    assert first.ci_low <= first.mean_return <= first.ci_high
    assert first.mean_length == pytest.approx(np.mean(first.lengths))
    assert first.success_rate is None
    assert evaluate(EvaluateConfig(dqn_run.folder, episodes=10, seed=7)).returns != first.returns


def test_evaluation_changes_no_file_of_the_run(dqn_run):
    before = {p: p.read_bytes() for p in dqn_run.folder.rglob("*") if p.is_file()}
    evaluate(EvaluateConfig(dqn_run.folder, episodes=2, stochastic=True))
    assert before == {p: p.read_bytes() for p in dqn_run.folder.rglob("*") if p.is_file()}


def test_bootstrap_interval_of_equal_returns_is_the_value():
    assert bootstrap_interval(np.full(5, 500.0)) == (500.0, 500.0)
    assert np.isnan(bootstrap_interval(np.array([3.0]))).all()


def test_bootstrap_interval_covers_the_mean_at_its_level():
    rng = np.random.default_rng(0)
    samples = rng.normal(size=(200, 30))
    intervals = [bootstrap_interval(sample) for sample in samples]
    covered = np.mean([low <= 0 <= high for low, high in intervals])
    assert 0.88 <= covered <= 0.99


def test_minigrid_evaluation_has_a_success_rate_and_frozen_statistics(tmp_path):
    run = quick(
        tmp_path,
        algo="ppo",
        env="MiniGrid-RedBlueDoors-6x6-v0",
        norm="ln+rn",
        timesteps=128,
        n_envs=2,
        set=("n_steps=32", "env_kwargs.max_steps=20"),
        eval_freq=0,
    )
    stored = json.loads(run.vecnormalize_file.read_text())
    assert stored["obs"]["count"] > 100
    result = evaluate(EvaluateConfig(run.folder, episodes=4, stochastic=True))
    assert result.success_rate is not None and 0 <= result.success_rate <= 1
    assert json.loads(run.vecnormalize_file.read_text()) == stored
    model, env = run.load_agent()
    normalizer = model.get_vec_normalize_env()
    assert not normalizer.training and not normalizer.norm_reward
    assert normalizer.obs_rms.count == stored["obs"]["count"]
    assert PPO.load(run.zip_file("MiniGrid-RedBlueDoors-6x6-v0")).policy.norm == "ln+rn"
    env.close()


@pytest.mark.parametrize(
    ("algo", "settings"),
    [
        ("dqn", ("learning_starts=100", "train_freq=8", "gradient_steps=2", "batch_size=16")),
        ("rndqn", ("learning_starts=100", "train_freq=8", "gradient_steps=2", "batch_size=16")),
        ("ppo", PPO_SETTINGS),
    ],
)
def test_ctrl_c_then_resume_is_the_uninterrupted_run_bit_for_bit(
    interrupting, tmp_path, algo, settings
):
    options = {"algo": algo, "env": "InterruptingCartPole-v1", "set": settings, "n_envs": 2}
    interrupting.at = -1
    whole = quick(tmp_path / "whole", **options)
    interrupting.steps, interrupting.at = 0, 700
    with pytest.raises(TrainingStopped, match="--resume"):
        quick(tmp_path / "parts", **options)
    parts = Run(next((tmp_path / "parts").glob("*/*/*")))
    stopped_at = len(parts.folder.joinpath("0.monitor.csv").read_text().splitlines())
    evaluate(EvaluateConfig(parts.folder, episodes=1))  # the stopped run can be evaluated
    train(TrainConfig(resume=parts.folder, quiet=True), QUIET)

    assert same_tensors(whole, parts)
    for file in ("evaluations.npz", "code_length.npz"):
        a, b = np.load(whole.folder / file), np.load(parts.folder / file)
        assert all((a[key] == b[key]).all() for key in a.files), file
    for i in range(2):
        assert episodes(whole, i) == episodes(parts, i)
    assert len(episodes(parts, 0)) > stopped_at - 2
    if whole.vecnormalize_file.exists():
        assert whole.vecnormalize_file.read_text() == parts.vecnormalize_file.read_text()


def episodes(run: Run, index: int) -> list[str]:
    """Returns and lengths in a monitor file, without the wall clock."""
    lines = (run.folder / f"{index}.monitor.csv").read_text().splitlines()[2:]
    return [",".join(line.split(",")[:2]) for line in lines]


def same_tensors(a: Run, b: Run) -> bool:
    first, second = load_file(a.policy_file), load_file(b.policy_file)
    return first.keys() == second.keys() and all((first[k] == second[k]).all() for k in first)


def test_progress_of_a_resumed_run_is_printed_at_tenths_of_the_whole(tmp_path):
    with (tmp_path / "out").open("w") as file:
        progress = TrainingProgress(1000, "run", StatusLines(Console(file=file), ""))
        progress.start(130)
        for timesteps in range(140, 1001, 10):
            progress.update(timesteps, lambda: "")
    _, *lines = (tmp_path / "out").read_text().splitlines()
    assert [line.split()[0] for line in lines] == [f"{share}%" for share in range(20, 101, 10)]


def test_a_finished_run_goes_on_with_more_timesteps(dqn_run, tmp_path):
    folder = tmp_path / "CartPole-v1_1"
    shutil.copytree(dqn_run.folder, folder)
    with pytest.raises(UserError, match="has 704 of 700 timesteps"):
        train(TrainConfig(resume=folder, quiet=True), QUIET)
    train(TrainConfig(resume=folder, timesteps=900, quiet=True), QUIET)
    assert np.load(folder / "evaluations.npz")["timesteps"].tolist() == [250, 500, 750]
    assert Run(folder).read_spec().timesteps == 900


def test_from_starts_with_the_other_agents_weights_and_state(dqn_run, tmp_path):
    for source in (dqn_run.folder, dqn_run.zip_file("CartPole-v1")):
        run = quick(tmp_path, timesteps=10, from_agent=source, eval_freq=0)
        states = []
        for either in (dqn_run, run):
            model, env = either.load_agent()
            model.policy.set_training_mode(False)  # commits pending observations of the source
            states.append(model.q_net.state_dict())
            env.close()
        assert states[0].keys() == states[1].keys()
        assert all((states[0][key] == states[1][key]).all() for key in states[0])


def test_from_another_architecture_is_one_line(dqn_run, tmp_path):
    with pytest.raises(UserError, match="does not fit"):
        quick(tmp_path, norm="ln", from_agent=dqn_run.folder)
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("trust", [False, True])
def test_from_takes_a_foreign_zip_of_the_same_network(tmp_path, trust):
    stock = DQN("MlpPolicy", "CartPole-v1", policy_kwargs={"net_arch": [256, 256]}, seed=3)
    stock.save(tmp_path / "stock.zip")
    options = {"norm": "none", "timesteps": 10, "eval_freq": 0, "trust": trust}
    run = quick(tmp_path / "runs", from_agent=tmp_path / "stock.zip", **options)
    theirs, ours = stock.policy.state_dict(), load_file(run.policy_file)
    assert theirs.keys() == ours.keys()
    assert all((theirs[key] == ours[key]).all() for key in theirs)


class NaNCartPole(CartPoleEnv):
    """Return a NaN observation at the 300th step."""

    steps = 0

    def step(self, action):
        NaNCartPole.steps += 1
        observation, *rest = super().step(action)
        if NaNCartPole.steps == 300:
            observation[2] = np.nan
        return observation, *rest


gym.register("NaNCartPole-v1", entry_point=NaNCartPole, max_episode_steps=500)


def test_a_nan_observation_stops_with_its_timestep_and_the_agent_is_saved(tmp_path):
    NaNCartPole.steps = 0
    with pytest.raises(UserError, match=r"observation nan at timestep 300 \(environment 0, comp"):
        quick(tmp_path, env="NaNCartPole-v1", eval_freq=0)
    run = Run(next(tmp_path.glob("*/*/*")))
    assert all(np.isfinite(t.numpy()).all() for t in load_file(run.policy_file).values())
    assert len(evaluate(EvaluateConfig(run.folder, episodes=1)).returns) == 1


def test_probe_shows_the_gains_that_were_recorded(dqn_run, capsys):
    run_probe(ProbeConfig((dqn_run.folder,), json=True))
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    stored = np.load(dqn_run.code_length_file)
    assert [row["layer"] for row in rows] == stored["layers"].tolist()
    for row, gains in zip(rows, stored["gains"].T, strict=True):
        assert row["gain"][0] == gains[0] == 1
        assert row["gain"][-1] == gains[-1] > 1.5
        assert row["timesteps"][-1] == stored["timesteps"][-1]
    run_probe(ProbeConfig((dqn_run.folder,)))
    shown = capsys.readouterr().out
    assert "rn dqn CartPole-v1, seed 0" in shown
    assert all(f"{gain:.2f}" in shown for gain in stored["gains"][-1])
    assert "▁" in shown and "█" in shown


def test_probe_of_a_run_without_gains_is_one_line(tmp_path):
    plain = quick(tmp_path, norm="ln", timesteps=150, eval_freq=0)
    with pytest.raises(
        UserError, match=r"neither gains of its normalizer 'ln' .* nor a probe.npz: record one"
    ):
        run_probe(ProbeConfig((plain.folder,)))
    plain.code_length_file.write_bytes(b"nothing")
    with pytest.raises(UserError, match=r"code_length\.npz is damaged"):
        run_probe(ProbeConfig((plain.folder,)))
