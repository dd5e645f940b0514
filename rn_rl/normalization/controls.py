"""Controls: gains that follow a schedule and know nothing of the activations.

Any effect of regularity must show beyond these. They count phases as RegularityNorm does (a commit
with observations is a phase) and obey the same rule.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from rn_rl.errors import UserError
from rn_rl.normalization.phase import PhaseNorm

PHASES, GAIN = range(2)


class ScheduleNorm(PhaseNorm):
    """``y = gain(phases) x``, with ``phases`` the number of commits that had observations.

    Args:
        schedule: from the number of phases (a tensor) to the gain (a tensor of the same shape).
        label: how it prints.

    State: ``running_state``, rows phases and gain, ``(2, 1)``; moves at commits.
    """

    def __init__(self, schedule: Callable[[Tensor], Tensor], label: str) -> None:
        state = torch.zeros(2, 1, dtype=torch.float64)
        state[GAIN] = schedule(state[PHASES])
        super().__init__(state, torch.zeros(1, 1, dtype=torch.float64))
        self.schedule = schedule
        self.label = label

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
