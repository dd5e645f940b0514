"""Controls: gains that follow a schedule and do not depend on the activations.

An effect of regularity is an effect beyond these. They count phases as RegularityNorm does (a phase is
a commit with observations) and obey the phase rule.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable

import numpy as np
import torch
from torch import Tensor, nn

from rn_rl.errors import UserError
from rn_rl.normalization.phase import PhaseNorm
from rn_rl.normalization.recording import (
    ELSEWHERE,
    no_recording,
    read_recording,
    recording_file,
)

PHASES, GAIN, NEXT = range(3)
"""Rows of the state: phases, gain, and for :class:`YokedNorm` the gain after the next commit."""


class ScheduleNorm(PhaseNorm):
    """``y = gain(t) x``, with t the number of phases committed so far.

    Args:
        schedule: maps the number of phases, a float64 tensor, to the gain, a tensor of the same shape.
        label: text that ``repr`` shows.

    Shape:
        Any shape to the same shape and dtype.

    State:
        ``running_state``: rows phases and gain, ``(2, 1)``; moves at commits.
    """

    def __init__(self, schedule: Callable[[Tensor], Tensor], label: str) -> None:
        super().__init__(self.start(schedule), torch.zeros(1, 1, dtype=torch.float64))
        self.schedule = schedule
        self.label = label

    @staticmethod
    def start(schedule: Callable[[Tensor], Tensor]) -> Tensor:
        """State before the first phase."""
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
    """``log(t + e - 1)``, t phases after the first: the gain of ``rn`` on stationary data."""

    def __call__(self, phases: Tensor) -> Tensor:
        return ((phases - 1).clamp(min=1) + (math.e - 1)).log()


class LinearRamp:
    """From 0.1 to ``to`` over ``over`` phases, then constant."""

    def __init__(self, to: float, over: float) -> None:
        self.to, self.over = to, over

    def __call__(self, phases: Tensor) -> Tensor:
        return 0.1 + (self.to - 0.1) * (phases / self.over).clamp(max=1)


class Constant:
    """The same gain c in every phase."""

    def __init__(self, c: float) -> None:
        self.c = c

    def __call__(self, phases: Tensor) -> Tensor:
        return torch.full_like(phases, self.c)


def logt(num_features: int) -> ScheduleNorm:
    """Build the control that multiplies by ``log(t + e - 1)``, the gain of ``rn`` on stationary data."""
    return ScheduleNorm(LogSchedule(), "logt")


def ramp(num_features: int, to: float = 5.0, over: float = 5000) -> ScheduleNorm:
    """Build the control whose gain rises linearly from 0.1 to ``to`` over ``over`` phases, then stays.

    Raises:
        UserError: ``over`` is not above 0, or ``to`` is not finite.
    """
    if not over > 0:
        raise UserError(f"ramp over={over!r}: expected a number of phases above 0")
    if not math.isfinite(to):
        raise UserError(f"ramp to={to!r}: expected a finite gain")
    return ScheduleNorm(LinearRamp(to, over), f"ramp to={to:g} over={over:g}")


def gain(num_features: int, c: float = 3.0) -> ScheduleNorm:
    """Build the control that multiplies by the constant ``c``.

    Raises:
        UserError: ``c`` is not finite.
    """
    if not math.isfinite(c):
        raise UserError(f"gain c={c!r}: expected a finite number")
    return ScheduleNorm(Constant(c), f"gain c={c:g}")


class Recording:
    """The gain recorded after t commits; after the last one it stays."""

    def __init__(self, gains: Tensor) -> None:
        self.gains = gains

    def __call__(self, phases: Tensor) -> Tensor:
        self.gains = self.gains.to(phases.device)
        return self.gains[phases.long().clamp(max=len(self.gains) - 1)]


class YokedNorm(ScheduleNorm):
    """Control that replays, phase by phase, the gains that one layer had in another run.

    The gain follows the same schedule as in that run but does not depend on the activations of this
    network. So a difference between the two is an effect of regularity, not of the schedule. After the
    last recorded phase the gain stays. A run records the gains it acted with, so the commit after its
    last update is not in the recording.

    Args:
        run: a run folder with a ``code_length.npz``, or such a file; see
            :func:`~rn_rl.normalization.recording.read_recording`.
        index: number of the hidden layer to replay, of those of the recorded network. The policies of
            this library replay the layer of the same name instead, see :func:`replay_by_name`. With
            ``policy_kwargs()``, a critic with hidden layers of its own replays those of the actor.

    Shape:
        Any shape to the same shape and dtype.

    State:
        ``running_state``: rows phases, gain, gain after the next commit, ``(3, 1)``; moves at commits.
        With the third row, an agent that was saved in the middle of a phase can act where the recording
        is missing.

    Warns:
        UserWarning: the recording is missing. A trained agent can still be loaded and act.

    Raises:
        UserError: the recording cannot be read or has no such layer; or, in a training forward, it is
            missing, or its names do not tell which gains are those of the layer.
    """

    def __init__(self, run: str, index: int = 0) -> None:
        self.run, self.index = run, index
        self.missing = not recording_file(run).exists()
        self.problem = f"{no_recording(run)}; learning needs it" if self.missing else None
        gains = np.ones(1)
        if self.missing:
            warnings.warn(f"{no_recording(run)}; the agent can act, and cannot learn", stacklevel=2)
        else:
            recorded = read_recording(run)
            try:
                gains = recorded.of_hidden(index)
            except UserError as error:
                if recorded.layers is None:
                    raise
                self.problem = str(error)  # until replay_by_name() tells which
        super().__init__(Recording(torch.from_numpy(gains.copy())), f"yoked({run})")

    @torch.no_grad()
    def replay(self, gains: np.ndarray) -> None:
        """Replay these gains, ``(phases + 1,)``, from the beginning."""
        self.schedule = Recording(torch.from_numpy(gains.copy()))
        self.problem = None
        self._initial_state = self.start(self.schedule).to(self.running_state)
        self.reset_running_state()
        self._state_before_commit = self.running_state.clone()

    @staticmethod
    def start(schedule: Callable[[Tensor], Tensor]) -> Tensor:
        phases = torch.zeros(1, dtype=torch.float64)
        return torch.stack((phases, schedule(phases), schedule(phases + 1)))

    def observe(self, x: Tensor, weight: Tensor | None) -> None:
        if self.problem is not None:
            raise UserError(self.problem)
        super().observe(x, weight)

    def next_state(self) -> Tensor:
        phases, gain, after = self.running_state
        moved = self.pending_sums[0] > 0
        phases, gain = phases + moved, torch.where(moved, after, gain)
        return torch.stack((phases, gain, after if self.missing else self.schedule(phases + 1)))


def yoked(num_features: int, run: str, index: int = 0) -> YokedNorm:
    """Build the control that replays the gains of hidden layer ``index`` of another run."""
    return YokedNorm(run, index)


def replay_by_name(named: Iterable[tuple[str, nn.Module]]) -> bool:
    """Let each new :class:`YokedNorm` of a policy replay the layer of its name in the recorded policy.

    If not all hidden layers have their names there (another spec, or another class of policy), they
    replay hidden layer ``index`` of the recording instead.

    Args:
        named: modules with names, see :meth:`~rn_rl.normalization.recording.RecordedGains.column`.

    Returns:
        Whether there is one.

    Raises:
        UserError: the recording does not tell which gains are those of a layer.
    """
    yokes = [(name, norm) for name, norm in named if isinstance(norm, YokedNorm)]
    present = [(name, norm) for name, norm in yokes if not norm.missing]
    for run in {norm.run for _, norm in present}:
        recorded = read_recording(run)
        of_run = [(recorded.column(name), name, norm) for name, norm in present if norm.run == run]
        by_name = all(at is not None for at, name, _ in of_run if not ELSEWHERE.search(name))
        for at, name, norm in of_run:
            if at is not None and (by_name or ELSEWHERE.search(name)):
                norm.replay(recorded.gains[:, at])
            elif recorded.layers is not None and ELSEWHERE.search(name):
                raise UserError(
                    f"yoked({run}): no gain for {name.removeprefix('*')}: the recording has "
                    f"{', '.join(recorded.layers)}; yoke to a run with the same networks"
                )
            else:
                norm.replay(recorded.of_hidden(norm.index))
    return bool(yokes)
