"""Options of the commands that train: their order in ``--help``, and imports that are quick."""

import subprocess
import sys
from dataclasses import fields

import pytest

from rn_rl.errors import UserError
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.training.config import SharedOptions, TrainConfig
from rn_rl.experiment.training.resolve import resolve


@pytest.mark.parametrize(
    ("config", "first"),
    [
        (TrainConfig, ["algo", "env", "norm", "seed", "seeds"]),
        (CompareConfig, ["algo", "env", "norms", "seeds", "seed"]),
    ],
)
def test_help_begins_with_what_is_trained(config, first):
    names = [field.name for field in fields(config)]
    shared = [field.name for field in fields(SharedOptions)]
    assert names[:5] == first and names[5 : 5 + len(shared)] == shared


def test_options_are_read_without_torch():
    """``rn-rl --help`` and the handling of Ctrl-C load none of the heavy libraries."""
    code = (
        "import sys\n"
        "import rn_rl.experiment.grid.config, rn_rl.experiment.training.interrupts\n"
        "heavy = {'torch', 'stable_baselines3', 'gymnasium', 'scipy', 'matplotlib', 'joblib'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    ("env", "timesteps", "given", "expected"),
    [
        ("Acrobot-v1", 500, {}, 500),  # was 25: 50,000 timesteps of evaluation
        ("Acrobot-v1", 10_000, {}, 2500),  # 4 evaluations of 5 episodes of 500 timesteps
        ("CartPole-v1", 50_000, {}, 2500),
        ("LunarLander-v3", 1_000_000, {}, 50_000),
        ("CartPole-v1", 50_000, {"eval_episodes": 20}, 10_000),
        ("CartPole-v1", 5_000, {"env_kwargs": ("max_episode_steps=50",)}, 250),
        ("CartPole-v1", 5_000, {"eval_freq": 70}, 70),
        ("MiniGrid-RedBlueDoors-6x6-v0", 1000, {}, 50),  # Gymnasium knows no limit
        ("CartPole-v1", 1, {}, 1),
        ("CartPole-v0", 10_000, {}, 1000),  # episodes of 200
    ],
)
def test_evaluations_take_no_longer_than_the_training(env, timesteps, given, expected):
    config = TrainConfig(algo="dqn", env=env, timesteps=timesteps, **given)
    assert resolve(config).eval_freq == expected


def test_noise_of_no_kind_is_refused():
    """Before, there was no noise, without a word."""
    for words in (("noise_std=0.5",), ("noise_type=null", "noise_std=0.5")):
        with pytest.raises(
            UserError, match=r"^noise_std=0.5 without noise_type: add --set noise_t"
        ):
            resolve(TrainConfig(algo="sac", env="Pendulum-v1", set=words))
    zoo = "MountainCarContinuous-v0"  # has noise_type, which null turns off
    for words in (("noise_std=0.5",), ("noise_type=null",)):
        resolve(TrainConfig(algo="td3", env=zoo, set=words))


def test_a_window_of_no_episodes_is_refused():
    with pytest.raises(UserError, match="stats_window_size=0: expected at least 1"):
        resolve(TrainConfig(algo="dqn", env="CartPole-v1", set=("stats_window_size=0",)))
