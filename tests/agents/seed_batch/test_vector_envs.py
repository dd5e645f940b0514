"""Environments of many seeds: results of steps, and equality of envpool with gymnasium."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import minigrid  # noqa: F401  (registers its environments)
import numpy as np
import pytest
from gymnasium.envs.classic_control import CartPoleEnv, PendulumEnv
from scipy import stats
from stable_baselines3.common.env_util import make_vec_env

from rn_rl.agents.seed_batch.vector_envs import EnvpoolSeedEnvs, SeedEnvs, VecSeedEnvs

SEEDS = [[seed * 100 + env for env in range(4)] for seed in range(3)]


def build(kind: str, env_id: str, **kwargs: Any) -> SeedEnvs:
    if kind == "envpool":
        return EnvpoolSeedEnvs(env_id, SEEDS, **kwargs)
    return VecSeedEnvs(
        [make_vec_env(env_id, n_envs=4, seed=group[0], env_kwargs=kwargs) for group in SEEDS]
    )


def random_play(envs: SeedEnvs, steps: int) -> tuple[list[float], list[int]]:
    rng = np.random.default_rng(0)
    returns, lengths = [], []
    envs.reset()
    for _ in range(steps):
        envs.step(rng.integers(0, envs.action_space.n, (3, 4)))
        returns += [episode.reward for episode in envs.finished]
        lengths += [episode.length for episode in envs.finished]
    return returns, lengths


@pytest.mark.parametrize("kind", ["envpool", "gymnasium"])
def test_a_step_returns_last_and_first_observations_at_the_end_of_an_episode(kind: str):
    envs = build(kind, "CartPole-v1")
    observations = envs.reset()
    assert observations.shape == (3, 4, 4) and observations.dtype == np.float32
    ended = 0
    for _ in range(60):
        # always left: the pole falls within a dozen steps
        step = envs.step(np.zeros((3, 4), np.int64))
        same = (step.observations == step.next_observations).all(-1)
        assert np.array_equal(same, ~step.dones) and not step.timeouts.any()
        assert (np.abs(step.observations[step.dones]) <= 0.05).all()  # range of first observations
        # angles at which an episode ends
        assert (np.abs(step.next_observations[step.dones][:, 2]) > 0.2).all()
        found = {(e.seed, e.env) for e in envs.finished}
        assert found == set(zip(*np.nonzero(step.dones), strict=True))
        assert all(e.reward == e.length and 7 <= e.length <= 12 for e in envs.finished)
        ended += len(found)
    assert ended >= 12 * 4
    envs.close()


@pytest.mark.parametrize("kind", ["envpool", "gymnasium"])
def test_a_time_limit_is_a_timeout(kind: str):
    envs = build(kind, "CartPole-v1", max_episode_steps=5)
    envs.reset()
    for t in range(1, 11):
        step = envs.step(np.full((3, 4), t % 2))
        assert (step.dones == (t % 5 == 0)).all() and np.array_equal(step.dones, step.timeouts)
        assert len(envs.finished) == 12 * (t % 5 == 0)
    envs.close()


@pytest.mark.parametrize(
    ("env_id", "steps", "kwargs"),
    [
        ("CartPole-v1", 2000, {}),
        pytest.param("LunarLander-v3", 4000, {"max_episode_steps": 100}, marks=pytest.mark.slow),
    ],
)
def test_returns_and_lengths_of_envpool_equal_gymnasiums(
    env_id: str, steps: int, kwargs: dict[str, Any]
):
    """Under a random policy, by a two-sample Kolmogorov-Smirnov test."""
    played = []
    for kind in ("envpool", "gymnasium"):
        envs = build(kind, env_id, **kwargs)
        played.append(random_play(envs, steps))
        envs.close()
    for mine, theirs in zip(*played, strict=True):
        assert len(mine) > 300
        assert stats.ks_2samp(mine, theirs).pvalue > 1e-3
        assert abs(np.mean(mine) / np.mean(theirs) - 1) < 0.1


def test_steps_of_envpools_cartpole_equal_gymnasiums():
    """Each step is repeated in gymnasium from the observation, which is the whole state."""
    envs, single = build("envpool", "CartPole-v1"), gym.make("CartPole-v1").unwrapped
    assert isinstance(single, CartPoleEnv)
    single.reset()
    seen, rng = envs.reset(), np.random.default_rng(0)
    ended = 0
    for _ in range(600):
        lean = seen @ np.array([0.02, 0, 1, 0.3]) + 0.2 * rng.normal(size=seen.shape[:2])
        actions = (lean > 0).astype(int)
        step = envs.step(actions)
        for place in np.ndindex(actions.shape):
            single.state, single.steps_beyond_terminated = seen[place].astype(float), None
            wanted, _, ends, _, _ = single.step(int(actions[place]))
            np.testing.assert_allclose(step.next_observations[place], wanted, rtol=0, atol=1e-6)
            assert ends == (step.dones[place] and not step.timeouts[place])
            ended += ends
        seen = step.observations
    assert ended > 10
    envs.close()


def test_envpools_pendulum_differs_from_gymnasiums_only_where_its_speed_is_clipped():
    """Its angle then moves by the speed before clipping, as docs/tutorials/many-seeds.md says."""
    envs, single = EnvpoolSeedEnvs("Pendulum-v1", [[3]]), gym.make("Pendulum-v1").unwrapped
    assert isinstance(single, PendulumEnv)
    single.reset()
    seen = envs.reset()[0, 0]
    clipped = []
    for _ in range(600):
        push = np.array([2 * np.sign(seen[2])], np.float32)  # always faster
        single.state = np.array([np.arctan2(seen[1], seen[0]), seen[2]])
        wanted, *_ = single.step(push)
        step = envs.step(push[None, None])
        off = np.abs(step.next_observations[0, 0] - wanted).max()
        if abs(wanted[2]) == single.max_speed:
            clipped.append(off)
        else:
            assert off < 1e-5
        seen = step.observations[0, 0]
    assert len(clipped) > 50 and 0.04 < max(clipped) < 0.06
    envs.close()


def test_observations_of_envpools_minigrid_equal_minigrids():
    """First images are among those of minigrid's resets, and walking forward changes them."""
    single = gym.make("MiniGrid-RedBlueDoors-6x6-v0")
    theirs = {single.reset(seed=seed)[0]["image"].tobytes() for seed in range(3000)}
    envs = EnvpoolSeedEnvs(
        "MiniGrid-RedBlueDoors-6x6-v0",
        [[seed] for seed in range(300)],
        lambda observations: observations["image"],
    )
    first = envs.reset()[:, 0]
    assert first.shape == (300, 7, 7, 3) and first.dtype == np.uint8
    known = sum(image.tobytes() in theirs for image in first)
    assert known >= 290 and len({image.tobytes() for image in first}) > 50
    forward = np.full((300, 1), 2)
    following = envs.step(forward).next_observations[:, 0]
    assert (following != first).any((1, 2, 3)).mean() > 0.5
    envs.close()
    single.close()
