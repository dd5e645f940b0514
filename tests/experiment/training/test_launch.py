"""Many seeds from the command line: ordinary run folders, exact resume, errors in one line."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file
from sb3_contrib import RecurrentPPO
from stable_baselines3 import DQN, PPO
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rn_rl.agents import RNPPO
from rn_rl.cli import main
from rn_rl.errors import TrainingStopped, UserError
from rn_rl.experiment.evaluation.config import EvaluateConfig
from rn_rl.experiment.evaluation.evaluate import evaluate
from rn_rl.experiment.runs import checkpoint
from rn_rl.experiment.runs.console import Watch
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.envpool import no_envpool
from rn_rl.experiment.training.launch import train_seeds, train_together
from rn_rl.experiment.training.memory import bytes_of_seed
from rn_rl.experiment.training.resolve import resolve
from tests.factories import slow_unless

DQN_SETTINGS = ("learning_starts=100", "train_freq=8", "gradient_steps=2", "batch_size=16")
PPO_SETTINGS = ("n_steps=32", "batch_size=64", "n_epochs=2")


LSTM_SETTINGS = (*PPO_SETTINGS, "normalize=false", "policy_kwargs.lstm_hidden_size=8")


def of_three(out: Path, **options: Any) -> TrainConfig:
    settings: dict[str, Any] = {
        "algo": "dqn",
        "env": "CartPole-v1",
        "norm": "ln+rn",
        "seeds": 3,
        "seed": 4,
        "timesteps": 700,
        "out": out,
        "set": DQN_SETTINGS,
        "eval_freq": 250,
        "eval_episodes": 2,
        "engine": "batch",
    }
    return TrainConfig(**{**settings, **options})


def several(out: Path, console: Console | None = None, **options: Any) -> list[Run]:
    return train_seeds(of_three(out, **options), console or Console(quiet=True))


def episodes(run: Run) -> np.ndarray:
    """Returns and lengths in the monitor files of a run."""
    files = sorted(run.folder.glob("*.monitor.csv"))
    return np.concatenate(
        [np.loadtxt(file, delimiter=",", skiprows=2, usecols=(0, 1), ndmin=2) for file in files]
    )


KINDS: dict[Any, dict[str, Any]] = {
    DQN: {},
    PPO: {"algo": "ppo", "set": PPO_SETTINGS, "n_envs": 2, "timesteps": 640},
    RNPPO: {"algo": "rnppo", "set": PPO_SETTINGS, "n_envs": 2, "timesteps": 640},
    RecurrentPPO: {"algo": "ppo_lstm", "set": LSTM_SETTINGS, "n_envs": 2, "timesteps": 640},
}


def is_quick(vector_env: str, cls: Any) -> bool:
    return cls is DQN or (vector_env == "envpool" and cls is PPO)


@pytest.mark.parametrize(
    ("vector_env", "cls"),
    slow_unless(is_quick, itertools.product(("envpool", "gymnasium"), KINDS)),
)
def test_a_batch_leaves_ordinary_runs(tmp_path, vector_env, cls):
    options = KINDS[cls]
    runs = several(tmp_path, vector_env=vector_env, **options)
    assert [run.read_spec().seed for run in runs] == [4, 5, 6]
    steps = 640 if options else 704  # SB3 too ends with a whole rollout
    weights = []
    for run in runs:
        assert {p.name for p in run.folder.iterdir()} >= {
            "CartPole-v1.zip",
            "best_model.zip",
            "checkpoint",
            "evaluations.npz",
            "code_length.npz",
            "policy.safetensors",
            "run.yaml",
        }
        model = cls.load(run.zip_file("CartPole-v1"))
        assert model.num_timesteps == steps and model.policy.norm == "ln+rn"
        agent, env = run.load_agent()
        observations = np.random.default_rng(0).normal(size=(20, 4)).astype(np.float32)
        mine, theirs = (m.predict(observations, deterministic=True)[0] for m in (agent, model))
        assert (mine == theirs).all()
        env.close()
        weights.append(load_file(run.policy_file))
        evaluations = np.load(run.evaluations_file)
        assert evaluations["results"].shape == (2, 2) == evaluations["ep_lengths"].shape
        assert (evaluations["results"] == evaluations["ep_lengths"]).all()  # CartPole's reward is 1
        rows = episodes(run)
        assert (rows[:, 0] == rows[:, 1]).all() and steps - 600 < rows[:, 1].sum() <= steps
        gains = np.load(run.code_length_file)
        assert gains["gains"].shape == (len(gains["timesteps"]), len(gains["layers"]))
        assert gains["gains"][-1].min() > 1.5
        events = EventAccumulator(str(run.folder)).Reload()
        assert [e.step for e in events.Scalars("eval/mean_reward")] == evaluations[
            "timesteps"
        ].tolist()
        logged = events.Tags()["scalars"]
        assert any(name.startswith("train/") and name.endswith("loss") for name in logged)
        assert evaluate(EvaluateConfig(run.folder, episodes=2)).episodes == 2
    names = [name for name in weights[0] if name.endswith("weight")]
    assert any((weights[0][name] != weights[1][name]).any() for name in names)


def test_a_single_run_is_evaluated_at_the_timesteps_of_a_batch(tmp_path):
    """Also where ``n_envs`` does not divide ``eval_freq``."""
    settings = ("n_steps=32", "batch_size=96", "n_epochs=1")
    options = {"algo": "ppo", "set": settings, "n_envs": 3, "timesteps": 576}
    together = several(tmp_path / "together", seeds=1, **options)
    alone = several(tmp_path / "alone", seeds=1, engine="process", **options)
    for run in (*together, *alone):
        assert np.load(run.evaluations_file)["timesteps"].tolist() == [252, 501]


def test_stock_sb3_continues_from_the_zip_of_one_seed(tmp_path):
    """The zip has the state of the optimizer, so the first updates are not those of a new one."""
    run = several(tmp_path)[0]
    model = DQN.load(run.zip_file("CartPole-v1"), env=gym.make("CartPole-v1"))
    state = model.policy.optimizer.state_dict()["state"]
    updates = model._n_updates
    assert updates > 100 and len(state) == len(list(model.q_net.parameters()))
    assert all(
        int(entry["step"]) == updates and entry["exp_avg_sq"].any() for entry in state.values()
    )
    model.learn(50, reset_num_timesteps=False)
    assert model.num_timesteps >= 754


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow),
        {"set": (*DQN_SETTINGS, "normalize=true")},
        {"algo": "ppo", "n_envs": 2, "set": (*PPO_SETTINGS, "normalize=true"), "timesteps": 640},
        pytest.param(
            {"algo": "ppo_lstm", "n_envs": 2, "set": LSTM_SETTINGS, "timesteps": 640},
            marks=pytest.mark.slow,
        ),
    ],
)
def test_ctrl_c_then_resume_is_the_uninterrupted_batch_bit_for_bit(interrupting, tmp_path, options):
    options = {"env": "InterruptingCartPole-v1", **options}
    interrupting.at = -1
    whole = several(tmp_path / "whole", **options)
    interrupting.steps, interrupting.at = 0, 1500
    with pytest.raises(TrainingStopped, match=r"3 seeds stopped.*--resume"):
        several(tmp_path / "parts", **options)
    folders = sorted((tmp_path / "parts").glob("*/*/*"))
    for folder in folders:
        evaluate(EvaluateConfig(folder, episodes=1))  # what was stopped can be used
    parts = train_seeds(TrainConfig(resume=folders[1], quiet=True), Console(quiet=True))
    for a, b in zip(whole, parts, strict=True):
        first, second = load_file(a.policy_file), load_file(b.policy_file)
        assert all(torch.equal(first[name], second[name]) for name in first)
        for file in ("evaluations.npz", "code_length.npz"):
            one, other = np.load(a.folder / file), np.load(b.folder / file)
            assert all(np.array_equal(one[key], other[key]) for key in one.files), file
        assert np.array_equal(episodes(a), episodes(b))


def test_a_batch_that_is_stopped_at_its_first_step_goes_on(tmp_path):
    """With VecNormalize, whose original observations a replay memory stores."""
    options = {"set": (*DQN_SETTINGS, "normalize=true"), "timesteps": 200, "eval_freq": 0}
    whole = several(tmp_path / "whole", **options)
    config = of_three(tmp_path / "parts", **options)
    spec = resolve(config)
    watch = Watch()
    watch.stop = True
    specs = [replace(spec, seed=run.read_spec().seed) for run in whole]
    with pytest.raises(TrainingStopped, match="stopped at timestep 0"):
        train_together(config, specs, spec.make_env(), Console(quiet=True), watch=watch)
    folder = next((tmp_path / "parts").glob("*/*/*"))
    parts = train_seeds(TrainConfig(resume=folder, quiet=True), Console(quiet=True))
    for a, b in zip(whole, parts, strict=True):
        first, second = load_file(a.policy_file), load_file(b.policy_file)
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["ppo", "ppo_lstm"])
def test_a_complete_batch_continues_with_more_timesteps(algo, tmp_path):
    """The first commit after the checkpoint is not measured, since its state before is not saved."""
    settings = {"ppo": PPO_SETTINGS, "ppo_lstm": LSTM_SETTINGS}[algo]
    options = {"set": settings, "vector_env": "gymnasium", "timesteps": 256}
    runs = several(tmp_path, algo=algo, n_envs=2, **options)
    before = [len(np.load(run.code_length_file)["commit_kl"]) for run in runs]
    resumed = TrainConfig(resume=runs[0].folder, timesteps=512, quiet=True)
    for run, kls in zip(train_seeds(resumed, Console(quiet=True)), before, strict=True):
        records = np.load(run.code_length_file)
        assert records["timesteps"].max() == 448 and (np.diff(records["timesteps"]) > 0).all()
        assert len(records["commit_kl"]) > kls and (records["commit_kl"][kls:] > 0).all()


def test_with_envpool_a_stopped_batch_continues_with_new_episodes(tmp_path):
    runs = several(tmp_path, timesteps=400, vector_env="envpool")
    before = len(episodes(runs[0]))
    again = train_seeds(
        TrainConfig(resume=runs[2].folder, timesteps=800, quiet=True), Console(quiet=True)
    )
    assert [run.folder for run in again] == [run.folder for run in runs]
    assert DQN.load(runs[0].zip_file("CartPole-v1")).num_timesteps == 800
    assert len(episodes(runs[0])) > before
    with pytest.raises(UserError, match="has all of its 800 timesteps"):
        train_seeds(TrainConfig(resume=runs[0].folder), Console(quiet=True))


def test_seeds_that_cannot_be_trained_together_get_a_process_each_and_the_reason_is_printed(
    tmp_path, capsys
):
    console = Console()
    settings = ("n_delta=2", "n_top=1")
    options = {"algo": "ars", "set": settings, "timesteps": 100, "eval_freq": 0, "seeds": 2}
    runs = several(tmp_path, console, engine="auto", **options)
    assert [run.read_spec().seed for run in runs] == [4, 5]
    assert "ars is not one of dqn, rndqn, qrdqn, a2c, ppo" in " ".join(
        capsys.readouterr().out.split()
    )
    with pytest.raises(UserError, match="--engine batch: ars is not one of"):
        several(tmp_path, **options)


def test_seeds_that_do_not_fit_into_memory_are_trained_in_several_batches(tmp_path, capsys):
    spec = resolve(TrainConfig(algo="dqn", env="CartPole-v1", norm="ln+rn", set=DQN_SETTINGS))
    each = bytes_of_seed(spec, spec.make_env()) / 1e9
    runs = several(tmp_path, Console(), timesteps=150, memory=2.5 * each, eval_freq=0)
    assert len(runs) == 3 and "2 batches of up to 2" in " ".join(capsys.readouterr().out.split())
    assert [len(run.read_spec().together) for run in runs] == [2, 2, 1]
    with pytest.raises(UserError, match="one seed takes about"):
        several(tmp_path, memory=1e-6)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--seeds 0", "--seeds 0: expected at least 1"),
        ("--seeds 2 --engine fast", "--engine fast: expected one of auto, process, batch"),
        ("--seeds 2 --vector-env x", "--vector-env x: expected one of auto, envpool, gymnasium"),
        ("--seeds 2 --memory -1", "--memory -1.0: expected GB above 0"),
        ("--seeds 2 --engine batch --set n_steps=3", "n_steps is 3; use --engine process"),
        (
            "--seeds 2 --vector-env envpool --env-kwargs sutton_barto_reward=true",
            "are for gymnasium",
        ),
    ],
)
def test_bad_input_is_one_line(words, said, tmp_path, capsys):
    command = f"train --algo dqn --env CartPole-v1 --timesteps 100 --out {tmp_path} {words}"
    assert main(command.split()) == 2
    assert said in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_batch_of_seeds_from_the_command_line(tmp_path, capsys):
    words = f"train --algo dqn --env CartPole-v1 --seeds 2 --timesteps 200 --out {tmp_path}/a b"
    assert main([*words.split()[:-2], f"{tmp_path}/a b", "--norm", "rn"]) == 0
    printed = capsys.readouterr().out
    assert (
        "2 seeds in 1 batch" in printed
        and "steps/s in all" in printed
        and "2 runs, from" in printed
    )


@pytest.mark.parametrize(
    ("env", "algo", "config", "reason"),
    [
        ("CartPole-v1", "dqn", "zoo", None),
        ("LunarLander-v3", "dqn", "paper", None),
        ("MiniGrid-RedBlueDoors-6x6-v0", "ppo", "paper", None),
        ("MiniGrid-RedBlueDoors-6x6-v0", "ppo", "zoo", "FlatObsWrapper"),
        ("InterruptingCartPole-v1", "dqn", "zoo", "envpool has no"),
    ],
)
def test_envpool_is_used_where_it_has_the_same_environment(env, algo, config, reason):
    spec = resolve(TrainConfig(algo=algo, env=env, config=config))
    single = spec.make_env(n_envs=1)
    found = no_envpool(spec, single)
    single.close()
    assert found is None if reason is None else reason in str(found)


@pytest.mark.parametrize(
    ("env", "limit", "reason"),
    [
        ("LunarLander-v3", 100, None),
        ("CartPole-v1", -1, "max_episode_steps=-1 is for gymnasium: envpool's is a whole number"),
        ("CartPole-v1", None, "max_episode_steps=None is for gymnasium"),
        ("MiniGrid-Empty-5x5-v0", 50, "max_episode_steps=50 is for gymnasium: envpool's also"),
    ],
)
def test_envpool_is_not_used_where_a_limit_of_steps_means_something_else_to_it(env, limit, reason):
    """Without a limit (-1) it ends each episode at once; MiniGrid's rewards follow it there."""
    wrapper = "minigrid.wrappers.ImgObsWrapper" if env.startswith("MiniGrid") else None
    spec = resolve(TrainConfig(algo="dqn", env=env, set=(f"env_wrapper={wrapper or 'null'}",)))
    kwargs = {"env_wrapper": wrapper, "env_kwargs": {"max_episode_steps": limit}}
    spec = replace(spec, hyperparameters={**spec.hyperparameters, **kwargs})
    single = spec.make_env(n_envs=1)
    found = no_envpool(spec, single)
    single.close()
    assert found is None if reason is None else str(found).startswith(reason)


def test_a_batch_that_was_killed_while_it_renamed_its_last_checkpoints_is_complete(
    tmp_path, capsys
):
    runs = several(tmp_path, seeds=2, timesteps=300)
    state = checkpoint.state_file(runs[1].checkpoint)
    state.replace(checkpoint.pending_file(runs[1].checkpoint))
    assert main(["train", "--resume", str(runs[0].folder)]) == 0
    assert "complete but for names of files" in capsys.readouterr().out
    assert state.is_file()
    assert main(["train", "--resume", str(runs[0].folder)]) == 2
    assert "has all of its 300 timesteps" in capsys.readouterr().err
