"""Play evaluation episodes, with one agent or all seeds of a batch, with action masks where given."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.callbacks import MaskableEvalCallback
from sb3_contrib.common.maskable.evaluation import evaluate_policy as evaluate_masked_policy
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecEnv

from rn_rl.agents import SeedBatch
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.agents.seed_batch.vector_envs import SeedEnvs
from rn_rl.errors import UserError


def uses_masks(model: BaseAlgorithm, env: VecEnv) -> bool:
    """Return True if the agent is MaskablePPO and the environment has ``action_masks()``."""
    return isinstance(model, MaskablePPO) and is_masking_supported(env)


def mask_arguments(model: BaseAlgorithm, env: VecEnv) -> dict[str, np.ndarray]:
    """Return the ``action_masks`` argument of ``model.predict``; empty if no masks are used."""
    return {"action_masks": get_action_masks(env)} if uses_masks(model, env) else {}


def unmasked(model: BaseAlgorithm, env: VecEnv, name: str) -> list[str]:
    """Return a sentence if the agent is MaskablePPO and the environment of that name gives no masks."""
    if not isinstance(model, MaskablePPO) or uses_masks(model, env):
        return []
    return [f"{name} has no action_masks(): trained without masks, as PPO would"]


def play_agent(
    model: BaseAlgorithm, env: VecEnv, episodes: int, *, deterministic: bool
) -> tuple[list[float], list[int]]:
    """Play episodes with one agent, by SB3's ``evaluate_policy``.

    Recurrent agents carry their state through an episode; action masks are used where there are some.

    Returns:
        Return and length of each episode.
    """
    evaluate: Any = evaluate_masked_policy if uses_masks(model, env) else evaluate_policy
    returns, lengths = evaluate(
        model,
        env,
        n_eval_episodes=episodes,
        deterministic=deterministic,
        return_episode_rewards=True,
    )
    return returns, lengths


def play_seed_batch(
    batch: SeedBatch[Any], envs: SeedEnvs, noise: Streams | None
) -> tuple[np.ndarray, np.ndarray]:
    """Play one episode in each environment of each seed, all seeds together.

    Args:
        batch: policies of all seeds; their state does not change.
        envs: environments, which are reset first.
        noise: random numbers that sample stochastic actions; None: act greedily.

    Returns:
        Returns and lengths, both of shape ``(seeds, envs)``.
    """
    shape = (envs.num_seeds, envs.num_envs)
    returns, lengths = np.full(shape, np.nan), np.zeros(shape, int)
    observations, begins = envs.reset(), np.ones(shape, bool)
    act = batch.player(noise, envs.action_masks)
    while np.isnan(returns).any():
        step = envs.step(act(observations, begins))
        observations, begins = step.observations, step.dones
        for episode in envs.finished:
            if np.isnan(returns[episode.seed, episode.env]):
                returns[episode.seed, episode.env] = episode.reward
                lengths[episode.seed, episode.env] = episode.length
    return returns, lengths


def evaluation_callback(model: BaseAlgorithm, env: VecEnv) -> type[EvalCallback]:
    """Return the callback class of evaluations during training: with action masks if they are used."""
    return MaskableEvalCallback if uses_masks(model, env) else EvalCallback


def close_after_use(env: VecEnv) -> None:
    """Close environments whose results are complete: an error in ``close()`` is only a warning."""
    try:
        env.close()
    except UserError as error:
        warnings.warn(str(error), stacklevel=2)
