"""Forward hooks that copies and pickles of a network do not take along."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from rn_rl.probe.sites import Site


def inert(*_: Any, **__: Any) -> None:
    """Take the place of a hook in a copy of a network: observe nothing."""


def no_hook() -> Callable[..., None]:
    """Return :func:`inert`; a pickle of a network with hooks calls it."""
    return inert


class Hook:
    """Callable that observes one layer; a copy or pickle of it is :func:`inert`.

    Args:
        see: function that is called with ``about`` and the arguments of the hook without the module.
        about: the first argument.
        follow: a deep copy observes too.
    """

    def __init__(self, see: Callable[..., None], about: Any, follow: bool = False) -> None:
        self.see, self.about, self.follow = see, about, follow

    # a graph break under torch.compile; unlike torch.compiler.disable it does not import the compiler
    @torch._disable_dynamo
    def __call__(self, module: nn.Module, *args: Any) -> None:
        self.see(self.about, *args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return self if self.follow else inert

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return no_hook, ()


class Hooks:
    """The hooks of a probe.

    Parts of ``nn.TransformerEncoderLayer`` are observed by one hook for all modules of the process:
    with a hook of its own, such a layer would not take its fused path in evaluation mode, and would
    round differently.

    Args:
        see: called as ``see(site, inputs, output)`` after each forward of a site.
        forward: called with the network before each forward of it.
        sites: layers to observe.
        network: the network.
        follow: deep copies of the network are observed too.
    """

    def __init__(
        self,
        see: Callable[..., None],
        forward: Callable[[nn.Module], None],
        sites: Sequence[Site],
        network: nn.Module,
        follow: bool = False,
    ) -> None:
        self._fused = {id(site.module): site for site in sites if site.fused}
        self._handles = [
            site.module.register_forward_hook(Hook(see, site, follow))
            for site in sites
            if not site.fused
        ]
        if self._fused:
            self._see = see
            self._handles.append(nn.modules.module.register_module_forward_hook(self._see_fused))
        if not isinstance(network, nn.TransformerEncoderLayer):
            before = Hook(lambda *_: forward(network), None, follow)
            self._handles.append(network.register_forward_pre_hook(before))

    @torch._disable_dynamo
    def _see_fused(self, module: nn.Module, inputs: Any, output: Any) -> None:
        site = self._fused.get(id(module))
        if site is not None:
            self._see(site, inputs, output)

    @classmethod
    def none(cls) -> Hooks:
        """No hooks, for a probe that is detached."""
        empty = cls.__new__(cls)
        empty._handles, empty._fused = [], {}
        return empty

    def remove(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
