"""Environments whose state can be saved and restored, also those that cannot be pickled (Box2D)."""

from __future__ import annotations

import hashlib
from typing import Any

import gymnasium as gym
import numpy as np

from rn_rl.errors import UserError, first_line


def digest(observation: Any) -> str:
    """Return the SHA-256 of an observation: arrays, numbers, and dicts and tuples of them."""
    parts = hashlib.sha256()

    def add(value: Any) -> None:
        if isinstance(value, dict):
            for key in sorted(value):
                parts.update(repr(key).encode())
                add(value[key])
        elif isinstance(value, tuple):
            for part in value:
                add(part)
        else:
            array = np.asarray(value)
            parts.update(f"{array.dtype} {array.shape}".encode())
            parts.update(array.tobytes())

    add(observation)
    return parts.hexdigest()


class ReplayableEnv(gym.Wrapper):
    """Record the seed or random state at the last reset and all actions since, to replay the episode.

    Replaying is exact for environments that draw all their random numbers from ``np_random``, as
    Gymnasium's convention is. For others :meth:`restore` raises an error, since the last observation
    differs.
    """

    def __init__(self, env: gym.Env) -> None:
        super().__init__(env)
        self._begin: dict[str, Any] = {"seed": None, "rng": None}
        self._actions: list[Any] = []
        self._last: Any = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._begin = {"seed": seed, "rng": self._rng() if seed is None else None}
        self._actions = []
        result = self.env.reset(seed=seed, options=options)
        self._last = result[0]
        return result

    def step(self, action: Any) -> Any:
        self._actions.append(action)
        result = self.env.step(action)
        self._last = result[0]
        return result

    def _rng(self) -> dict[str, Any]:
        return dict(self.unwrapped.np_random.bit_generator.state)

    def snapshot(self) -> dict[str, Any]:
        """Return plain data from which :meth:`restore` restores the environment."""
        actions = np.asarray(self._actions)
        return {
            "begin": self._begin,
            "actions": actions.tolist(),
            "dtype": actions.dtype.str,
            "rng": self._rng(),
            "last": digest(self._last),
        }

    def restore(self, snapshot: dict[str, Any]) -> bool:
        """Replay the episode of a snapshot; return False if it was taken before the first reset.

        Raises:
            UserError: the environment fails at a step that went well before, or the replayed episode
                ends in another observation.
        """
        try:
            return self._replay(snapshot)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"the episode of the checkpoint cannot be replayed: {type(error).__name__}: "
                f"{first_line(error)}; fix the environment"
            ) from error

    def _replay(self, snapshot: dict[str, Any]) -> bool:
        begin = snapshot["begin"]
        if begin["seed"] is None and begin["rng"] is None:
            return False
        if begin["rng"] is not None:
            self.unwrapped.np_random.bit_generator.state = begin["rng"]
        self._last = self.env.reset(seed=begin["seed"])[0]
        self._begin, self._actions = begin, list(np.array(snapshot["actions"], snapshot["dtype"]))
        for action in self._actions:
            self._last = self.env.step(action)[0]
        if snapshot.get("last", digest(self._last)) != digest(self._last):  # not in rn-rl 0.1.0
            name = self.spec.id if self.spec is not None else type(self.unwrapped).__name__
            raise UserError(
                f"environment {name} does not repeat its episode from the same seed and actions, so the "
                "run cannot continue exactly: it must draw all random numbers from self.np_random; "
                "start another run, with --from this one to begin with its weights"
            )
        self.unwrapped.np_random.bit_generator.state = snapshot["rng"]
        return True
