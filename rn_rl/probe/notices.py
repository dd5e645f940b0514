"""Warnings of what a probe does not see."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from rn_rl.probe.sites import Site


class Notices:
    """Warn once if the weights change and no layer is called, and once of each layer that is replaced.

    Args:
        network: the network.
        sites: layers that are observed.
        modes: modes in which they are.

    Attributes:
        lost: names of layers that are no longer in the network.
    """

    def __init__(self, network: nn.Module, sites: Sequence[Site], modes: Iterable[str]) -> None:
        self._network, self._sites, self._modes = network, sites, tuple(sorted(modes))
        self.lost: set[str] = set()
        self._links = links_of(network)
        # in evaluation mode, no layer is called by the updates that change the weights
        self._parameters = list(network.parameters()) if "train" in self._modes else []
        self._versions = versions(self._parameters)

    def begin(self) -> None:
        """Note the weights from which on layers are observed."""
        if self._parameters:
            self._versions = versions(self._parameters)

    def end(self, called: bool) -> None:
        """Look at the network at the end of a phase.

        Args:
            called: a layer was called, or nothing was to be observed.
        """
        name = type(self._network).__name__
        if not called and versions(self._parameters) != self._versions:
            self._parameters = []  # once is enough
            self._versions = 0
            warnings.warn(
                f"the probe of {name} observed nothing while the weights changed: attach it before "
                f"torch.compile, and call the layers in a mode of modes={self._modes}",
                stacklevel=3,
            )
        lost = self._newly_lost()
        if lost:
            self.lost.update(lost)
            warnings.warn(
                f"the probe of {name} observes layers that are no longer in it: {', '.join(lost)}; make "
                "a new probe after layers are replaced",
                stacklevel=3,
            )

    def _newly_lost(self) -> list[str]:
        """Names of layers that left the network; searched only if a part of it is another one now."""
        if all(parent._modules.get(name) is part for parent, name, part in self._links):
            return []
        self._links = links_of(self._network)
        here = {id(module) for module in self._network.modules()}
        gone = [site.name for site in self._sites if id(site.module) not in here]
        return [name for name in gone if name not in self.lost]


def links_of(network: nn.Module) -> list[tuple[nn.Module, str, nn.Module | None]]:
    """Each module of a network with the names of its parts, and these."""
    found = [m for m in network.modules() if not isinstance(m, torch.jit.ScriptModule)]
    return [(module, name, part) for module in found for name, part in module._modules.items()]


def versions(parameters: Iterable[Tensor]) -> int:
    """Return a number that changes when one of the parameters is written to."""
    return sum(0 if is_lazy(p) or p.is_inference() else p._version for p in parameters)
