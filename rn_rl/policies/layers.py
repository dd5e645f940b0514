"""Insertion of normalizers into a network: between each hidden layer and its activation."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rn_rl.errors import unknown
from rn_rl.normalization import make_normalizers, unobserved

ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
}


def activation(name_or_class: str | type[nn.Module]) -> type[nn.Module]:
    """Return an activation class from the class itself or from its name, as in a YAML file.

    Raises:
        UserError: the name is unknown.
    """
    if isinstance(name_or_class, str):
        return ACTIVATIONS[activation_name(name_or_class)]
    if not callable(name_or_class):
        raise unknown("activation", str(name_or_class), ACTIVATIONS)
    return name_or_class


def activation_name(text: str) -> str:
    """Return the name of an activation, which may be written as its class: ``"torch.nn.ReLU"``.

    Args:
        text: a name of :data:`ACTIVATIONS` in any case, or a class of ``torch.nn``, after ``torch.nn.``,
            ``th.nn.``, ``nn.`` or nothing.

    Raises:
        UserError: there is no such activation.
    """
    written = re.sub(r"^((torch|th)\.)?nn\.", "", text)
    names = {kind.__name__.lower(): name for name, kind in ACTIVATIONS.items()}
    name = names.get(written.lower(), written.lower())
    if name not in ACTIVATIONS:
        raise unknown("activation", written, ACTIVATIONS)
    return name


class Hidden(nn.Sequential):
    """Hidden layers of a policy, whose normalizers observe only forwards that train the policy.

    A training forward under ``no_grad`` trains nothing, so it is not observed: TRPO's line search
    evaluates a step in this way, and SAC computes next actions.
    """

    def forward(self, x: Tensor) -> Tensor:
        if self.training and not torch.is_grad_enabled():
            with unobserved(self):
                return super().forward(x)
        return super().forward(x)

    def apply(self, fn: Callable[[nn.Module], None]) -> Hidden:
        """Apply ``fn``, by which SB3 initializes weights in place, to parametrized weights too."""
        changed: list[Any] = [m for m in self.modules() if parametrize.is_parametrized(m)]
        with parametrize.cached():
            super().apply(fn)
            weights = [m.weight.detach().clone() for m in changed]
        for module, weight in zip(changed, weights, strict=True):
            module.weight = weight
        return self


def normalized(
    layers: nn.Sequential, norm: str, hidden: int | None = None, first: int = 0
) -> Hidden:
    """Insert new normalizers between each hidden layer and its activation.

    The layers keep their weights and their order, so the same seed gives the same initial network with
    every normalizer, and ``"none"`` gives the modules that SB3 built.

    Args:
        layers: the result of ``create_mlp``, or a stack of convolutions (features on axis 1).
        norm: normalizer spec, see :func:`rn_rl.make_normalizers`.
        hidden: number of leading linear or convolutional layers that get normalizers. None: all, but
            not a final layer without an activation.
        first: number of the first of these layers among the hidden layers of a policy, for recordings.

    Returns:
        A new module with the given layers inside.
    """
    modules: list[nn.Module] = []
    children = list(layers)
    count = 0
    for i, module in enumerate(children):
        modules.append(module)
        if not isinstance(module, nn.Linear | nn.Conv2d):
            continue
        if i + 1 < len(children) and (hidden is None or count < hidden):
            width = module.out_features if isinstance(module, nn.Linear) else module.out_channels
            device = module.weight.device
            new = make_normalizers(norm, width, layer=module, index=first + count)
            modules.extend(m.to(device) for m in new)
        count += 1
    return Hidden(*modules)


def flat_size(trunk: nn.Module, shape: tuple[int, ...]) -> int:
    """Number of features that a trunk returns for one observation of this shape."""
    with torch.no_grad():  # so that normalizers observe nothing
        return int(trunk(torch.zeros(1, *shape)).shape[1])
