"""Tiny environments with one odd thing each, registered as ``Odd<Name>-v0`` when this module is imported.

Observations are uniform random numbers, every reward is 1, and an episode has 20 steps, unless a row of
the table says otherwise.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces


class OddEnv(gym.Env):
    """Base of the table's environments; a row replaces attributes and methods of it."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 30}
    observes: spaces.Space = spaces.Box(-1, 1, (4,), np.float32)
    acts: spaces.Space = spaces.Discrete(2)
    length = 20
    got: ClassVar[list[Any]] = []
    """Actions that environments of this class were given."""

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space, self.action_space = self.observes, self.acts
        self.t = 0

    def observation(self) -> Any:
        self.observation_space.seed(int(self.np_random.integers(2**31)))
        return self.observation_space.sample()

    def reward(self) -> Any:
        return 1.0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        super().reset(seed=seed)
        self.t = 0
        return self.observation(), {}

    def step(self, action: Any) -> Any:
        action = np.asarray(action)
        assert self.action_space.contains(action), f"action {action!r} outside {self.action_space}"
        self.got.append(action.tolist())
        self.t += 1
        return self.observation(), self.reward(), self.t >= self.length, False, {}

    def render(self) -> Any:
        return np.full((64, 96, 3), 10 * self.t, np.uint8)


def box(*shape: int, low: float = -1, high: float = 1, dtype: Any = np.float32) -> spaces.Box:
    return spaces.Box(low, high, shape, dtype)


SPACES: dict[str, dict[str, Any]] = {
    "Start": {"acts": spaces.Discrete(2, start=10)},
    "StartAll": {
        "acts": spaces.MultiDiscrete([3, 2], start=[1, 5]),
        "observes": spaces.MultiDiscrete([3, 4], start=[2, 7]),
    },
    "StartObservation": {"observes": spaces.Discrete(4, start=5)},
    "StartPart": {"observes": spaces.Dict(a=spaces.Discrete(4, start=5), b=box(2))},
    "Grid": {"observes": spaces.MultiDiscrete([[3, 4], [5, 6]])},
    "GridAction": {"acts": spaces.MultiDiscrete([[3, 2], [2, 4]])},
    "BinaryAction": {"acts": spaces.MultiBinary([2, 3])},
    "NoAxis": {"observes": box()},
    "Empty": {"observes": box(0)},
    "EmptyPart": {"observes": spaces.Dict(a=box(0), b=box(2))},
    "Keys": {
        "observes": spaces.Dict(
            {"my.key": box(3), "my_key": box(2), "values": box(1), "x/y:z": box(2)}
        )
    },
    "Nested": {"observes": spaces.Dict(a=spaces.Dict(b=box(3)), c=spaces.Discrete(2))},
    "Tuple": {"observes": spaces.Tuple((box(3), spaces.Discrete(2)))},
    "Text": {"observes": spaces.Dict(a=box(3), t=spaces.Text(5))},
    "ScalarAction": {"acts": box()},
    "MatrixAction": {"acts": box(2, 3)},
}
"""Environments with unusual spaces."""


def register(name: str, **attributes: Any) -> None:
    kind = type(f"Odd{name}", (OddEnv,), {"got": [], **attributes})
    gym.register(f"Odd{name}-v0", entry_point=kind)


for _name, _attributes in SPACES.items():
    register(_name, **_attributes)
