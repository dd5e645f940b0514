"""Environments of a seed batch by envpool, where it has the ones that gymnasium makes for the run."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from rn_rl.agents.seed_batch.vector_envs import EnvpoolSeedEnvs
from rn_rl.experiment.envs.spaces import AgentSpaces
from rn_rl.experiment.runs.spec import RunSpec

IMAGE_WRAPPER = "minigrid.wrappers.ImgObsWrapper"
"""The only wrapper with an equivalent here: MiniGrid's image without direction and mission."""


def image_view(observations: Any) -> np.ndarray:
    """Return MiniGrid's images, ``(n, channels, height, width)`` as SB3 has them."""
    return np.ascontiguousarray(observations["image"].transpose(0, 3, 1, 2))


def no_envpool(spec: RunSpec, env: VecEnv) -> str | None:
    """Return the reason why envpool cannot step the environment of a run; None if it can.

    Args:
        spec: description of the run.
        env: its environment as gymnasium makes it. envpool's must have the same spaces.
    """
    if importlib.util.find_spec("envpool") is None:
        return "envpool is not installed: pip install 'rn-rl[fast]'"
    import envpool

    settings = spec.hyperparameters
    wrapper = settings.get("env_wrapper")
    if spec.env not in envpool.list_all_envs():
        return f"envpool has no {spec.env}"
    if wrapper not in (None, IMAGE_WRAPPER):
        return f"env_wrapper {wrapper} is for gymnasium"
    if settings.get("normalize"):
        return "normalize is for gymnasium"
    if spec.step_timeout is not None:
        return "--step-timeout is for gymnasium"
    given = settings.get("env_kwargs") or {}
    unknown = set(given) - {"max_episode_steps"}
    if unknown:
        return f"env_kwargs {', '.join(sorted(unknown))} are for gymnasium"
    limit = given.get("max_episode_steps", 1)
    if type(limit) is not int or limit < 1:
        return f"max_episode_steps={limit} is for gymnasium: envpool's is a whole number above 0"
    if given and spec.is_minigrid:
        return f"max_episode_steps={limit} is for gymnasium: envpool's also changes the reward"
    envs = fast_envs(spec, [[0]], env)
    observations, actions = envs.reset()[:, 0], envs.action_space
    envs.close()
    wanted = env.observation_space
    same = observations.shape[1:] == wanted.shape and observations.dtype == wanted.dtype
    if any(env.env_is_wrapped(AgentSpaces)) or getattr(actions, "start", 0) != 0:
        return f"envpool cannot count actions or observations of {spec.env} from 0"
    if not same or not same_actions(actions, env.action_space):
        return f"envpool's {spec.env} has other spaces"
    return None


def same_actions(mine: Any, theirs: Any) -> bool:
    """Return True if two spaces have the same actions, of a kind that seed batches know."""
    if isinstance(mine, spaces.Discrete):
        return mine.n == getattr(theirs, "n", None)
    boxes = isinstance(mine, spaces.Box) and isinstance(theirs, spaces.Box)
    return (
        boxes
        and mine.shape == theirs.shape
        and bool(np.array_equal(mine.low, theirs.low) and np.array_equal(mine.high, theirs.high))
    )


def fast_envs(spec: RunSpec, seeds: Sequence[Sequence[int]], env: VecEnv) -> EnvpoolSeedEnvs:
    """Make envpool's environments of a run; see :class:`~rn_rl.agents.EnvpoolSeedEnvs`.

    Args:
        spec: description of the run.
        seeds: seeds of the environments of every training seed.
        env: the run's environment as gymnasium makes it, for its observation space.
    """
    kwargs = spec.hyperparameters.get("env_kwargs") or {}
    view = image_view if spec.hyperparameters.get("env_wrapper") == IMAGE_WRAPPER else None
    return EnvpoolSeedEnvs(spec.env, seeds, view, env.observation_space, spec.threads, **kwargs)


def env_seeds(seeds: Sequence[int], n_envs: int, purpose: int) -> list[list[int]]:
    """Derive the seeds of environments, such that no two training seeds or purposes share any.

    Args:
        seeds: training seeds.
        n_envs: environments of each.
        purpose: number of the purpose, such as training or evaluation.

    Returns:
        For each training seed, ``n_envs`` environment seeds below 2**31.
    """
    return [
        [int(s) for s in np.random.SeedSequence([seed, purpose]).generate_state(n_envs) // 2]
        for seed in seeds
    ]
