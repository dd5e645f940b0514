"""Rollout buffer of a seed batch: advantages as SB3's buffer computes them."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer

from rn_rl.agents.seed_batch.rollout import PolicyOutput, SeedRollout, by_seed

STEPS, SEEDS, ENVS = 9, 3, 2
OBSERVATIONS = spaces.Box(-1, 1, (4,), np.float32)
ACTIONS = {"discrete": spaces.Discrete(3), "continuous": spaces.Box(-1, 1, (2,), np.float32)}


@pytest.mark.parametrize("kind", ACTIONS)
@pytest.mark.parametrize("gae_lambda", [0.0, 0.9, 1.0])
def test_advantages_are_those_of_sb3(kind, gae_lambda):
    rng = np.random.default_rng(0)
    space = ACTIONS[kind]
    mine = SeedRollout(STEPS, SEEDS, ENVS, OBSERVATIONS, space)
    theirs = [
        RolloutBuffer(STEPS, OBSERVATIONS, space, "cpu", gae_lambda, 0.97, ENVS)
        for _ in range(SEEDS)
    ]
    shape = (SEEDS, ENVS)
    for t in range(STEPS):
        observations = rng.normal(size=(*shape, 4)).astype(np.float32)
        actions = rng.integers(0, 3, shape) if kind == "discrete" else rng.normal(size=(*shape, 2))
        values, log_probs, rewards = rng.normal(size=(3, *shape)).astype(np.float32)
        starts = (rng.random(shape) < 0.3).astype(np.float32)
        mine.add(t, observations, PolicyOutput(actions, values, log_probs), rewards, starts)
        for i, buffer in enumerate(theirs):
            given = (torch.from_numpy(x[i]) for x in (values, log_probs))
            buffer.add(observations[i], actions[i], rewards[i], starts[i], *given)
    last_values = rng.normal(size=shape).astype(np.float32)
    last_starts = rng.random(shape) < 0.5
    found = mine.advantages(last_values, last_starts.astype(np.float32), 0.97, gae_lambda)
    for i, buffer in enumerate(theirs):
        buffer.compute_returns_and_advantage(torch.from_numpy(last_values[i]), last_starts[i])
        for array, expected in zip(found, (buffer.advantages, buffer.returns), strict=True):
            np.testing.assert_allclose(array[:, i], expected, rtol=0, atol=1e-5)
        stored = buffer.actions[..., 0] if kind == "discrete" else buffer.actions
        np.testing.assert_allclose(mine.actions[:, i], stored, rtol=0, atol=1e-6)


def test_rows_by_seed():
    """Row ``t * envs + env`` of a seed is its environment's step t."""
    array = np.arange(STEPS * SEEDS * ENVS * 4).reshape(STEPS, SEEDS, ENVS, 4)
    rows = by_seed(array)
    assert rows.shape == (SEEDS, STEPS * ENVS, 4)
    for t, seed, env in np.ndindex(STEPS, SEEDS, ENVS):
        assert np.array_equal(rows[seed, t * ENVS + env], array[t, seed, env])
