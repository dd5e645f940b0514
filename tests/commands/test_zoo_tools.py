"""The RL Zoo's own tools, as its users start them, on the folders that our trainings leave."""

import os
import pickle
import re
import subprocess
import sys

import numpy as np
import pytest
from imageio.v3 import imread
from imageio_ffmpeg import get_ffmpeg_exe
from stable_baselines3.common.vec_env import VecEnv

from rn_rl.cli import main
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.weights import load_vecnormalize

DQN = "--algo dqn --env CartPole-v1 --timesteps 512 --eval-freq 128 --eval-episodes 3"
SMALL = "learning_starts=100 train_freq=8 gradient_steps=1 batch_size=16"


def train(root, typed):
    assert main(["train", *typed.split(), "--quiet", "--out", str(root)]) == 0


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """DQN: two seeds in a batch with each of two normalizers, a third by itself; PPO on Pendulum."""
    root = tmp_path_factory.mktemp("runs")
    for norm in ("none", "rn"):
        train(root, f"{DQN} --norm {norm} --seeds 2 --engine batch --set {SMALL}")
    train(root, f"{DQN} --norm rn --seed 2 --set {SMALL}")
    ppo = "--algo ppo --env Pendulum-v1 --norm ln+rn --timesteps 256 --eval-freq 128"
    train(root, f"{ppo} --eval-episodes 1 --set n_steps=16 n_epochs=2 normalize=true")
    return root


def zoo(tool, typed, cwd):
    """What ``python -m rl_zoo3.TOOL ...`` prints."""
    headless = {"MPLBACKEND": "Agg", "SDL_VIDEODRIVER": "dummy", "OMP_NUM_THREADS": "1"}
    finished = subprocess.run(
        [sys.executable, "-m", f"rl_zoo3.{tool}", *typed.split()],
        capture_output=True,
        text=True,
        cwd=cwd,
        env={**os.environ, **headless},
        check=False,
    )
    assert finished.returncode == 0, finished.stderr[-2000:]
    return finished.stdout


def returns_of(model, env: VecEnv, steps: int) -> list[float]:
    """Of the episodes that end within so many steps, without exploration."""
    ended, total, observations = [], 0.0, env.reset()
    for _ in range(steps):
        actions, _ = model.predict(observations, deterministic=True)
        observations, rewards, dones, _ = env.step(actions)
        total += float(rewards[0])
        if dones[0]:
            ended.append(total)
            total = 0.0
    env.close()
    return ended


@pytest.mark.parametrize(
    ("norm", "algo", "env", "k", "best"),
    [
        pytest.param("rn", "dqn", "CartPole-v1", 2, False, marks=pytest.mark.slow),
        # with statistics of its observations
        pytest.param("ln+rn", "ppo", "Pendulum-v1", 1, True, marks=pytest.mark.slow),
    ],
)
def test_enjoy_plays_the_very_episodes_of_our_own_loading(runs, tmp_path, norm, algo, env, k, best):
    typed = f"-f {runs / norm} --algo {algo} --env {env} --exp-id {k} --seed 3 -n 420 --no-render"
    printed = zoo("enjoy", typed + " --load-best" * best, tmp_path)
    theirs = [float(number) for number in re.findall(r"Episode Reward: (\S+)", printed)]
    run = Run(runs / norm / algo / f"{env}_{k}")
    model, vec_env = run.load_agent(weights=run.best_model_file if best else None, seed=3)
    if best:  # the Zoo plays the best policy with the last statistics of observations
        load_vecnormalize(run.policy_file, run.vecnormalize_file, vec_env)
    ours = returns_of(model, vec_env, 420)
    assert len(ours) >= 2
    assert theirs == pytest.approx(ours, abs=0.006)  # two decimals are printed


def test_record_video_films_the_latest_run(tmp_path):
    small = f"{DQN.replace('512', '128')} --norm rn --set {SMALL}"
    train(tmp_path, f"{small} --seeds 2 --engine batch")
    train(tmp_path, f"{small} --seed 2")
    typed = f"-f {tmp_path / 'rn'} --algo dqn --env CartPole-v1 --exp-id 0 -n 40 -o films"
    assert "CartPole-v1_3" in zoo("record_video", typed, tmp_path)
    (film,) = (tmp_path / "films").glob("*.mp4")
    read = [get_ffmpeg_exe(), "-v", "error", "-i", str(film), "-pix_fmt", "gray", "-f", "rawvideo"]
    pixels = subprocess.run([*read, "-"], capture_output=True, check=True).stdout
    frames = np.frombuffer(pixels, np.uint8).reshape(-1, 400, 600)
    assert len(frames) == 41  # the first, and one a step
    assert frames[0].std() > 1 and (frames[0] != frames[-1]).any()


@pytest.mark.slow
def test_all_plots_and_plot_from_file_compare_normalizers(runs, tmp_path):
    folders = f"-f {runs / 'none'} {runs / 'rn'} -l none rn"
    printed = zoo("plots.all_plots", f"-a dqn -e CartPole-v1 {folders} -o table -print", tmp_path)
    assert "CartPole-v1-DQN-none: 2" in printed and "CartPole-v1-DQN-rn: 3" in printed
    with (tmp_path / "table.pkl").open("rb") as file:
        curves = pickle.load(file)["CartPole-v1"]
    for norm in ("none", "rn"):
        files = (runs / norm / "dqn").glob("*/evaluations.npz")
        expected = np.mean([np.load(file)["results"].mean(axis=1) for file in files], axis=0)
        np.testing.assert_allclose(curves[f"DQN-{norm}"]["mean"], expected)
        np.testing.assert_array_equal(curves[f"DQN-{norm}"]["timesteps"], [128, 256, 384, 512])

    typed = "-i table.pkl -o bars.png --format png --boxplot --rliable"
    assert "Computing bootstrap CI" in zoo("plots.plot_from_file", typed, tmp_path)
    picture = imread(tmp_path / "bars.png")[..., :3].astype(int)
    assert (np.ptp(picture, axis=-1) > 40).mean() > 0.05  # bars have colours
