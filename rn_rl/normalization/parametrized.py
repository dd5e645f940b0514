"""Pickling of layers whose weight is parametrized (``wn``, ``spectral``), which torch itself refuses."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize


def make_picklable(layer: nn.Module) -> nn.Module:
    """Let a layer with parametrized weights be pickled, in place.

    torch gives such a layer a class of its own, made at run time, which pickle cannot find by name.

    Args:
        layer: with a parametrization of ``torch.nn.utils.parametrize``.

    Returns:
        The same layer.
    """
    type(layer).__reduce_ex__ = reduce  # type: ignore[method-assign, assignment]
    return layer


def reduce(layer: nn.Module, protocol: Any) -> tuple[Callable[..., nn.Module], tuple[Any, ...]]:
    """Describe a parametrized layer for pickle: the class that torch derived from, and what it holds.

    The hook with which torch's ``weight_norm`` loads state of older versions is left out: it is a local
    function.
    """
    state = dict(layer.__dict__)
    state["_load_state_dict_pre_hooks"] = OrderedDict()
    state["_modules"] = dict(state["_modules"])
    parametrizations = state["_modules"].pop("parametrizations")
    return restore, (type(layer).__mro__[1], state, parametrizations)


def restore(
    cls: type[nn.Module], state: dict[str, Any], parametrizations: nn.ModuleDict
) -> nn.Module:
    """Rebuild a layer from :func:`reduce`, with the stored parametrizations."""
    layer = cls.__new__(cls)
    layer.__setstate__(state)
    for name, stored in parametrizations.items():
        layer.register_parameter(name, nn.Parameter(torch.zeros(1)))
        parametrize.register_parametrization(layer, name, nn.Identity(), unsafe=True)
        chains: Any = layer.parametrizations
        chains[name] = stored
    return make_picklable(layer)
