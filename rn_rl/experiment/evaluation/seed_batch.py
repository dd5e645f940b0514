"""Episodes of every seed of a batch, side by side."""

from __future__ import annotations

from typing import Any

import numpy as np

from rn_rl.agents import SeedBatch
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.agents.seed_batch.vector_envs import SeedEnvs


def play(
    batch: SeedBatch[Any], envs: SeedEnvs, noise: Streams | None
) -> tuple[np.ndarray, np.ndarray]:
    """Returns and lengths of one episode in every environment, ``(seeds, envs)``.

    Args:
        batch: whose policies play; their state stays as it is.
        envs: begin new episodes.
        noise: random numbers of stochastic actions; None: the likeliest action.
    """
    shape = (envs.num_seeds, envs.num_envs)
    returns, lengths = np.full(shape, np.nan), np.zeros(shape, int)
    observations, begins = envs.reset(), np.ones(shape, bool)
    act = batch.player(noise)
    while np.isnan(returns).any():
        step = envs.step(act(observations, begins))
        observations, begins = step.observations, step.dones
        for episode in envs.finished:
            if np.isnan(returns[episode.seed, episode.env]):
                returns[episode.seed, episode.env] = episode.reward
                lengths[episode.seed, episode.env] = episode.length
    return returns, lengths
