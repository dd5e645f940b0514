"""Homeostatic (synaptic) scaling: a gain per unit that keeps its mean activity near a target."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from rn_rl.errors import UserError
from rn_rl.normalization import functional
from rn_rl.normalization.phase import PhaseNorm

TRACE, GAIN, PHASES = range(3)
"""Rows of the state: activity trace, gain, phases committed."""

ELEMENTS, ACTIVITY = range(2)
"""Rows of the pending sums: number of elements, and the sum of their activity."""

LOWEST, HIGHEST = 0.1, 10.0
"""Range of the gain."""


class HomeostaticNorm(PhaseNorm):
    r"""Scale every unit slowly until its mean activity reaches a target.

    With z the input and g the gain of a unit, :math:`y = g z`. At a commit, with m the mean of
    :math:`\max(y, 0)` over the phase, a its trace and t the target,

    .. math:: a \leftarrow \text{momentum} \cdot a + (1 - \text{momentum}) \, m, \qquad
        g \leftarrow g \, \exp\!\big(\text{rate} \cdot \mathrm{clip}((t - a) / t, -1, 1)\big),

    with g clamped to [0.1, 10]; the first phase sets a to m. This equals scaling the incoming weights
    and the bias of the unit. The rule is this library's own, after the two papers; it is the formula of
    neither.

    Args:
        num_features: size of axis 1 of the input.
        rate: largest change of log g at a commit.
        target: mean activity t after ReLU to reach.
        momentum: share of the old trace in the new one.

    Shape:
        ``(batch, num_features, ...)`` to the same shape and dtype.

    State:
        ``running_state``: rows trace, gain, phases, ``(3, num_features)``; moves at commits. A batch
        with a NaN or an infinity is skipped for the units it touches.

    Raises:
        UserError: an argument is outside its range, or axis 1 of an input is not ``num_features``.

    Sources: Shen, Wang & Navlakha, Neural Computation 33:3179, 2021; van Rossum, Bi & Turrigiano,
    Journal of Neuroscience 20:8812, 2000.
    """

    def __init__(
        self,
        num_features: int,
        rate: float = 0.01,
        target: float = 0.4,
        momentum: float = 0.99,
    ) -> None:
        for name, value in (("rate", rate), ("target", target)):
            if not 0 < value < math.inf:
                raise UserError(f"hs {name}={value!r}: expected a finite number above 0")
        if not 0 <= momentum < 1:
            raise UserError(f"hs momentum={momentum!r}: expected a number from 0 to below 1")
        state = torch.zeros(3, num_features, dtype=torch.float64)
        state[GAIN] = 1
        super().__init__(state, torch.zeros(2, num_features, dtype=torch.float64))
        self.num_features = num_features
        self.rate, self.target, self.momentum = rate, target, momentum

    @property
    def gain(self) -> Tensor:
        return self.running_state[GAIN]

    def observe(self, x: Tensor, weight: Tensor | None) -> None:
        y = functional.per_feature(x.detach()) * self.gain
        if weight is None:
            w = torch.ones_like(y)
        else:
            shape = (-1,) + (1,) * (x.dim() - 1)
            each = weight.detach().to(y.dtype).reshape(shape).expand_as(x)
            w = functional.per_feature(each)
        sums = torch.stack((w.sum(0), (w * y.relu()).sum(0)))
        usable = y.abs().sum(0) < math.inf  # relu alone would hide -inf
        self.pending_sums.add_(torch.where(usable, sums, 0.0))

    def next_state(self) -> Tensor:
        trace, gain, phases = self.running_state
        elements = self.pending_sums[ELEMENTS]
        mean = self.pending_sums[ACTIVITY] / elements
        new_trace = torch.where(phases > 0, torch.lerp(mean, trace, self.momentum), mean)
        error = ((self.target - new_trace) / self.target).clamp(-1, 1)
        new_gain = (gain * (self.rate * error).exp()).clamp(LOWEST, HIGHEST)
        committed = torch.stack((new_trace, new_gain, phases + 1))
        return torch.where(elements > 0, committed, self.running_state)

    def apply_state(self, x: Tensor) -> Tensor:
        return x * functional.on_axis_1(self.gain.to(x.dtype), x)

    def extra_repr(self) -> str:
        return (
            f"{self.num_features}, rate={self.rate:g}, target={self.target:g}, "
            f"momentum={self.momentum:g}"
        )
