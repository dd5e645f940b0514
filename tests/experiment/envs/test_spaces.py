"""Environments with unusual spaces: agents see spaces that SB3 supports, environments their own."""

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces

from rn_rl.agents import SeedBatchDQN
from rn_rl.cli import main
from rn_rl.experiment.envs.make import make_env
from rn_rl.experiment.envs.spaces import module_keys
from tests import odd_envs
from tests.factories import envs_of

SHORT = {
    "ppo": "--timesteps 64 --n-envs 1 --set n_steps=32 batch_size=16 n_epochs=1",
    "ppo_lstm": "--timesteps 64 --n-envs 1 --set n_steps=32 batch_size=16 n_epochs=1",
    "dqn": "--timesteps 120 --set learning_starts=40 train_freq=4 gradient_steps=1 buffer_size=200",
}


def train(algo: str, name: str, out: Path, more: str = "") -> Path:
    """Train on ``Odd<name>-v0``, check the exit status, and return the first run folder."""
    options, _, given = SHORT[algo].partition(" --set ")
    typed = (
        f"train --algo {algo} --env Odd{name}-v0 {options} --eval-freq 40 --eval-episodes 1 --quiet"
    )
    arguments = [*typed.split(), "--out", str(out), *more.split(), "--set", *given.split()]
    assert main(arguments) == 0
    return out / "none" / algo / f"Odd{name}-v0_1"


def got(name: str) -> list[Any]:
    """Return the distinct actions that the environment was given since the last call."""
    actions = gym.spec(f"Odd{name}-v0").entry_point.got  # type: ignore[union-attr]
    found = [
        list(a) if isinstance(a, tuple) else a for a in sorted({_hashable(a) for a in actions})
    ]
    actions.clear()
    return found


def _hashable(action: Any) -> Any:
    return tuple(map(_hashable, action)) if isinstance(action, list) else action


@pytest.mark.parametrize(
    ("algo", "seeds"),
    [
        *((algo, seeds) for algo in ("ppo", "dqn") for seeds in (1, 2)),
        ("ppo_lstm", 1),
        pytest.param("ppo_lstm", 2, marks=pytest.mark.slow),
    ],
)
def test_discrete_actions_count_from_start(algo: str, seeds: int, tmp_path: Path) -> None:
    got("Start")
    run = train(algo, "Start", tmp_path, f"--seeds {seeds}")
    assert got("Start") == [10, 11]
    assert main(["evaluate", str(run), "--episodes", "2", "--stochastic", "--json"]) == 0
    assert set(got("Start")) <= {10, 11}
    film = str(tmp_path / "film.gif")
    assert main(["video", str(run), "--episodes", "1", "--out", film]) == 0
    assert set(got("Start")) <= {10, 11} and Path(film).is_file()


def test_actions_of_several_parts_count_from_their_starts(tmp_path: Path) -> None:
    got("StartAll")
    train("ppo", "StartAll", tmp_path)
    assert got("StartAll") == [[a, b] for a in (1, 2, 3) for b in (5, 6)]
    train("ppo", "GridAction", tmp_path)
    assert all(np.less(a, [[3, 2], [2, 4]]).all() for a in got("GridAction"))
    train("ppo", "BinaryAction", tmp_path)
    assert {np.shape(a) for a in got("BinaryAction")} == {(2, 3)}


