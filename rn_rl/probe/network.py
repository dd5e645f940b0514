"""Measures that need the network itself: changes of its weights, and of its outputs on a reference."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rn_rl.normalization import PhaseNorm


class Weights:
    """Size of the change of each layer's weights between two phases, relative to the weights.

    Args:
        layers: names and modules; those without parameters are left out.
    """

    def __init__(self, layers: Sequence[tuple[str, nn.Module]]) -> None:
        named = [(name, list(module.parameters())) for name, module in layers]
        self._layers = [(name, len(parameters)) for name, parameters in named if parameters]
        self._parameters = [p for _, parameters in named for p in parameters]
        self._before = [p.detach().clone() for p in self._parameters]
        self._sizes: tuple[list[Tensor], list[Tensor]] | None = None

    @torch.no_grad()
    def measure(self) -> None:
        """Compare the weights with those of the last call."""
        now = [p.detach() for p in self._parameters]
        if not now:
            return
        # all layers in one call each
        change: Any = torch._foreach_sub(now, self._before)
        norms: Any = torch._foreach_norm
        self._sizes = norms(change), norms(self._before)
        torch._foreach_copy_(self._before, now)

    def changes(self) -> dict[str, float]:
        """Return ``|w - w_before| / |w_before|`` by layer; 0 / 0 is NaN."""
        if self._sizes is None:
            return {}
        change, size = ([norm.item() for norm in norms] for norms in self._sizes)
        found, first = {}, 0
        for name, count in self._layers:
            own = slice(first, first + count)
            first += count
            whole = math.hypot(*size[own])
            found[name] = math.hypot(*change[own]) / whole if whole else math.nan
        return found


@contextlib.contextmanager
def evaluated(network: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradient inside this context; afterwards all modes are as before.

    Modes are set without calling ``eval()``, which commits normalizers. Random numbers that the network
    draws inside are drawn again afterwards.
    """
    modes = [(module, module.training) for module in network.modules()]
    devices = {p.device for p in network.parameters() if p.device.type == "cuda"}
    with torch.no_grad(), torch.random.fork_rng(devices=list(devices)):
        for module, _ in modes:
            module.training = False
        try:
            yield
        finally:
            for module, training in modes:
                module.training = training


def churn_of(before: Tensor, now: Tensor) -> float:
    """Change of outputs on equal inputs: ``|y - y_before| / |y_before - mean|``; NaN if shapes differ."""
    if before.shape != now.shape:
        return float("nan")
    spread = (before.double() - before.double().mean(0)).norm()
    change = (now.double() - before.double()).norm()
    return float(change / spread) if spread > 0 else float("nan")


def versions(parameters: Iterable[Tensor]) -> int:
    """Return a number that changes when one of the parameters is written to."""
    return sum(0 if p.is_inference() else p._version for p in parameters)


def mean_gain(norm: PhaseNorm) -> float:
    """Return the mean gain over the codes of a normalizer; most have one code."""
    gain = norm.gain
    return float(gain.item() if gain.numel() == 1 else gain.mean())
