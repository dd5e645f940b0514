"""Controls: gains that follow a schedule and know nothing of the activations.

Any effect of regularity must show beyond these. They count phases as RegularityNorm does (a commit
with observations is a phase) and obey the same rule.
"""

from __future__ import annotations

import math
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from rn_rl.errors import UserError
from rn_rl.normalization.phase import PhaseNorm

PHASES, GAIN, NEXT = range(3)
"""Rows of the state; NEXT, the gain after the coming commit, only where a recording is replayed."""

RECORDING = "code_length.npz"


class ScheduleNorm(PhaseNorm):
    """``y = gain(phases) x``, with ``phases`` the number of commits that had observations.

    Args:
        schedule: from the number of phases (a tensor) to the gain (a tensor of the same shape).
        label: how it prints.

    State: ``running_state``, rows phases and gain, ``(2, 1)``; moves at commits.
    """

    def __init__(self, schedule: Callable[[Tensor], Tensor], label: str) -> None:
        super().__init__(self.start(schedule), torch.zeros(1, 1, dtype=torch.float64))
        self.schedule = schedule
        self.label = label

    @staticmethod
    def start(schedule: Callable[[Tensor], Tensor]) -> Tensor:
        """The state before any phase."""
        phases = torch.zeros(1, dtype=torch.float64)
        return torch.stack((phases, schedule(phases)))

    @property
    def gain(self) -> Tensor:
        return self.running_state[GAIN]

    def observe(self, x: Tensor, weight: Tensor | None) -> None:
        self.pending_sums.add_(1)

    def next_state(self) -> Tensor:
        phases = self.running_state[PHASES] + (self.pending_sums[0] > 0)
        return torch.stack((phases, self.schedule(phases)))

    def apply_state(self, x: Tensor) -> Tensor:
        return x * self.running_state[GAIN, 0]  # 0-dim: keeps x's dtype

    def extra_repr(self) -> str:
        return self.label


class LogSchedule:
    """``log(t + e - 1)``, t phases after the first: what ``rn`` does on stationary data."""

    def __call__(self, phases: Tensor) -> Tensor:
        return ((phases - 1).clamp(min=1) + (math.e - 1)).log()


class LinearRamp:
    """From 0.1 to ``to`` over ``over`` phases, then constant."""

    def __init__(self, to: float, over: float) -> None:
        self.to, self.over = to, over

    def __call__(self, phases: Tensor) -> Tensor:
        return 0.1 + (self.to - 0.1) * (phases / self.over).clamp(max=1)


class Constant:
    """Always c."""

    def __init__(self, c: float) -> None:
        self.c = c

    def __call__(self, phases: Tensor) -> Tensor:
        return torch.full_like(phases, self.c)


def logt(num_features: int) -> ScheduleNorm:
    """Control: multiply by ``log(t + e - 1)``, the gain of ``rn`` on stationary data."""
    return ScheduleNorm(LogSchedule(), "logt")


def ramp(num_features: int, to: float = 5.0, over: float = 5000) -> ScheduleNorm:
    """Control: a gain that rises linearly from 0.1 to ``to`` over ``over`` phases, then stays."""
    if not over > 0:
        raise UserError(f"ramp over={over!r}: expected a number of phases above 0")
    if not math.isfinite(to):
        raise UserError(f"ramp to={to!r}: expected a finite gain")
    return ScheduleNorm(LinearRamp(to, over), f"ramp to={to:g} over={over:g}")


def gain(num_features: int, c: float = 3.0) -> ScheduleNorm:
    """Control: multiply by the constant ``c``."""
    if not math.isfinite(c):
        raise UserError(f"gain c={c!r}: expected a finite number")
    return ScheduleNorm(Constant(c), f"gain c={c:g}")


class Recording:
    """A recorded column: the gain after t commits, then the last one for ever."""

    def __init__(self, gains: Tensor) -> None:
        self.gains = gains

    def __call__(self, phases: Tensor) -> Tensor:
        self.gains = self.gains.to(phases.device)
        return self.gains[phases.long().clamp(max=len(self.gains) - 1)]