@pytest.mark.parametrize(
    ("name", "space"),
    [
        ("StartObservation", spaces.Discrete(4)),
        ("StartAll", spaces.MultiDiscrete([3, 4])),
        ("StartPart", spaces.Dict(a=spaces.Discrete(4), b=odd_envs.box(2))),
        ("Grid", spaces.MultiDiscrete([3, 4, 5, 6])),
        ("NoAxis", odd_envs.box(1)),
    ],
)
def test_agents_observe_the_values_of_the_environment(name: str, space: Any) -> None:
    env = make_env(f"Odd{name}-v0", {}, n_envs=1, seed=3)
    assert env.observation_space == space
    inner = env.unwrapped.envs[0].unwrapped  # type: ignore[attr-defined]
    given = []
    observe = inner.observation
    inner.observation = lambda: given.append(observe()) or given[-1]
    seen = [env.reset()]
    for _ in range(30):
        seen.append(env.step(np.array([env.action_space.sample()]))[0])
    starts = {"StartObservation": 5, "StartAll": np.array([2, 7])}
    del given[20]  # the last observation of the first episode, which the first of the next replaces
    for mine, theirs in zip(seen, given, strict=True):
        if name == "StartPart":
            assert mine["a"][0] == theirs["a"] - 5 and (mine["b"][0] == theirs["b"]).all()
            continue
        expected = np.reshape(theirs, -1) - starts.get(name, 0)
        np.testing.assert_array_equal(np.reshape(mine, -1), expected)
    env.close()


@pytest.mark.parametrize(
    "name",
    [pytest.param("StartAll", marks=pytest.mark.slow), "StartPart", "Grid", "NoAxis", "Keys"],
)
def test_unusual_observations_train_stop_and_play(name: str, tmp_path: Path) -> None:
    run = train("ppo", name, tmp_path)
    assert main(["train", "--resume", str(run), "--timesteps", "128", "--quiet"]) == 0
    assert main(["evaluate", str(run), "--episodes", "1", "--json"]) == 0


@pytest.mark.parametrize("algo", ["dqn", "ppo"])
def test_observations_without_an_axis_train_in_a_seed_batch(algo: str, tmp_path: Path) -> None:
    train(algo, "NoAxis", tmp_path, "--seeds 2 --engine batch")


@pytest.mark.parametrize("algo", ["ppo", "ppo_lstm"])
@pytest.mark.parametrize(("name", "shape"), [("ScalarAction", ()), ("MatrixAction", (2, 3))])
def test_a_seed_batch_gives_continuous_actions_their_shape(
    algo: str, name: str, shape: tuple[int, ...], tmp_path: Path
) -> None:
    got(name)
    runs = train(algo, name, tmp_path, "--seeds 2 --engine batch").parent
    assert {np.shape(action) for action in got(name)} == {shape}
    assert main(["evaluate", str(runs / f"Odd{name}-v0_2"), "--episodes", "1", "--json"]) == 0


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("Empty", "are empty, expected at least one number"),
        ("EmptyAction", "actions Box([], [], (0,), float32) are empty"),
        ("EmptyPart", "are empty, expected at least one number"),
        ("Nested", "env_wrapper=gymnasium.wrappers.FlattenObservation"),
        ("Tuple", "env_wrapper=gymnasium.wrappers.FlattenObservation"),
        ("Text", "env_wrapper=gymnasium.wrappers.FlattenObservation"),
    ],
)
def test_other_spaces_are_refused_in_one_line(
    name: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = f"train --algo ppo --env Odd{name}-v0 --out {tmp_path}"
    assert main(typed.split()) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and said in error and f"Odd{name}-v0" in error
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["Nested", "Tuple", "Text"])
def test_the_wrapper_of_the_message_helps(name: str) -> None:
    wrapper = {"env_wrapper": "gymnasium.wrappers.FlattenObservation"}
    env = make_env(f"Odd{name}-v0", wrapper, n_envs=1, seed=0)
    assert isinstance(env.observation_space, spaces.Box)
    env.close()


def test_keys_become_names_that_pytorch_allows() -> None:
    assert module_keys(["a.b", "a_b", "values", "x/y:z", "."]) == [
        "a_b_",
        "a_b",
        "values_",
        "x/y:z",
        "_",
    ]


def test_a_seed_batch_of_ones_own_refuses_actions_that_do_not_count_from_0() -> None:
    from stable_baselines3 import DQN

    models = [DQN("MlpPolicy", gym.make("OddStart-v0"), seed=seed) for seed in (0, 1)]
    with pytest.raises(ValueError, match=r"start=10.* do not count from 0"):
        SeedBatchDQN(models, envs_of(models, "OddStart-v0"))
