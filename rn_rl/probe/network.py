"""Measures that need the network itself: changes of its weights, and of its outputs on a reference."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rn_rl.normalization import PhaseNorm


class Change:
    """Sizes of the weights of some layers before a phase, and of their change in it.

    Args:
        layers: names, and the number of parameters of each.
        change: norm of the change of each parameter.
        size: norm of each parameter before.
        lost: names of layers whose change is not known.
    """

    def __init__(
        self,
        layers: Sequence[tuple[str, int]],
        change: Sequence[Tensor],
        size: Sequence[Tensor],
        lost: Collection[str],
    ) -> None:
        self._layers, self._change, self._size = layers, change, size
        self._lost = frozenset(lost)

    def by_layer(self) -> dict[str, float]:
        """Return ``|w - w_before| / |w_before|`` by layer; 0 / 0 is NaN."""
        change, size = ([norm.item() for norm in norms] for norms in (self._change, self._size))
        found, first = {}, 0
        for name, count in self._layers:
            own = slice(first, first + count)
            first += count
            whole = math.hypot(*size[own])
            known = whole and name not in self._lost
            found[name] = math.hypot(*change[own]) / whole if known else math.nan
        return found


class Weights:
    """Size of the change of each layer's weights between two phases, relative to the weights.

    Weights of lazy modules are compared from the first phase on that ends after they are made.

    Args:
        layers: names and modules; those without parameters are left out.
    """

    def __init__(self, layers: Sequence[tuple[str, nn.Module]]) -> None:
        named = [(name, list(module.parameters())) for name, module in layers]
        self._waiting = [(name, parameters) for name, parameters in named if parameters]
        self._layers: list[tuple[str, int]] = []
        self._parameters: list[Tensor] = []
        self._before: list[Tensor] = []
        self._add_made()

    def _add_made(self) -> None:
        """Compare the weights of layers from now on whose weights are made."""
        later = []
        for name, parameters in self._waiting:
            if any(is_lazy(p) for p in parameters):
                later.append((name, parameters))
                continue
            self._layers = [*self._layers, (name, len(parameters))]
            self._parameters += parameters
            self._before += [p.detach().clone() for p in parameters]
        self._waiting = later

    @torch.no_grad()
    def measure(self, lost: Collection[str] = ()) -> Change:
        """Compare the weights with those of the last call.

        Args:
            lost: names of layers that are no longer in the network.
        """
        layers, now = self._layers, [p.detach() for p in self._parameters]
        if now:
            # all layers in one call each
            difference: Any = torch._foreach_sub(now, self._before)
            norms: Any = torch._foreach_norm
            change, size = norms(difference), norms(self._before)
            torch._foreach_copy_(self._before, now)
        else:
            change = size = []
        if self._waiting:
            self._add_made()
        return Change(layers, change, size, lost)


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


def mean_gain(norm: PhaseNorm) -> Tensor:
    """Return the mean gain over the codes of a normalizer; most have one code."""
    return norm.gain.detach().mean()
