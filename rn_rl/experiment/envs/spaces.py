"""Convert the spaces of an environment to the equivalent ones that SB3's agents expect.

SB3 counts discrete values from 0 whatever the space's ``start`` is, so that an environment with
``Discrete(2, start=10)`` would get the actions 0 and 1. It also has no networks for observations
without an axis, for discrete values on a grid, or for dictionary keys with a dot.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from torch import nn

from rn_rl.errors import UserError

Convert = Callable[[Any], Any]


class Conversion(NamedTuple):
    """A space that SB3 supports, and the functions between its values and the environment's."""

    space: spaces.Space[Any]
    to_agent: Convert
    to_env: Convert


def converted(space: spaces.Space[Any]) -> Conversion | None:
    """Return the conversion of discrete values to a vector that counts from 0; None if they are one."""
    if isinstance(space, spaces.Discrete) and space.start != 0:
        start = space.start
        return Conversion(spaces.Discrete(space.n), lambda x: x - start, lambda x: x + start)
    if isinstance(space, spaces.MultiDiscrete) and (space.start.any() or len(space.shape) != 1):
        first, shape = space.start, space.shape
        return Conversion(
            spaces.MultiDiscrete(space.nvec.reshape(-1)),
            lambda x: (np.asarray(x) - first).reshape(-1),
            lambda x: (np.reshape(x, shape) + first).astype(first.dtype),
        )
    return None


def converted_observation(space: spaces.Space[Any], env_id: str) -> Conversion | None:
    """Return the conversion of an observation space that is not a Dict; None if there is nothing to do.

    Raises:
        UserError: SB3 has no network for the space, or it holds no number at all.
    """
    kinds = spaces.Box | spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary
    if not isinstance(space, kinds):
        raise UserError(
            f"environment {env_id}: observations {space} are not supported by Stable-Baselines3; "
            "put a wrapper on it with --set env_wrapper=gymnasium.wrappers.FlattenObservation"
        )
    if 0 in (space.shape or ()):
        raise UserError(
            f"environment {env_id}: observations {space} are empty, expected at least one number; "
            "let the environment return one, such as its time step"
        )
    if isinstance(space, spaces.Box) and space.shape == ():
        low, high = space.low.reshape(1), space.high.reshape(1)
        box = spaces.Box(low, high, (1,), space.dtype)
        return Conversion(box, lambda x: np.reshape(x, 1), lambda x: np.reshape(x, ()))
    return converted(space)


def module_keys(keys: list[str]) -> list[str]:
    """Return names for the networks of a Dict's parts: the keys, where PyTorch allows them.

    A dot becomes ``_``, and a name that ``nn.ModuleDict`` has as an attribute gets ``_`` at its end.
    """
    reserved, taken = dir(nn.ModuleDict()), set(keys)
    found = []
    for key in keys:
        name = key.replace(".", "_") or "_"
        while name in reserved or (name != key and name in taken):
            name += "_"
        taken.add(name)
        found.append(name)
    return found


def converted_action(space: spaces.Space[Any], env_id: str) -> Conversion | None:
    """Return the conversion of an action space; None if SB3 takes it as it is.

    Raises:
        UserError: an action has no component.
    """
    shape = space.shape or ()
    if 0 in shape:
        raise UserError(f"environment {env_id}: actions {space} are empty, expected a component")
    if isinstance(space, spaces.MultiBinary) and len(shape) != 1:
        vector = spaces.MultiBinary(int(np.prod(shape)))
        return Conversion(vector, lambda x: np.reshape(x, -1), lambda x: np.reshape(x, shape))
    return converted(space)


class AgentSpaces(gym.Wrapper):
    """Show an environment in spaces that SB3 supports; see :func:`for_agent`.

    Args:
        env: the environment.
        observation: conversion of its observations; for a Dict, name and conversion of each part by
            its key.
        action: conversion of its actions.
    """

    def __init__(
        self,
        env: gym.Env,
        observation: Conversion | dict[str, tuple[str, Conversion]] | None,
        action: Conversion | None,
    ) -> None:
        super().__init__(env)
        self._observation, self._action = observation, action
        if isinstance(observation, dict):
            parts = {name: conversion.space for name, conversion in observation.values()}
            self.observation_space = spaces.Dict(parts)
        elif observation is not None:
            self.observation_space = observation.space
        if action is not None:
            self.action_space = action.space

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, info = self.env.reset(seed=seed, options=options)
        return self._convert(observation), info

    def step(self, action: Any) -> Any:
        if self._action is not None:
            action = self._action.to_env(action)
        observation, *rest = self.env.step(action)
        return self._convert(observation), *rest

    def _convert(self, observation: Any) -> Any:
        if self._observation is None:
            return observation
        if isinstance(self._observation, Conversion):
            return self._observation.to_agent(observation)
        parts = self._observation.items()
        return {name: part.to_agent(observation[key]) for key, (name, part) in parts}


def for_agent(env: gym.Env, env_id: str) -> gym.Env:
    """Return the environment in spaces that SB3 supports; itself if its own are such spaces.

    - ``Discrete`` and ``MultiDiscrete`` count from 0, and the environment gets and gives values from
      ``start`` on;
    - observations ``Box`` of shape ``()`` have shape ``(1,)``;
    - ``MultiDiscrete`` of several axes, and actions that are such a ``MultiBinary``, are vectors;
    - keys of a ``Dict`` are names that PyTorch allows, see :func:`module_keys`.

    Args:
        env: environment with all other wrappers.
        env_id: its name, for the message of an error.

    Raises:
        UserError: SB3 has no network for the observations, such as for a Dict within a Dict.
    """
    observed = env.observation_space
    observation: Conversion | dict[str, tuple[str, Conversion]] | None
    if isinstance(observed, spaces.Dict) and observed.spaces:
        keys = list(observed.spaces)
        names = module_keys(keys)
        parts = [converted_observation(observed[key], env_id) for key in keys]
        observation = None
        if names != keys or any(parts):
            observation = {
                key: (name, part or Conversion(observed[key], _same, _same))
                for key, name, part in zip(keys, names, parts, strict=True)
            }
    else:
        observation = converted_observation(observed, env_id)
    action = converted_action(env.action_space, env_id)
    if observation is None and action is None:
        return env
    return AgentSpaces(env, observation, action)


def _same(value: Any) -> Any:
    return value
