"""Own hyperparameters and environments: --conf-file, --set ALGO:, --grid, zoo --export, --env MODULE:."""

import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
import yaml
from gymnasium import spaces
from rich.console import Console

from rn_rl import cli
from rn_rl.cli import main
from rn_rl.errors import UserError
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.grid.file import with_file
from rn_rl.experiment.grid.grid import new_grid
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.zoo_folder import python_value
from rn_rl.experiment.settings.algorithms import ALGORITHMS, algorithm
from rn_rl.experiment.settings.hyperparameters import to_algorithm_arguments
from rn_rl.experiment.training.conf_file import own_settings
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.resolve import resolve

OWN = """
CartPole-v1:
  n_timesteps: !!float 3e4
  n_envs: 2
  policy: 'MlpPolicy'
  policy_kwargs: "dict(net_arch=[32, 16])"
  normalize: "dict(norm_obs=True, norm_reward=False)"
  learning_rate: 1e-3
  gamma: 0.9
default:
  policy: MlpPolicy
  gamma: 0.5
"""
PPO = TrainConfig(algo="ppo", env="CartPole-v1")


def own(folder, text=OWN):
    path = folder / "own.yml"
    path.write_text(text)
    return path


def test_a_file_of_the_rl_zoo_replaces_the_tuned_values(tmp_path):
    config = replace(PPO, conf_file=own(tmp_path), norm="ln", set=("gamma=0.8",))
    spec = resolve(config)
    assert (spec.timesteps, spec.n_envs) == (30_000, 2)
    assert spec.hyperparameters == {
        "policy": "rn_rl.policies.NormActorCriticPolicy",
        "policy_kwargs": {"net_arch": [32, 16]},
        "normalize": {"norm_obs": True, "norm_reward": False},
        "learning_rate": 1e-3,
        "gamma": 0.8,  # --set wins
    }
    assert spec.config == str(config.conf_file)
    other = resolve(replace(config, env="Acrobot-v1", set=()))
    assert other.hyperparameters["gamma"] == 0.5 and len(other.hyperparameters) == 2
    env = spec.make_env(n_envs=1)
    assert spec.make_model(env, training=False).policy.norm == "ln"
    env.close()


WRITTEN = """dict(
    log_std_init=-2.5, ortho_init=False,
    activation_fn=nn.ReLU,
    net_arch=dict(pi=[64], vf=(32, 32)),
    optimizer_kwargs={'eps': 1e-5, 'betas': None},
  )"""
VALUES = {
    "log_std_init": -2.5,
    "ortho_init": False,
    "activation_fn": "relu",
    "net_arch": {"pi": [64], "vf": [32, 32]},
    "optimizer_kwargs": {"eps": 1e-5, "betas": None},
}


def test_python_text_of_the_rl_zoo_is_plain_values_and_is_not_run(tmp_path):
    assert python_value(WRITTEN) == VALUES
    config = replace(PPO, conf_file=own(tmp_path, f'default: {{policy_kwargs: "{WRITTEN}"}}'))
    assert resolve(config).hyperparameters["policy_kwargs"] == VALUES
    for text in (
        "exit(3)",
        "dict(a=1)(2)",
        "[x for x in 'ab']",
        "dict([(1, 2)])",
        "1 + 1",
        "b'a'",
        "nn",
    ):
        with pytest.raises(ValueError, match="is no plain value"):
            python_value(text)
    for text in ("(", "(" * 10**5, "", "a b"):
        with pytest.raises(ValueError, match=r"\w"):
            python_value(text)


