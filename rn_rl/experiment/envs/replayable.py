"""An environment that can be put back where it stood, also one that cannot be pickled (Box2D)."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class ReplayableEnv(gym.Wrapper):
    """Remembers how its episode began and every action since: replaying them restores it.

    Right for any environment that draws all its random numbers from ``np_random``, which is
    gymnasium's convention.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._begin: dict[str, Any] = {"seed": None, "rng": None}
        self._actions: list[Any] = []

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._begin = {"seed": seed, "rng": self._rng() if seed is None else None}
        self._actions = []
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        self._actions.append(action)
        return self.env.step(action)

    def _rng(self) -> dict[str, Any]:
        return dict(self.unwrapped.np_random.bit_generator.state)

    def snapshot(self) -> dict[str, Any]:
        """Plain data from which :meth:`restore` brings the environment back."""
        actions = np.asarray(self._actions)
        return {
            "begin": self._begin,
            "actions": actions.tolist(),
            "dtype": actions.dtype.str,
            "rng": self._rng(),
        }

    def restore(self, snapshot: dict[str, Any]) -> bool:
        """Replay the episode of a snapshot; returns whether it had one (False before any reset)."""
        begin = snapshot["begin"]
        if begin["seed"] is None and begin["rng"] is None:
            return False
        if begin["rng"] is not None:
            self.unwrapped.np_random.bit_generator.state = begin["rng"]
        self.env.reset(seed=begin["seed"])
        self._begin, self._actions = begin, list(np.array(snapshot["actions"], snapshot["dtype"]))
        for action in self._actions:
            self.env.step(action)
        self.unwrapped.np_random.bit_generator.state = snapshot["rng"]
        return True