class YokedNorm(ScheduleNorm):
    """Control: replay the gains that one layer of another run had, phase by phase.

    The same ramp as in that run, with the tie between this network's activity and its gain cut: this
    alone separates regularity from a schedule. After the last recorded phase the gain stays. A run
    records what it acted with, so the commit after its very last update is not in it.

    Args:
        run: a run folder with a ``code_length.npz``, or such a file; see :func:`read_recording`.
        index: which column: which hidden layer of its network this follows. A network with hidden
            layers of its own beside the first (the critic of PPO) replays those of the first.

    State:
        ``running_state``: rows phases, gain, gain after the coming commit, ``(3, 1)``. With the last
        one, an agent saved in the middle of a phase acts on where the recording is not.

    Warns:
        UserWarning: there is no such recording. A trained agent can then be loaded and can act.

    Raises:
        UserError: a recording that cannot be read or has no such column; at a training forward, that
            there is none.
    """

    def __init__(self, run: str, index: int = 0) -> None:
        self.run = run
        self.missing = not recording_file(run).exists()
        gains = np.ones((1, index + 1)) if self.missing else read_recording(run)
        if self.missing:
            warnings.warn(
                f"{_no_recording(run)}; the agent can act, and cannot learn", stacklevel=2
            )
        if index >= gains.shape[1]:
            raise UserError(
                f"yoked({run}): there is no gain for hidden layer {index + 1}: the recording has "
                f"{gains.shape[1]}; yoke to a run with as many hidden layers"
            )
        super().__init__(Recording(torch.from_numpy(gains[:, index].copy())), f"yoked({run})")

    @staticmethod
    def start(schedule: Callable[[Tensor], Tensor]) -> Tensor:
        phases = torch.zeros(1, dtype=torch.float64)
        return torch.stack((phases, schedule(phases), schedule(phases + 1)))

    def observe(self, x: Tensor, weight: Tensor | None) -> None:
        if self.missing:
            raise UserError(f"{_no_recording(self.run)}; learning needs it")
        super().observe(x, weight)

    def next_state(self) -> Tensor:
        phases, gain, after = self.running_state
        moved = self.pending_sums[0] > 0
        phases, gain = phases + moved, torch.where(moved, after, gain)
        return torch.stack((phases, gain, after if self.missing else self.schedule(phases + 1)))


def recording_file(run: str) -> Path:
    """The file that a run folder keeps its gains in; a file is itself."""
    path = Path(run)
    return path if path.suffix == ".npz" else path / RECORDING


def _no_recording(run: str) -> str:
    return f"yoked({run}): no recording {recording_file(run)}"


def read_recording(run: str) -> np.ndarray:
    """The gains of a recorded run, ``(phases + 1, layers)``: row t is what it applied after t commits.

    A recording has one row for each rollout, written at its start, after the commit. Rollouts before
    there was anything to learn from (row 0; for DQN all up to ``learning_starts``, which the file
    tells) are phase 0 together.

    Raises:
        UserError: no such file, or not a recording of gains.
    """
    file = recording_file(run)
    if not file.exists():
        raise UserError(
            f"{_no_recording(run)}; give the folder of a run that had a normalizer with gains"
        )
    try:
        # np.load leaves a file open that it opened itself and cannot read
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            gains, timesteps = np.asarray(arrays["gains"], float), arrays["timesteps"]
            learning_starts = arrays.get("learning_starts", 0)
        if gains.ndim != 2 or not gains.size or timesteps.shape != gains.shape[:1]:
            raise ValueError(f"gains {gains.shape}, timesteps {timesteps.shape}")
        learned = (timesteps > learning_starts) & (np.arange(len(gains)) > 0)
        recorded = np.concatenate((gains[:1], gains[learned]))
        if not np.isfinite(recorded).all():
            raise ValueError("no finite gains")
    except (OSError, EOFError, TypeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"yoked({run}): {file} is no recording of gains ({error}); expected finite gains of shape "
            "(phases, layers) and timesteps, as training writes them"
        ) from None
    return recorded


def yoked(num_features: int, run: str, index: int = 0) -> YokedNorm:
    """Control: the gains of another run's hidden layer ``index``."""
    return YokedNorm(run, index)
