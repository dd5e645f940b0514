"""Tiny environments with one odd thing each, registered as ``Odd<Name>-v0`` when this module is imported.

Observations are uniform random numbers, every reward is 1, and an episode has 20 steps, unless a row of
the table says otherwise.
"""

from __future__ import annotations

import time
from types import SimpleNamespace
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
    "EmptyAction": {"acts": box(0)},
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


def broken(at: int, result: Any = None, raised: Exception | None = None, **hang: float) -> Any:
    """Return a ``step`` that returns ``result`` at step ``at``, raises, or hangs."""

    def step(self: OddEnv, action: Any) -> Any:
        if self.t + 1 < at:
            return OddEnv.step(self, action)
        if raised is not None:
            raise raised
        while "seconds" in hang:
            time.sleep(hang["seconds"])
        return result(OddEnv.step(self, action)) if callable(result) else result

    return step


def failing(message: str) -> Any:
    """Return a method that raises RuntimeError."""

    def method(self: OddEnv, *args: Any, **kwargs: Any) -> Any:
        raise RuntimeError(message)

    return method


def rewarding(value: Any) -> Any:
    """Return a ``step`` whose tenth reward in an episode is ``value``."""
    return broken(10, lambda result: (result[0], value, *result[2:]))


def observing(value: Any) -> Any:
    """Return a ``step`` whose tenth observation in an episode is ``value``."""
    return broken(10, lambda result: (value, *result[1:]))


class RunningMeanStd:
    """Statistics as in many environments, by the name that Gymnasium's and SB3's have too."""


def with_statistics(self: OddEnv, render_mode: str | None = None) -> None:
    OddEnv.__init__(self, render_mode)
    self.statistics = RunningMeanStd()  # type: ignore[attr-defined]


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "StepRaises": (
        {"step": broken(10, raised=RuntimeError("simulator crashed"))},
        "step() raised RuntimeError: simulator crashed (odd_envs.py:",
    ),
    "ResetRaises": ({"reset": failing("no license")}, "reset() raised RuntimeError: no license"),
    "StepNone": ({"step": broken(10)}, "step() returned None: expected (observation, reward,"),
    "StepFour": ({"step": broken(10, (0, 1.0, False, {}))}, "step() returned 4 values: expected"),
    "ResetOne": (
        {"reset": lambda self, **_: self.observation()},
        "reset() ",  # Gymnasium's own checker says more
    ),
    "InfoNone": ({"step": broken(10, lambda r: (*r[:4], None))}, "info None: expected a dict"),
    "RewardNone": ({"step": rewarding(None)}, "reward None: expected a number"),
    "RewardText": ({"step": rewarding("1.5")}, "reward '1.5': expected a number"),
    "RewardArray": ({"step": rewarding(np.array([1.0]))}, "reward array([1.]): expected a number"),
    "RewardNan": ({"step": rewarding(float("nan"))}, "reward nan at timestep 10"),
    "LongObservation": ({"step": observing(np.zeros(5))}, "of shape (5,): expected shape (4,)"),
    "ShortObservation": ({"step": observing(np.zeros(1))}, "of shape (1,): expected shape (4,)"),
    "NoObservation": ({"step": observing(None)}, "observation None: expected shape (4,)"),
    "MissingPart": (
        {"observes": spaces.Dict(a=box(2), b=box(1)), "step": observing({"a": np.zeros(2)})},
        "expected a dict with key 'b'",
    ),
}
"""Environments that fail at their tenth step, or at once, and the message."""

OTHERS: dict[str, dict[str, Any]] = {
    "Plain": {},
    "NeverEnds": {"length": 10**9},
    "Hangs": {"step": broken(10, seconds=0.01)},
    "InitRaises": {"__init__": failing("no simulator")},
    "CloseRaises": {"close": failing("close failed")},
    "OwnEpisodes": {"step": broken(1, lambda r: (*r[:4], {"episode": {"r": 7.0, "l": 3}}))},
    "Lives": {
        "ale": property(lambda self: SimpleNamespace(lives=lambda: 3 - self.t // 7)),
        "get_action_meanings": lambda self: ["NOOP", "FIRE"],
    },
    "Statistics": {"__init__": with_statistics},
    "Five": {"reward": lambda self: 5.0},
    "OneRow": {"step": broken(1, lambda r: (r[0][None], *r[1:]))},
    **{
        f"Fps{fps}": {"metadata": {"render_modes": ["rgb_array"], "render_fps": fps}}
        for fps in (50, 15, 10)
    },
}


def register(name: str, **attributes: Any) -> None:
    kind = type(f"Odd{name}", (OddEnv,), {"got": [], **attributes})
    gym.register(f"Odd{name}-v0", entry_point=kind)


for _name, _attributes in SPACES.items():
    register(_name, **_attributes)


def rendering(value: Any, **metadata: Any) -> dict[str, Any]:
    """Return a row whose ``render`` returns ``value``, or its result for the environment."""
    modes = {"render_modes": ["rgb_array"], "render_fps": 30}
    render = value if callable(value) else lambda self: value
    return {"render": render, "metadata": {**modes, **metadata}}


GRAY = np.full((64, 96), 90, np.uint8)
COLORS = np.full((64, 96, 3), 90, np.uint8)

FRAMES: dict[str, tuple[dict[str, Any], str | None]] = {
    "FrameNone": (rendering(None), "it renders nothing"),
    "FrameGray": (rendering(GRAY), None),
    "FrameChannel": (rendering(GRAY[:, :, None]), None),
    "FrameAlpha": (rendering(np.full((64, 96, 4), 90, np.uint8)), None),
    "FrameList": (rendering([COLORS, COLORS]), None),
    "FrameEmptyList": (rendering([]), "it renders"),
    "FrameListMode": (rendering([COLORS], render_modes=["rgb_array_list"]), "rgb_array_list"),
    "FrameHuman": (rendering(None, render_modes=["human"]), "'human'"),
    "FrameVaries": (rendering(lambda self: COLORS[: 20 + self.t]), None),
    "FrameOdd": (rendering(COLORS[:33, :51]), None),
    "FrameTiny": (rendering(COLORS[:1, :1]), None),
    "FrameFloat": (
        rendering(COLORS / 255),
        "it renders float64 of shape (64, 96, 3), expected uint8",
    ),
    "FrameInteger": (rendering(COLORS.astype(np.int64)), None),
    "FrameText": (rendering("a picture"), "expected uint8 of shape (height, width, 3)"),
    "FrameRaises": ({"render": failing("no display")}, "render() raised RuntimeError: no display"),
    "FpsZero": (rendering(COLORS, render_fps=0), "render_fps"),
    "FpsMissing": (rendering(COLORS, render_fps=None), None),
}
"""Environments that render something unusual, and the message of ``rn-rl video``; None for a film."""

for _name, (_attributes, _) in (*FAULTS.items(), *FRAMES.items()):
    register(_name, **_attributes)
for _name, _attributes in OTHERS.items():
    register(_name, **_attributes)