@pytest.mark.parametrize("written", ["tanh", "Tanh", "nn.Tanh", "torch.nn.Tanh", "th.nn.Tanh"])
def test_an_activation_has_one_name_in_a_run(written, tmp_path, capsys):
    spec = resolve(replace(PPO, set=(f"policy_kwargs.activation_fn={written}",)))
    assert spec.hyperparameters["policy_kwargs"]["activation_fn"] == "tanh"
    text = f"default: {{policy_kwargs: {{activation_fn: {written}}}}}"
    spec = resolve(replace(PPO, conf_file=own(tmp_path, text)))
    assert spec.hyperparameters["policy_kwargs"]["activation_fn"] == "tanh"
    words = "train --algo ppo --env CartPole-v1 --set policy_kwargs.activation_fn=torch.nn.Thanh"
    assert main(words.split()) == 2
    assert "unknown activation 'Thanh'. Did you mean 'tanh'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("algo", "given"), [("dqn", "max_grad_norm=0.5"), ("ars", "alive_bonus_offset=-0.1")]
)
def test_a_real_number_may_have_a_fraction_where_sb3_s_default_is_whole(algo, given):
    name, _, value = given.partition("=")
    assert resolve(replace(PPO, algo=algo, set=(given,))).hyperparameters[name] == float(value)


def test_what_is_said_in_place_of_frame_stack_gives_frames_to_the_convolutions(tmp_path):
    text = """CarRacing-v3:
      policy: CnnPolicy
      env_wrapper:
        - gymnasium.wrappers.GrayscaleObservation
        - gymnasium.wrappers.FrameStackObservation: {stack_size: 2}
    """
    spec = resolve(replace(PPO, env="CarRacing-v3", conf_file=own(tmp_path, text)))
    env = spec.make_env(n_envs=1)
    assert env.observation_space.shape == (2, 96, 96)
    first = next(spec.make_model(env, training=False).policy.features_extractor.parameters())
    assert first.shape[:2] == (32, 2)
    env.close()


REFUSED = {
    **{f"{algo} atari": "frame_stack" for algo in ("dqn", "ppo", "ppo_lstm", "qrdqn")},
    **{f"{algo} CarRacing-v3": "frame_stack" for algo in ("ppo", "ppo_lstm")},
    "a2c atari": "'RMSpropTFLike' is no plain value",
}
"""Entries of the RL Zoo that cannot be used, and a part of what is said."""


def test_the_rl_zoo_s_own_files_can_be_used():
    """All but her.yml, of an algorithm that SB3 no longer has; and their policies can be made."""
    pytest.importorskip("rl_zoo3")
    box, seen, refused, read = spaces.Box(-1, 1, (3,), np.float32), set(), {}, 0
    for file in sorted((files("rl_zoo3") / "hyperparams").iterdir(), key=lambda file: file.name):
        name = file.name.removesuffix(".yml")
        if name not in ALGORITHMS:
            assert name in ("her", "__init__.py", "__pycache__")
            continue
        algo = algorithm(name)
        action = box if spaces.Box in algo.action_spaces else spaces.Discrete(3)
        for env_id in yaml.safe_load(file.read_text()):
            read += 1
            try:
                given = own_settings(Path(str(file)), algo, env_id)
            except UserError as error:
                refused[f"{name} {env_id}"] = str(error)
                continue
            made = to_algorithm_arguments(given, box)
            key = (name, made["policy"], str(made["policy_kwargs"]))
            if key not in seen:
                seen.add(key)
                rate = () if name == "ars" else (lambda _: 1e-3,)
                made["policy"](box, action, *rate, **made["policy_kwargs"])
    assert read > 250 and len(seen) > 40
    assert refused.keys() == REFUSED.keys()
    for key, said in REFUSED.items():
        assert said in refused[key] and "\n" not in refused[key]


