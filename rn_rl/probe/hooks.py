"""Forward hooks that do nothing in copies and pickles of a network."""

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
        owner: the hooks that it is one of.
        see: function that is called with ``about`` and the arguments of the hook without the module.
        about: the first argument.
    """

    def __init__(self, owner: Hooks, see: Callable[..., None], about: Any) -> None:
        self.owner, self.see, self.about = owner, see, about

    def __call__(self, module: nn.Module, *args: Any) -> None:
        if torch.compiler.is_compiling():
            self._compiled(*args)
        else:
            self.see(self.about, *args)

    # a graph break under torch.compile; unlike torch.compiler.disable it does not import the compiler
    @torch._disable_dynamo
    def _compiled(self, *args: Any) -> None:
        self.owner.pinned = True
        self.see(self.about, *args)

    def __deepcopy__(self, memo: dict[int, Any]) -> Callable[..., None]:
        return self if self.owner.follow else inert

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[()]]:
        return no_hook, ()


class Hooks:
    """The hooks of a probe, which are detached while nothing is observed: so it costs nothing then.

    They keep their places among the hooks of others, whose order does not change.

    Parts of ``nn.TransformerEncoderLayer`` are observed by one hook for all modules of the process:
    with a hook of its own, such a layer would not take its fused path in evaluation mode, and would
    round differently.

    Args:
        see: called as ``see(site, inputs, keywords, output)`` after each forward of a site.
        forward: called with the network before each forward of it.
        sites: layers to observe.
        network: the network.
        follow: deep copies of the network are observed too.

    Attributes:
        pinned: the hooks are never detached: code that ``torch.compile`` made calls those that it
            found, and a copy has those that were attached when it was made.
    """

    def __init__(
        self,
        see: Callable[..., None],
        forward: Callable[[nn.Module], None],
        sites: Sequence[Site],
        network: nn.Module,
        follow: bool = False,
    ) -> None:
        self.follow = self.pinned = follow
        self._see = see
        self._fused = {id(site.module): site for site in sites if site.fused}
        self._handles = [
            site.module.register_forward_hook(Hook(self, see, site), with_kwargs=True)
            for site in sites
            if not site.fused
        ]
        if self._fused:
            # without keywords: PyTorch would not forget that this hook had them
            register = nn.modules.module.register_module_forward_hook
            self._handles.append(register(self._see_fused))
        if not isinstance(network, nn.TransformerEncoderLayer):
            before = Hook(self, lambda *_: forward(network), None)
            self._handles.append(network.register_forward_pre_hook(before))
        self._places: list[Place] = []
        for handle in self._handles:
            registered: Any = handle.hooks_dict_ref()
            self._places.append(Place(registered, handle.id))
        self._attached = True

    @torch._disable_dynamo
    def _see_fused(self, module: nn.Module, inputs: Any, output: Any) -> None:
        site = self._fused.get(id(module))
        if site is not None:
            self._see(site, inputs, {}, output)

    @classmethod
    def none(cls) -> Hooks:
        """No hooks, for a probe that is detached."""
        empty = cls.__new__(cls)
        empty._places, empty._handles, empty._fused, empty._attached = [], [], {}, False
        empty.follow = empty.pinned = False
        return empty

    def attach(self, on: bool) -> None:
        """Attach the hooks again, or detach them for a while."""
        if on == self._attached or (self.pinned and not on):
            return
        self._attached = on
        for place in self._places:
            if on:
                place.put()
            else:
                place.take()

    def remove(self) -> None:
        """Remove all hooks."""
        self.pinned = self._attached = False
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._places.clear()


class Place:
    """Place of a hook among those of a module.

    Args:
        registered: hooks of the module, an ordered dictionary of PyTorch.
        key: key of the hook in it.
    """

    def __init__(self, registered: Any, key: int) -> None:
        self.registered, self.key, self.hook = registered, key, registered[key]
        self._before: set[int] = set()

    def take(self) -> None:
        """Take the hook out, and note which hooks are called before it."""
        if self.key in self.registered:
            keys = list(self.registered)
            self._before = set(keys[: keys.index(self.key)])
            del self.registered[self.key]

    def put(self) -> None:
        """Put the hook back behind those that were called before it."""
        keys = list(self.registered)
        first = max((i + 1 for i, key in enumerate(keys) if key in self._before), default=0)
        self.registered[self.key] = self.hook
        for key in keys[first:]:
            self.registered.move_to_end(key)
