"""Where normalizers go in a network: between a hidden layer and its activation."""

from __future__ import annotations

import torch
from torch import nn

from rn_rl.errors import unknown
from rn_rl.normalization import make_normalizers

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}


def activation(name_or_class: str | type[nn.Module]) -> type[nn.Module]:
    """An activation class from its class, or from its name, which is what YAML can hold."""
    if isinstance(name_or_class, str):
        if name_or_class.lower() not in ACTIVATIONS:
            raise unknown("activation", name_or_class, ACTIVATIONS)
        return ACTIVATIONS[name_or_class.lower()]
    return name_or_class


def normalized(layers: nn.Sequential, norm: str) -> nn.Sequential:
    """The same layers with new normalizers after each linear layer that an activation follows.

    The layers keep their weights and their order, so the same seed gives the same initial network
    whatever the normalizer, and ``"none"`` gives the very modules that SB3 built.

    Args:
        layers: what ``create_mlp`` makes; its output layer, which has no activation, stays plain.
        norm: a spec, see :func:`rn_rl.make_normalizers`.
    """
    modules: list[nn.Module] = []
    children = list(layers)
    for i, module in enumerate(children):
        modules.append(module)
        if isinstance(module, nn.Linear) and i + 1 < len(children):
            new = make_normalizers(norm, module.out_features)
            modules.extend(m.to(module.weight.device) for m in new)
    return nn.Sequential(*modules)


def flat_size(trunk: nn.Module, shape: tuple[int, ...]) -> int:
    """Number of features that a trunk makes of one observation of this shape."""
    with torch.no_grad():
        return int(trunk(torch.zeros(1, *shape)).shape[1])