@pytest.mark.parametrize("algo", [None, "dqn", "dqn,ppo", "sac"])
def test_an_exported_file_gives_the_tuned_values(tmp_path, algo, capsys):
    path = tmp_path / "own.yml"
    assert main(["zoo", "--export", str(path), *(["--algo", algo] if algo else [])]) == 0
    assert str(path) in "".join(capsys.readouterr().out.split("\n"))
    table = yaml.safe_load(path.read_text())
    assert ("default" in table) == (algo in ("dqn", "sac"))  # the RL Zoo's own format
    for name in algo.split(",") if algo else ("dqn", "ppo", "ars", "rndqn"):
        env = "Pendulum-v1" if name == "sac" else "LunarLander-v3"
        mine = resolve(TrainConfig(algo=name, env=env, conf_file=path))
        theirs = resolve(TrainConfig(algo=name, env=env))
        assert replace(mine, config="zoo") == theirs


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("CartPole-v1: {gamma: 2}", "CartPole-v1: gamma=2: expected at most 1"),
        ("CartPole-v1: {gama: 0.9}", "unknown hyperparameter of ppo 'gama'. Did you mean 'gamma'"),
        (
            "CartPole-v1: {policy_kwargs: 'dict(activation_fn=nn.Rely)'}",
            "CartPole-v1: policy_kwargs='dict(activation_fn=nn.Rely)': unknown activation 'Rely'. Did",
        ),
        ("CartPole-v1: {policy_kwargs: {activation_fn: nn.Rely}}", "unknown activation 'Rely'"),
        ("CartPole-v1: {policy_kwargs: '__import__(\"os\")'}", "expected plain values"),
        ("CartPole-v1: {policy_kwargs: 'dict(net_arch=[exit(3)])'}", "'exit(3)' is no plain value"),
        ("CartPole-v1: {policy_kwargs: 'dict(**a)'}", "expected plain values"),
        ("CartPole-v1: {policy_kwargs: 'dict(a=os.ReLU)'}", "'os.ReLU' is no plain value"),
        ("CartPole-v1: {frame_stack: 3}", "FrameStackObservation: {stack_size: 3}} last into"),
        ("CartPole-v1: {vec_env_wrapper: a.B}", "not supported here; wrap each environment, with"),
        ("CartPole-v1: [1]", "CartPole-v1: expected names and values"),
        (
            "Acrobot-v1: {gamma: 0.9}",
            "no hyperparameters of ppo for CartPole-v1; there are some for A",
        ),
        ("dqn: {CartPole-v1: {gamma: 0.9}}", "no hyperparameters of ppo; there are some of dqn"),
        ("[1]", "expected environments and their hyperparameters"),
        ("a: [", "cannot be read"),
        ("", "expected environments"),
        ("CartPole-v1: !!python/object:os.system {}", "cannot be read"),
    ],
)
def test_a_wrong_file_is_one_line(tmp_path, text, message):
    with pytest.raises(UserError) as error:
        resolve(replace(PPO, conf_file=own(tmp_path, text)))
    told = str(error.value)
    assert message in told and "\n" not in told and "own.yml" in told


def test_a_missing_file_and_two_sources_are_one_line(tmp_path):
    with pytest.raises(UserError, match=r"no such file; rn-rl zoo --export \S+no.yml writes one"):
        resolve(replace(PPO, conf_file=tmp_path / "no.yml"))
    with pytest.raises(UserError, match="--config paper: expected no --conf-file"):
        resolve(replace(PPO, conf_file=own(tmp_path), config="paper"))


def test_set_is_for_every_algorithm_or_one(tmp_path):
    text = "{ppo: {default: {gamma: 0.5}}, dqn: {default: {gamma: 0.6}}}"
    grid = new_grid(
        CompareConfig(
            algo="dqn,ppo",
            env="CartPole-v1",
            norms="none",
            seeds=1,
            timesteps=1000,
            conf_file=own(tmp_path, text),
            set=("dqn:learning_rate=0.1", "gamma=0.7", "ppo:policy_kwargs.net_arch=[8]"),
            out=tmp_path,
        ),
        Console(quiet=True),
    )
    dqn, ppo = (cell.specs[0].hyperparameters for cell in grid.cells)
    assert dqn["learning_rate"] == 0.1 and "policy_kwargs" not in dqn
    assert "learning_rate" not in ppo and ppo["policy_kwargs"] == {"net_arch": [8]}
    assert dqn["gamma"] == ppo["gamma"] == 0.7


@pytest.mark.parametrize(
    ("algo", "given", "message"),
    [
        ("ppo", "dqn:gamma=0.9", "dqn is not trained here, but ppo"),
        ("ppo", "dpq:gamma=0.9", "unknown algorithm in --set 'dpq:gamma=0.9': 'dpq'"),
        ("ppo", "ppo:gama=0.9", "unknown hyperparameter of ppo 'gama'"),
    ],
)
def test_a_wrong_prefix_is_one_line(algo, given, message):
    with pytest.raises(UserError) as error:
        resolve(replace(PPO, algo=algo, set=(given,)))
    assert message in str(error.value)


