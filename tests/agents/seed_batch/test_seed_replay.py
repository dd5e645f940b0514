"""Replay memories of a seed batch: samples equal the last transitions stored."""

import numpy as np
import pytest
import torch
from gymnasium import spaces

from rn_rl.agents.seed_batch.replay import ALIGNMENT, SeedReplay
from rn_rl.agents.seed_batch.vector_envs import Step

SEEDS, CAPACITY = 3, 5


def transition(rng, dtype):
    observations, following = rng.integers(0, 200, (2, SEEDS, 1, 7)).astype(dtype)
    dones, timeouts = rng.random((2, SEEDS, 1)) < 0.5
    actions, rewards = rng.integers(0, 4, (SEEDS, 1)), rng.normal(size=(SEEDS, 1))
    return observations, actions, Step(following, following, rewards, dones, timeouts)


@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_samples_are_the_last_transitions(dtype):
    rng = np.random.default_rng(0)
    memory = SeedReplay(
        SEEDS, CAPACITY, spaces.Box(0, 255, (7,), dtype), spaces.Discrete(3), torch.device("cpu")
    )
    stored = []
    for count in range(1, 8):
        stored.append(transition(rng, dtype))
        memory.add(*stored[-1])
        assert len(memory) == min(count, CAPACITY)
        assert memory.full == (count >= CAPACITY)
    assert memory.rows.shape[2] % ALIGNMENT == 0
    places = np.tile(np.arange(CAPACITY), (SEEDS, 1))
    found = memory.sample((places + 0.5) / CAPACITY)
    for place in range(CAPACITY):
        observations, actions, step = stored[5 + place if place < 2 else place]
        for seed in range(SEEDS):
            row = [part[seed, place] for part in found]
            assert np.array_equal(row[0], observations[seed, 0]) and row[0].numpy().dtype == dtype
            assert np.array_equal(row[1], step.next_observations[seed, 0])
            assert row[2].tolist() == [actions[seed, 0]]
            assert row[3].item() == pytest.approx(step.rewards[seed, 0])
            assert row[4].item() == (step.dones[seed, 0] and not step.timeouts[seed, 0])
