"""The published gain taken apart: without its gradient, and replayed from another run."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rn_rl.normalization import PublishedRegularityNorm
from rn_rl.normalization.controls import Recording, ScheduleNorm
from rn_rl.normalization.published import gain_and_state


class CutGain(PublishedRegularityNorm):
    """``rn-paper`` whose gain is a constant for the gradient: ``y = stop_gradient(L) x``.

    Its outputs and its state are those of ``rn-paper``, so a difference in learning is an effect of the
    gradient through L.
    """

    def apply_state(self, x: Tensor) -> Tensor:
        moving = (self.training or self.acting) and self.observing and not self.frozen
        real = self.real() if self.training else None
        gain, state = gain_and_state(x.detach(), self.running_state.clone(), moving, real)
        if moving:
            self.running_state.copy_(state)
        return x * gain


def replayed(gains: list[float]) -> ScheduleNorm:
    """Build a normalizer that multiplies by recorded gains, one for each phase; the last one stays."""
    return ScheduleNorm(Recording(torch.tensor(gains, dtype=torch.float64)), "replayed")


@contextlib.contextmanager
def applied_gains(norms: list[list[nn.Module]]) -> Iterator[list[list[float]]]:
    """Record the gain that the normalizers of each layer apply, in every forward inside this context.

    The gain of a forward is ``<x, y> / <x, x>`` for input x and output y of the last normalizer of a
    layer that multiplies by gains: exact for one gain per layer, the mean weighted by ``x**2`` otherwise.

    Args:
        norms: normalizers of each layer.

    Yields:
        A list for each layer that has normalizers, which grows with every forward.
    """
    found: list[list[float]] = []
    hooks = []
    for layer in norms:
        if layer:
            kept: list[float] = []
            found.append(kept)

            def record(m: nn.Module, given: Any, y: Tensor, kept: list[float] = kept) -> None:
                x = given[0].detach().flatten()
                squares = torch.dot(x, x)
                kept.append(float(torch.dot(x, y.detach().flatten()) / squares))

            hooks.append(layer[-1].register_forward_hook(record))
    try:
        yield found
    finally:
        for hook in hooks:
            hook.remove()