GRID = """
algo: [dqn, ppo]
env: [CartPole-v1, Acrobot-v1]
norms: [none, "rn(half_life=2000)"]
seeds: 5
final-episodes: 7
equivalence: 12.5
zoo: true
quiet: false
set: {gamma: 0.9, dqn: {learning_rate: 1e-3, policy_kwargs: {net_arch: [8, 8]}}}
"""


def parsed(*arguments):
    typed = with_file(["compare", *arguments])
    return cli.parse(cli.subcommands(cli.COMMANDS), typed, "rn-rl", None)


def test_a_study_is_a_file_and_what_is_typed_wins(tmp_path):
    path = tmp_path / "study.yml"
    path.write_text(GRID)
    config = parsed("--grid", str(path), "--seeds", "3", "--set", "gamma=0.5")
    assert (config.algo, config.env) == ("dqn,ppo", "CartPole-v1,Acrobot-v1")
    assert config.norms == "none,rn(half_life=2000)"
    assert (config.seeds, config.final_episodes, config.equivalence) == (3, 7, 12.5)
    assert config.zoo and not config.quiet and config.set == ("gamma=0.5",)
    given = parsed(f"--grid={path}").set
    assert given[0] == "gamma=0.9" and given[1] in (
        "dqn:learning_rate=1e-3",
        "dqn:learning_rate=0.001",
    )
    assert given[2] == "dqn:policy_kwargs.net_arch=[8, 8]"
    path.write_text(
        "set: {env_wrapper: [{a.b.C: {n: 1, f: null}}, d:E], dqn: {env_wrapper: {d:E: {}}}}"
    )
    given = parsed(f"--grid={path}").set
    assert given == ("env_wrapper=[{a.b.C: {n: 1, f: null}}, d:E]", "dqn:env_wrapper={d:E: {}}")


@pytest.mark.parametrize("text", ["1000", "1e3", "1.0e+3", "1000.0"])
def test_a_whole_number_of_a_study_may_be_written_with_an_exponent(tmp_path, text):
    path = tmp_path / "study.yml"
    path.write_text(f"timesteps: {text}\nseeds: {text}\n")
    config = parsed("--grid", str(path))
    assert (config.timesteps, config.seeds) == (1000, 1000)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sed: 1", "unknown option in --grid"),
        ("[1]", "expected names of options and their values"),
        ("algo: {a: 1}", "algo: expected one value or a list"),
        ("a: [", "cannot be read"),
        ("seeds: many", "--seeds many: expected a whole number"),
        ("timesteps: 1.5", "--timesteps 1.5: expected a whole number"),
        (None, "no such file"),
    ],
)
def test_a_wrong_study_is_one_line(tmp_path, capsys, text, message):
    path = tmp_path / "study.yml"
    if text is not None:
        path.write_text(text)
    assert main(["compare", "--grid", str(path)]) == 2
    told = capsys.readouterr().err
    assert message in told and told.count("\n") == 1


ENVIRONMENT = """
import gymnasium as gym
from gymnasium.envs.classic_control import CartPoleEnv
gym.register("OfTheFolder-v0", CartPoleEnv, max_episode_steps=20)
"""


def test_an_environment_of_the_current_folder(tmp_path, monkeypatch):
    (tmp_path / "env_of_the_folder.py").write_text(ENVIRONMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if p not in ("", str(Path.cwd()))])
    shape = "--algo a2c --timesteps 40 --eval-freq 0 --quiet --conf-file own.yml"
    own(tmp_path)
    command = ["train", "--env", "env_of_the_folder:OfTheFolder-v0", *shape.split()]
    assert main(command) == 0
    assert sys.path[-1] == str(tmp_path) and sys.path.count(str(tmp_path)) == 1
    [folder] = (tmp_path / "runs").glob("none/a2c/*")
    assert Run(folder).read_spec().hyperparameters["gamma"] == 0.5
    sys.modules.pop("env_of_the_folder")
