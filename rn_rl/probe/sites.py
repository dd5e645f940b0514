"""Sites of a network: the layers whose outputs a probe observes, and the axes of those outputs."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rn_rl.errors import UserError, unknown
from rn_rl.normalization import PhaseNorm
from rn_rl.probe.gates import PARTS

Layers = str | Iterable[str] | Callable[[str, nn.Module], bool] | None

CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    PhaseNorm,
    nn.modules.pooling._MaxPoolNd,
    nn.modules.pooling._AvgPoolNd,
    nn.modules.pooling._LPPoolNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)
"""Modules whose features are on axis 1."""

FEATURES_LAST = (nn.Linear, nn.Bilinear, nn.Embedding, nn.LayerNorm, nn.RMSNorm)
"""Modules whose features are on the last axis; those of others are, or on axis 1 of images."""

_NO_ACTIVATIONS = {"MultiheadAttention", "Softmax", "Softmin", "Softmax2d", "LogSoftmax"}
"""Modules of ``torch.nn.modules.activation`` whose outputs are no activations of units."""

ACTIVATIONS = tuple(
    getattr(nn.modules.activation, name)
    for name in nn.modules.activation.__all__
    if name not in _NO_ACTIVATIONS
)
"""Activation functions."""

POSITIVE = (nn.ReLU, nn.ReLU6, nn.Sigmoid, nn.Softplus, nn.Hardsigmoid)
"""Activation functions that are never below 0."""


@dataclass(frozen=True)
class Site:
    """A layer that is observed.

    Attributes:
        name: dotted name of the module in the network.
        module: the module.
        fused: True inside ``nn.TransformerEncoderLayer``, which computes otherwise in evaluation mode if
            a hook is attached to a part of it.
        has_columns: False for activation functions of which only the units are counted.
        is_sequence: True for ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN``.
        is_cell: True for ``nn.LSTMCell``, ``nn.GRUCell`` and ``nn.RNNCell``.
        is_normalizer: True if both the input and the output of the layer are observed.
        is_activation: True for activation functions.
        input_name: name of the column of a normalizer's input.
        output_name: name of the column of the output.
    """

    name: str
    module: nn.Module
    fused: bool
    has_columns: bool = True
    is_sequence: bool = field(init=False)
    is_cell: bool = field(init=False)
    is_normalizer: bool = field(init=False)
    is_activation: bool = field(init=False)
    input_name: str = field(init=False)
    output_name: str = field(init=False)

    def __post_init__(self) -> None:
        # computed once, since they are read at each call of a layer
        normalizer = is_normalizer(self.module)
        known = {
            "is_sequence": isinstance(self.module, nn.RNNBase),
            "is_cell": isinstance(self.module, nn.RNNCellBase),
            "is_normalizer": normalizer,
            "is_activation": isinstance(self.module, ACTIVATIONS),
            "input_name": f"{self.name}.in",
            "output_name": f"{self.name}.out" if normalizer else self.name,
        }
        for name, value in known.items():
            object.__setattr__(self, name, value)


def is_normalizer(module: nn.Module) -> bool:
    """Return True for normalizers of this library, of PyTorch, and classes that are named so."""
    return isinstance(module, PhaseNorm) or "norm" in type(module).__name__.lower()


def find_sites(network: nn.Module, layers: Layers) -> list[Site]:
    """Find the layers to observe, in the order of ``named_modules``; a shared layer is found once.

    Args:
        network: the network.
        layers: see :class:`rn_rl.probe.CodeLengthProbe`.

    Raises:
        UserError: no such layer, or the network has none to observe.
    """
    if isinstance(layers, Iterable) and (not isinstance(layers, str) or layers != "all"):
        found = _named(network, [layers] if isinstance(layers, str) else list(layers))
    elif layers is None:
        found = [(n, m) for n, m in _leaves(network, "", set()) if observed_by_default(m)]
    elif layers == "all":
        found = list(_leaves(network, "", set()))
    elif callable(layers) and not isinstance(layers, type):
        choose = layers
        found = [(name, m) for name, m in _leaves(network, "", set()) if choose(name, m)]
    else:
        raise UserError(
            f"layers={layers!r}: expected names of layers, 'all', or a function of name and module, such "
            "as lambda name, module: isinstance(module, nn.Linear)"
        )
    if not found:
        scripted = any(isinstance(m, torch.jit.ScriptModule) for m in network.modules())
        raise UserError(
            f"{type(network).__name__} has no layer to observe: expected one with weights, a normalizer, "
            "a recurrent or an attention layer; name others with layers=[...], or all with layers='all'"
            + ("; parts made by torch.jit.script take no hooks" if scripted else "")
        )
    fused = fused_parts(network)
    return [Site(n or type(m).__name__, m, id(m) in fused) for n, m in found]


def _named(network: nn.Module, wanted: list[Any]) -> list[tuple[str, nn.Module]]:
    """Layers by any of their names; raise :class:`UserError` for others."""
    names = dict(network.named_modules(remove_duplicate=False))
    for name in wanted:
        if not isinstance(name, str):
            raise UserError(f"layers: {name!r} is no name; expected some as in named_modules()")
        if name not in names:
            raise unknown("layer", name, [n for n in names if n])
        if isinstance(names[name], torch.jit.ScriptModule):
            raise UserError(
                f"layer {name!r} was made by torch.jit.script, which takes no hooks; probe it before that"
            )
    found: dict[int, tuple[str, nn.Module]] = {}
    for name, module in names.items():
        if name in wanted:
            found.setdefault(id(module), (name, module))
    return list(found.values())


def find_activations(network: nn.Module, sites: Sequence[Site]) -> list[Site]:
    """Find the activation functions that are no sites, by which dead units of the layers are counted."""
    known = {id(site.module) for site in sites} | fused_parts(network)
    return [
        Site(name, module, fused=False, has_columns=False)
        for name, module in network.named_modules()
        if isinstance(module, ACTIVATIONS) and id(module) not in known
    ]


def fused_parts(network: nn.Module) -> set[int]:
    """Return the ids of the parts of each ``nn.TransformerEncoderLayer``."""
    return {
        id(part)
        for module in network.modules()
        if isinstance(module, nn.TransformerEncoderLayer)
        for part in module.modules()
    }


def _leaves(module: nn.Module, name: str, seen: set[int]) -> Iterator[tuple[str, nn.Module]]:
    """Modules that compute by themselves.

    These are modules without children, parts with weights of their own beside children, and recurrent
    layers, attention and normalizers.
    """
    if id(module) in seen or isinstance(module, torch.jit.ScriptModule):
        return
    seen.add(id(module))
    children = [(n, m) for n, m in module.named_children() if n != "parametrizations"]
    blocks = (nn.RNNBase, nn.RNNCellBase, nn.MultiheadAttention)
    if not children or isinstance(module, (*blocks, PhaseNorm)):
        yield name, module
        return
    if name and _has_weights(module):
        yield name, module
    for child, part in children:
        yield from _leaves(part, f"{name}.{child}" if name else child, seen)


def _has_weights(module: nn.Module) -> bool:
    """Return True for modules with parameters that are of none of their children."""
    return any(True for _ in module.parameters(recurse=False))


def observed_by_default(module: nn.Module) -> bool:
    """Return True for layers with weights and normalizers.

    An activation function shows nothing that its input does not.
    """
    parametrized = hasattr(module, "parametrizations")
    attention = isinstance(module, nn.MultiheadAttention)
    return parametrized or _has_weights(module) or attention or is_normalizer(module)


def physical(x: Tensor) -> tuple[Tensor, int]:
    """Take a tensor out of the transforms of ``torch.func``.

    Returns:
        The tensor without gradient, and the number of networks that ``vmap`` stacks on its axis 0; 0
        outside ``vmap``.
    """
    wrapped: Any = torch._C._functorch
    if not wrapped.is_functorch_wrapped_tensor(x):
        return x.detach(), 0
    axes: list[int] = []  # of the innermost vmap first, each among those that it can see
    while wrapped.is_functorch_wrapped_tensor(x):
        if wrapped.is_batchedtensor(x):
            axes.append(wrapped.maybe_get_bdim(x))
        x = wrapped.get_unwrapped(x)
    x = x.detach()
    if not axes:
        return x, 0
    seen = list(range(x.dim()))
    in_front = [seen.pop(axis) for axis in reversed(axes)]
    x = x.permute(*in_front, *seen).flatten(0, len(axes) - 1)
    return x, x.shape[0]


def first_tensor(output: Any) -> Tensor | None:
    """The output of a layer, or the first part of it, if that is a tensor of floating-point numbers.

    Empty ones, as of an expert that got no sample, are none.
    """
    if isinstance(output, tuple | list) and output:
        output = output[0]
    if not isinstance(output, Tensor) or not output.is_floating_point() or output.dim() == 0:
        return None
    return None if is_fake(output) or not output.numel() else output


def is_fake(x: Tensor) -> bool:
    """Return True for a tensor without values, with which a function is traced."""
    return type(x).__name__ in ("FakeTensor", "FunctionalTensor")


def rows_of(x: Tensor, module: nn.Module, stack: int) -> Tensor:
    """Bring an output to ``(networks, 1, rows, features)``; axis 1 is that of time steps.

    Args:
        x: output, ``(batch, features, ...)`` or ``(batch, ..., features)``; under ``vmap`` with a leading
            axis of networks.
        module: layer that computed it.
        stack: number of networks on axis 0; 0 for none.
    """
    if not stack:
        x = x.unsqueeze(0)
    if x.dim() == 2:  # of one sample without an axis of the batch
        x = x.unsqueeze(1)
    x = features_last(x, module)
    return x.reshape(x.shape[0], 1, -1, x.shape[-1])


def features_last(x: Tensor, module: nn.Module) -> Tensor:
    """Bring an output ``(networks, batch, ...)`` to features on the last axis.

    Features are on axis 1 of a batch of images, except for layers that are known to have them on the
    last one, and layers with one weight for each element of the last axis, such as a root mean square
    normalizer of one's own.
    """
    if x.dim() < 4:
        return x
    if not isinstance(module, CHANNELS_FIRST):
        weight = module._parameters.get("weight")  # an attribute may be a parametrization
        one = weight.shape[0] if weight is not None and weight.dim() == 1 else None
        per_element = one is not None and x.shape[2] != one == x.shape[-1]
        if x.dim() < 5 or per_element or isinstance(module, FEATURES_LAST):
            return x
    return x.movedim(2, -1)


def steps_of(x: Tensor, module: nn.RNNBase, stack: int) -> Tensor:
    """Bring the output of a recurrent layer to ``(networks, steps, batch, features)``."""
    if not stack:
        x = x.unsqueeze(0)
    if x.dim() == 3:  # a single sequence
        return x.unsqueeze(2)
    return x.transpose(1, 2) if module.batch_first else x


def packed_steps(packed: PackedSequence) -> list[Tensor]:
    """Rows of each time step of a packed sequence, ``(sequences that last so long, features)``."""
    return list(packed.data.detach().split(packed.batch_sizes.tolist()))


def layer_of(column: str, layers: Collection[str]) -> str:
    """Return the name of the layer of a column: without time step, ``.in``, ``.out`` or a gate.

    Args:
        column: name of the column.
        layers: names of all layers, one of which may end in ``.out`` or a letter of a gate by itself.
    """
    name = column.partition("@")[0]
    head, _, tail = name.rpartition(".")
    known = name not in layers and head in layers
    return head if known and tail in ("in", "out", *PARTS) else name
