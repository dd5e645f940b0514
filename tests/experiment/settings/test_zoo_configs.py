"""Shipped hyperparameters: the RL Zoo reads the files, and each entry trains with each normalizer."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from stable_baselines3.common.callbacks import BaseCallback

from rn_rl.agents import NormalizerLogger
from rn_rl.experiment.settings.shipped import load_config_file
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.resolve import resolve
from rn_rl.normalization import REGISTRY, phase_norms
from tests.factories import slow_unless

ENTRIES = [
    (config_set, algo, env)
    for config_set in ("zoo", "paper")
    for algo in ("dqn", "ppo")
    for env in load_config_file(algo, config_set)
    if not env.endswith("default")
]


def test_both_algorithms_have_the_three_environments():
    three = {"CartPole-v1", "LunarLander-v3", "MiniGrid-RedBlueDoors-6x6-v0"}
    for algo in ("dqn", "ppo"):
        assert three <= set(load_config_file(algo))


@pytest.mark.parametrize("algo", ["dqn", "ppo", "a2c", "trpo", "qrdqn", "sac", "td3", "tqc"])
def test_values_are_the_zoos_tuned_ones(algo):
    import rl_zoo3

    theirs = yaml.safe_load(
        (Path(rl_zoo3.__file__).parent / "hyperparams" / f"{algo}.yml").read_text()
    )
    for env, ours in load_config_file(algo).items():
        if env.endswith("default") or env not in theirs:
            continue
        policy = ("policy", "policy_kwargs")
        assert {k: v for k, v in ours.items() if k not in policy} == {
            k: v for k, v in theirs[env].items() if k not in policy
        }
        arch = theirs[env].get("policy_kwargs", "")
        assert ("256, 256" in arch) == (ours["policy_kwargs"].get("net_arch") == [256, 256])


KINDS = ("none", "ln", "rn", "brn", "yoked")


@pytest.mark.parametrize("norms", [KINDS, pytest.param(tuple(REGISTRY), marks=pytest.mark.slow)])
@pytest.mark.parametrize(("config_set", "algo", "env"), ENTRIES)
def test_every_entry_trains_with_every_normalizer(config_set, algo, env, norms, recording):
    for norm in norms:
        given = f"yoked({recording})" if norm == "yoked" else norm
        spec = resolve(TrainConfig(algo=algo, env=env, norm=given, config=config_set))
        small = {"n_steps": 8, "batch_size": 8, "n_epochs": 1}
        if algo == "dqn":
            small = {"buffer_size": 100, "learning_starts": 8, "train_freq": 4, "batch_size": 8}
            small["gradient_steps"] = 2
        vec_env = spec.make_env(n_envs=1)
        model = spec.make_model(vec_env, **small)
        model.learn(24)
        norms = phase_norms(getattr(model.policy, "q_net", model.policy))
        assert bool(norms) == REGISTRY[norm].stateful
        vec_env.close()


@pytest.mark.parametrize(
    "env",
    ["Acrobot-v1", "FrozenLake-v1", "Taxi-v4", "MiniGrid-Empty-5x5-v0", "BabyAI-GoToRedBall-v0"],
)
@pytest.mark.parametrize("algo", ["dqn", "ppo"])
def test_any_other_environment_works_with_the_defaults(algo, env):
    spec = resolve(TrainConfig(algo=algo, env=env, norm="rn"))
    small = {"n_steps": 8, "batch_size": 8} if algo == "ppo" else {"learning_starts": 8}
    vec_env = spec.make_env(n_envs=1)
    spec.make_model(vec_env, **small).learn(24)
    vec_env.close()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("algo", "env", "options"),
    [
        ("dqn", "CartPole-v1", "learning_starts:50"),
        ("ppo", "MiniGrid-RedBlueDoors-6x6-v0", "n_steps:16"),
    ],
)
def test_the_zoos_own_trainer_takes_our_files(algo, env, options, tmp_path):
    config = Path(__file__).parents[3] / "zoo_configs" / f"{algo}.yml"
    policy_kwargs = "policy_kwargs:\"dict(norm='rn')\""
    command = [sys.executable, "-m", "rl_zoo3.train", "--algo", algo, "--env", env, "--seed", "1"]
    command += ["--conf-file", str(config), "-n", "300", "--eval-freq", "-1"]
    command += ["--hyperparams", options, policy_kwargs, "-f", str(tmp_path)]
    finished = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert finished.returncode == 0, finished.stderr[-2000:]
    assert (tmp_path / algo / f"{env}_1" / f"{env}.zip").is_file()


class ApproxKL(BaseCallback):
    """Collect the approximate KL divergence that PPO logs for its updates."""

    def __init__(self):
        super().__init__()
        self.values = []

    def _on_step(self):
        return True

    def _on_rollout_start(self):
        value = self.logger.name_to_value.get("train/approx_kl")
        if value is not None:
            self.values.append(float(value))


def commit_and_update_kl(env: str, config_set: str, norm: str, timesteps: int):
    spec = resolve(TrainConfig(algo="ppo", env=env, norm=norm, config=config_set))
    vec_env = spec.make_env()
    model = spec.make_model(vec_env)
    commits, updates = NormalizerLogger(), ApproxKL()
    model.learn(timesteps, callback=[commits, updates], log_interval=10**9)
    vec_env.close()
    return sum(commits.commit_kls) / len(commits.commit_kls), sum(updates.values) / len(
        updates.values
    )


@pytest.mark.parametrize("norm", slow_unless({"ln+rn"}.__contains__, ("rn", "rln", "rsn", "ln+rn")))
def test_commits_move_the_policy_less_than_updates_do(norm):
    commit, update = commit_and_update_kl("CartPole-v1", "zoo", norm, 256 * 15)
    assert 0 < commit < update


@pytest.mark.slow
@pytest.mark.parametrize("norm", ["rn", "rln", "rsn", "ln+rn"])
@pytest.mark.parametrize(
    ("env", "config_set", "timesteps"),
    [
        ("LunarLander-v3", "zoo", 16 * 1024 * 6),
        ("MiniGrid-RedBlueDoors-6x6-v0", "zoo", 8 * 512 * 8),
        ("MiniGrid-RedBlueDoors-6x6-v0", "paper", 16 * 128 * 16),
    ],
)
def test_commits_move_the_policy_less_everywhere(env, config_set, timesteps, norm):
    commit, update = commit_and_update_kl(env, config_set, norm, timesteps)
    assert 0 < commit < update
