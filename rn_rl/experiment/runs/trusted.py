"""SB3 zips that the user trusts: load them by SB3's own loader, also those of old versions."""

from __future__ import annotations

import contextlib
import copy
import importlib.util
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from rn_rl.errors import UserError
from rn_rl.experiment.runs.foreign import read_agent
from rn_rl.experiment.runs.match import check_spaces
from rn_rl.experiment.settings.algorithms import algorithm

NOT_FOR_ACTING: dict[str, Any] = {
    **dict.fromkeys(("learning_rate", "lr_schedule", "clip_range"), 0.0),
    **dict.fromkeys(("exploration_schedule", "delta_std_schedule"), 0.0),
    **dict.fromkeys(("clip_range_vf", "action_noise", "tensorboard_log", "ep_info_buffer")),
    **dict.fromkeys(("ep_success_buffer", "_last_obs", "_last_original_obs", "_last_dones")),
    **dict.fromkeys(("_last_episode_starts", "replay_buffer_class", "rollout_buffer_class")),
    "replay_buffer_kwargs": {},
    "rollout_buffer_kwargs": {},
    "buffer_size": 1,
    "optimize_memory_usage": False,
}
"""Values in place of those that only training needs, so that they are not unpickled: schedules of old
zips are code of other Python versions, and a replay buffer would take memory."""


@contextlib.contextmanager
def gym_as_gymnasium() -> Iterator[None]:
    """Let pickles that name Gym's classes find Gymnasium's, unless Gym itself is installed."""
    names = {}
    if importlib.util.find_spec("gym") is None:
        for name, module in list(sys.modules.items()):
            if name == "gymnasium" or name.startswith("gymnasium."):
                names[name.replace("gymnasium", "gym", 1)] = module
    sys.modules.update(names)
    try:
        yield
    finally:
        for name in names:
            sys.modules.pop(name, None)


def load_trusted(path: Path, algo: str, env: VecEnv, *, bounds: bool = True) -> BaseAlgorithm:
    """Load an SB3 zip by SB3's own loader, which unpickles and so runs code that is in the file.

    Values that only training needs are not unpickled, nor are the spaces, which are compared as text:
    zips of old versions hold some that cannot be opened any more.

    Args:
        path: the zip.
        algo: its algorithm.
        env: environment in which it acts.
        bounds: see :func:`check_spaces`.

    Raises:
        UserError: the file does not exist, has other spaces, or SB3 cannot load it as an agent of
            ``algo``.
    """
    agent = read_agent(path)
    check_spaces(agent, env.observation_space, env.action_space, bounds=bounds)
    replaced = {
        **copy.deepcopy(NOT_FOR_ACTING),  # SB3 adds to its dicts
        "observation_space": env.observation_space,
        "action_space": env.action_space,
    }
    try:
        with gym_as_gymnasium(), torch.random.fork_rng(devices=[]), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return algorithm(algo).cls.load(path, device="cpu", custom_objects=replaced)
    except Exception as error:  # a foreign file can raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{path} is damaged or not a {algo} agent: {reason}") from None
