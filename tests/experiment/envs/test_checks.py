"""Environments that fail: one line with the timestep, status 2, and the run is kept and can be loaded."""

import warnings
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from stable_baselines3.common.vec_env import DummyVecEnv

from rn_rl.cli import main
from rn_rl.errors import UserError
from rn_rl.experiment.envs import episodes
from rn_rl.experiment.envs.checks import CheckedVecEnv
from rn_rl.experiment.envs.make import make_env
from rn_rl.experiment.runs.folder import Run
from tests import odd_envs

DQN = "--timesteps 60 --set learning_starts=8 buffer_size=100"
PPO = "--timesteps 64 --n-envs 1 --set n_steps=16 batch_size=16 n_epochs=1"


def train(name: str, out: Path, algo: str = "dqn", more: str = "") -> tuple[int, Path]:
    """Train on ``Odd<name>-v0``; return the exit status and the run folder."""
    options, _, given = (DQN if algo == "dqn" else PPO).partition(" --set ")
    typed = (
        f"train --algo {algo} --env Odd{name}-v0 {options} --eval-freq 0 --quiet --out {out} {more}"
    )
    status = main([*typed.split(), "--set", *given.split()])
    return status, out / "none" / algo / f"Odd{name}-v0_1"


@pytest.mark.filterwarnings("ignore::UserWarning")  # Gymnasium's checker says the same in its way
@pytest.mark.parametrize("name", odd_envs.FAULTS)
def test_a_failing_environment_is_one_line_and_the_run_is_kept(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, run = train(name, tmp_path)
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1, error
    assert odd_envs.FAULTS[name][1] in error
    assert f"timestep {0 if 'Reset' in name else 10}" in error
    model, env = Run(run).load_agent()
    assert model.policy is not None
    env.close()


@pytest.mark.parametrize("algo", ["dqn", "ppo"])
def test_a_failing_environment_in_a_seed_batch(
    algo: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, run = train("StepRaises", tmp_path, algo, "--seeds 2")
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1 and "timestep 10: step() raised" in error
    for folder in (run, run.with_name("OddStepRaises-v0_2")):
        _, env = Run(folder).load_agent()
        env.close()


def test_the_timestep_counts_on_after_resume(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    status, run = train("Plain", tmp_path)
    assert status == 0
    kind = odd_envs.gym.spec("OddPlain-v0").entry_point
    # the checkpoint is between two episodes, so the first one after it fails at its fifth step
    later = odd_envs.broken(5, raised=RuntimeError("later"))
    monkeypatch.setattr(kind, "step", later, raising=False)
    assert main(["train", "--resume", str(run), "--timesteps", "100", "--quiet"]) == 2
    assert "timestep 65: step() raised RuntimeError: later" in capsys.readouterr().err


@pytest.mark.parametrize("seeds", [1, 2])
def test_an_environment_that_fails_when_a_run_is_resumed(
    seeds: int,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    status, run = train("Plain", tmp_path, more=f"--seeds {seeds}")
    assert status == 0
    kind = odd_envs.gym.spec("OddPlain-v0").entry_point
    monkeypatch.setattr(kind, "reset", odd_envs.failing("no license"), raising=False)
    assert main(["train", "--resume", str(run), "--timesteps", "100", "--quiet"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "cannot be replayed: RuntimeError: no license" in error


def test_an_environment_that_cannot_be_made_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = train("InitRaises", tmp_path)
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1 and "cannot be made: no simulator" in error


@pytest.mark.parametrize("more", ["", "--seeds 2 --engine batch"])
def test_a_hanging_environment_is_stopped(
    more: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, run = train("Hangs", tmp_path, more=f"--step-timeout 0.3 {more}")
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1
    assert "timestep 10: step() did not return within 0.3 s (--step-timeout)" in error
    # evaluations take the limit of the training
    assert main(["evaluate", str(run), "--episodes", "1", "--n-envs", "1"]) == 2
    assert "timestep 10: step() did not return within 0.3 s" in capsys.readouterr().err
    assert main(["evaluate", str(run), "--step-timeout", "0"]) == 2
    assert "--step-timeout 0: expected seconds above 0" in capsys.readouterr().err


@pytest.mark.parametrize("seconds", ["0", "-1", "nan", "inf"])
def test_a_timeout_is_a_number_of_seconds(
    seconds: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, _ = train("Plain", tmp_path, more=f"--step-timeout={seconds}")
    assert status == 2 and "expected seconds above 0" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("seeds", [1, 2])
def test_an_error_in_close_comes_after_all_is_saved(
    seeds: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, run = train("CloseRaises", tmp_path, more=f"--seeds {seeds}")
    error = capsys.readouterr().err
    assert status == 2 and error.count("\n") == 1
    assert "timestep 60: close() raised RuntimeError: close failed" in error
    assert main(["train", "--resume", str(run), "--quiet"]) == 2
    assert "has all of its 60 timesteps" in capsys.readouterr().err.replace(
        "60 of 60", "all of its 60"
    )
    with pytest.warns(UserWarning, match="close failed"):
        assert main(["evaluate", str(run), "--episodes", "1", "--json"]) == 0
    assert '"episodes": 1' in capsys.readouterr().out


def test_evaluations_end_where_the_environment_does_not(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(episodes, "EVALUATION_STEPS", 30)
    with pytest.warns(UserWarning, match=r"truncated at 30 steps.*--max-episode-steps"):
        typed = (
            "train --algo dqn --env OddNeverEnds-v0 --timesteps 20 --eval-freq 10 --eval-episodes 1"
        )
        assert main([*typed.split(), "--quiet", "--out", str(tmp_path)]) == 0
    run = tmp_path / "none/dqn/OddNeverEnds-v0_1"
    assert np.load(run / "evaluations.npz")["ep_lengths"].tolist() == [[30], [30]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        typed = f"evaluate {run} --episodes 3 --max-episode-steps 12 --json"
        assert main(typed.split()) == 0
    assert '"lengths": [12, 12, 12]' in capsys.readouterr().out
    assert main(["evaluate", str(run), "--max-episode-steps", "0"]) == 2


def test_an_observation_with_an_axis_of_1_more_is_allowed() -> None:
    env = make_env("OddOneRow-v0", {}, n_envs=1, seed=0)
    env.reset()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Gymnasium's checker
        observations, *_ = env.step(np.array([0]))
    assert observations.shape == (1, 4)
    env.close()


def test_a_time_limit_outside_of_the_main_thread_is_refused() -> None:
    from concurrent.futures import ThreadPoolExecutor

    env = make_env("OddPlain-v0", {}, n_envs=1, seed=0, step_timeout=1)
    with ThreadPoolExecutor(1) as pool, pytest.raises(UserError, match="only the main thread"):
        pool.submit(env.reset).result()
    env.close()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_numbers_whose_squares_overflow_are_finite(dtype):
    env = CheckedVecEnv(DummyVecEnv([lambda: gym.make("CartPole-v1")]))
    largest = np.full((1, 4), np.finfo(dtype).max, dtype)
    env._check("observation", largest)
    for bad in (np.inf, np.nan):
        largest[0, 2] = bad
        with pytest.raises(UserError, match="component"):
            env._check("observation", largest)
