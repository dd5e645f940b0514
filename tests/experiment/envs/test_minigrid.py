"""The fast observations of MiniGrid equal MiniGrid's own."""

from __future__ import annotations

import gymnasium as gym
import minigrid  # noqa: F401  (registers its environments)
import numpy as np
import pytest

from rn_rl.experiment.envs.minigrid import observation, with_fast_view

ENVIRONMENTS = [
    "MiniGrid-RedBlueDoors-6x6-v0",
    "MiniGrid-Fetch-6x6-N2-v0",  # something to carry
    "MiniGrid-MultiRoom-N4-S5-v1",  # walls that hide
    "MiniGrid-LavaCrossingS9N2-v0",
    "MiniGrid-PutNear-6x6-N2-v0",
    "BabyAI-GoToRedBallGrey-v0",
]


@pytest.mark.parametrize("env_id", ENVIRONMENTS)
def test_every_observation_equals_minigrids(env_id: str) -> None:
    env = gym.make(env_id)
    env.reset(seed=3)
    inner = env.unwrapped
    rng = np.random.default_rng(0)
    carried = 0
    for _ in range(300):
        _, _, terminated, truncated, _ = env.step(rng.choice([0, 1, 2, 2, 3, 5]))
        theirs, ours = inner.gen_obs(), observation(inner)  # type: ignore[attr-defined,arg-type]
        assert ours["image"].dtype == theirs["image"].dtype
        np.testing.assert_array_equal(ours["image"], theirs["image"])
        assert (ours["direction"], ours["mission"]) == (theirs["direction"], theirs["mission"])
        carried += inner.carrying is not None  # type: ignore[attr-defined]
        if terminated or truncated:
            env.reset()
    assert carried > 0 or "Fetch" not in env_id


def test_step_and_reset_return_equal_observations() -> None:
    plain, fast = (gym.make("MiniGrid-RedBlueDoors-6x6-v0") for _ in range(2))
    with_fast_view(fast)
    assert "gen_obs" in vars(fast.unwrapped) and "gen_obs" not in vars(plain.unwrapped)
    for a, b in zip(plain.reset(seed=5)[0].items(), fast.reset(seed=5)[0].items(), strict=True):
        np.testing.assert_array_equal(a[1], b[1])
    for action in [0, 2, 1, 2, 2, 5, 1, 2] * 5:
        one, other = plain.step(action), fast.step(action)
        np.testing.assert_array_equal(one[0]["image"], other[0]["image"])
        assert one[1:] == other[1:]


def test_an_environment_of_another_package_is_unchanged() -> None:
    cart = gym.make("CartPole-v1")
    assert with_fast_view(cart) is cart and "gen_obs" not in vars(cart.unwrapped)
