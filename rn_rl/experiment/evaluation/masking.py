"""Action masks for MaskablePPO: where the environment gives some, everything that acts uses them."""

from __future__ import annotations

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


def masked(model: BaseAlgorithm, env: VecEnv) -> bool:
    """Whether the agent takes masks and the environment has ``action_masks()``."""
    return isinstance(model, MaskablePPO) and is_masking_supported(env)


def masks(model: BaseAlgorithm, env: VecEnv) -> dict[str, np.ndarray]:
    """What ``predict`` takes beside the observation; nothing without masks."""
    return {"action_masks": get_action_masks(env)} if masked(model, env) else {}


def play(
    model: BaseAlgorithm, env: VecEnv, episodes: int, *, deterministic: bool
) -> tuple[list[float], list[int]]:
    """Returns and lengths of so many episodes; recurrent agents keep their state, masks are used."""
    evaluate: Any = evaluate_masked_policy if masked(model, env) else evaluate_policy
    returns, lengths = evaluate(
        model,
        env,
        n_eval_episodes=episodes,
        deterministic=deterministic,
        return_episode_rewards=True,
    )
    return returns, lengths


def evaluation_callback(model: BaseAlgorithm, env: VecEnv) -> type[EvalCallback]:
    """The class of the evaluations during training."""
    return MaskableEvalCallback if masked(model, env) else EvalCallback
