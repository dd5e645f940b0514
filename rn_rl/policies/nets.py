"""Networks of recent papers as hidden layers of the Norm policies: SimBa, SimbaV2 and BroNet.

Each network replaces the hidden layers between the features of an observation and the output layer. Its
``net_arch`` has one number for each residual block, the width, which is the same for all: ``[512, 512]``
is two blocks of width 512. Any normalizer may stand in for the LayerNorm of SimBa and BroNet; in SimbaV2,
which has none, it stands before the activation.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rn_rl.errors import UserError, unknown
from rn_rl.normalization import make_normalizers, parse_spec
from rn_rl.normalization.projection import UnitRows
from rn_rl.policies.layers import Hidden, normalized


class Body(nn.Module):
    """Residual blocks of a network, with the initialization of its paper instead of SB3's.

    Subclasses implement ``__init__(inputs, widths, norm, activation, first)`` and ``forward``.
    """

    def apply(self, fn: Callable[[nn.Module], None]) -> Body:
        """Apply ``fn`` to all modules, unless it is SB3's initialization of weights."""
        if getattr(fn, "func", fn) is not BasePolicy.init_weights:
            super().apply(fn)
        return self


def linear(inputs: int, outputs: int, initialize: Callable[[Tensor], Any]) -> nn.Linear:
    """Make a linear layer with this initialization of its weight and a bias of 0."""
    layer = nn.Linear(inputs, outputs)
    initialize(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer


def orthogonal_relu(weight: Tensor) -> None:
    """Initialize orthogonally with gain ``sqrt(2)``."""
    nn.init.orthogonal_(weight, math.sqrt(2))


def he_normal(weight: Tensor) -> None:
    """Initialize with normal numbers of variance ``2 / inputs``."""
    nn.init.kaiming_normal_(weight, nonlinearity="relu")


class SimbaBlock(nn.Module):
    """``h + W2 relu(W1 norm(h))`` with 4 times the width in between."""

    def __init__(
        self,
        width: int,
        norm: str,
        activation: Callable[[], nn.Module],
        index: int,
        expansion: int = 4,
    ) -> None:
        super().__init__()
        wide = linear(width, expansion * width, he_normal)
        # wn and spectral change the weights of the layer that the normalizer feeds
        before = make_normalizers(norm, width, layer=wide, index=index)
        narrow = linear(expansion * width, width, he_normal)
        self.branch = nn.Sequential(*before, wide, activation(), narrow)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = x + self.branch(x)
        return residual


class Simba(Body):
    """SimBa: ``x = W0 o``, then blocks ``x + W2 relu(W1 LN(x))``, then LN.

    Observations are standardized by running statistics before (``obs_norm="rsnorm"``, the default with
    this network).

    Args:
        inputs: number of features.
        widths: one width for each block, all equal.
        norm: normalizer spec in place of LayerNorm.
        activation: class of the activation, or a function that returns one.
        first: number of the first normalizer among those of the policy, for recordings.

    Source: Lee et al., arXiv 2410.09754, 2024; layers and initialization as in the authors' code
    (SonyResearch/simba, ``networks/layers.py`` and ``sac_network.py``), but that flax's He initialization
    truncates its normal numbers. The authors decay all parameters by AdamW; here matrices alone.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        norm: str,
        activation: Callable[[], nn.Module],
        first: int = 0,
    ) -> None:
        super().__init__()
        width = widths[0]
        self.embed = linear(inputs, width, nn.init.orthogonal_)
        self.blocks = nn.Sequential(
            *(SimbaBlock(width, norm, activation, first + i) for i in range(len(widths)))
        )
        last = make_normalizers(without_weights(norm), width, index=first + len(widths))
        self.norm = nn.Sequential(*last)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.norm(self.blocks(self.embed(x)))
        return found


class BroBlock(nn.Module):
    """``x + norm(W2 relu(norm(W1 x)))``."""

    def __init__(
        self, width: int, norm: str, activation: Callable[[], nn.Module], index: int
    ) -> None:
        super().__init__()
        up, down = (linear(width, width, orthogonal_relu) for _ in range(2))
        self.branch = nn.Sequential(
            up,
            *make_normalizers(norm, width, layer=up, index=index),
            activation(),
            down,
            *make_normalizers(norm, width, layer=down, index=index + 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = x + self.branch(x)
        return residual


class BroNet(Body):
    """BroNet: Linear, LN, ReLU, then residual blocks of Linear, LN, ReLU, Linear, LN.

    Arguments are those of :class:`Simba`.

    Source: Nauman et al., arXiv 2405.16158, 2024; layers and initialization as in the authors' code
    (naumix/BiggerRegularizedOptimistic, ``jaxrl/networks/common.py``), whose AdamW has optax's default
    decay of 1e-4 for all parameters; here matrices alone.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        norm: str,
        activation: Callable[[], nn.Module],
        first: int = 0,
    ) -> None:
        super().__init__()
        width = widths[0]
        embed = linear(inputs, width, orthogonal_relu)
        self.embed = nn.Sequential(
            embed, *make_normalizers(norm, width, layer=embed, index=first), activation()
        )
        self.blocks = nn.Sequential(
            *(BroBlock(width, norm, activation, first + 1 + 2 * i) for i in range(len(widths)))
        )

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.blocks(self.embed(x))
        return found


EPS = 1e-8
"""Smallest norm to divide by, and what SimbaV2 adds after an activation."""


def unit(x: Tensor) -> Tensor:
    """Divide each row by its length."""
    return x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=EPS)


class Scaler(nn.Module):
    """``y = s * (initial / scale) * x``, elementwise, with s learned from an initial value ``scale``.

    The ratio of the two sets how fast the factor moves beside the other weights.
    """

    def __init__(self, width: int, initial: float, scale: float) -> None:
        super().__init__()
        self.scaler = nn.Parameter(torch.full((width,), float(scale)))
        self.ratio = initial / scale

    def forward(self, x: Tensor) -> Tensor:
        return self.scaler * self.ratio * x


class SimbaV2Block(nn.Module):
    """``l2(x + a * (l2(W2 relu(s * W1 x)) - x))``, with learned a and s."""

    def __init__(
        self,
        width: int,
        blocks: int,
        norm: str,
        activation: Callable[[], nn.Module],
        index: int,
        expansion: int = 4,
    ) -> None:
        super().__init__()
        wide = expansion * width
        scale = math.sqrt(2 / width) / math.sqrt(expansion)
        self.up = UnitRows(width, wide, bias=False)
        self.scale = Scaler(wide, scale, scale)
        self.norm = nn.Sequential(*make_normalizers(norm, wide, index=index))
        self.activation = activation()
        self.down = UnitRows(wide, width, bias=False)
        self.alpha = Scaler(width, 1 / (blocks + 1), 1 / math.sqrt(width))

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.activation(self.norm(self.scale(self.up(x)))) + EPS
        return unit(x + self.alpha(unit(self.down(hidden)) - x))


class SimbaV2(Body):
    """SimbaV2: ``x = l2(s * W0 l2([o, 3]))``, then blocks ``l2(x + a * (l2(W2 relu(s * W1 x)) - x))``.

    Features and the rows of weights have length 1; the rows are projected back to it after each optimizer
    step. Output layers become ``W2 (s * W1 x) + b``, see :func:`simbav2_head`.

    The paper's distributional critic and its scaling of rewards belong to its algorithm, a variant of
    SAC, and are left out: this is the network alone. Arguments are those of :class:`Simba`.

    Source: Lee et al., arXiv 2502.15280, 2025; layers, initial values and projection as in the authors'
    code (``scale_rl/agents/simbaV2``, read in a public copy) and in SBX's version of it.
    """

    def __init__(
        self,
        inputs: int,
        widths: Sequence[int],
        norm: str,
        activation: Callable[[], nn.Module],
        first: int = 0,
    ) -> None:
        super().__init__()
        width, count = widths[0], len(widths)
        scale = math.sqrt(2 / width)
        self.embed = UnitRows(inputs + 1, width, bias=False)
        self.scale = Scaler(width, scale, scale)
        self.blocks = nn.Sequential(
            *(SimbaV2Block(width, count, norm, activation, first + i) for i in range(count))
        )

    def forward(self, x: Tensor) -> Tensor:
        shifted = unit(F.pad(x, (0, 1), value=3.0))
        found: Tensor = self.blocks(unit(self.scale(self.embed(shifted))))
        return found


class SimbaV2Head(nn.Sequential):
    """Output layer of SimbaV2: ``W2 (s * W1 x) + b`` with rows of length 1."""

    def __init__(self, width: int, outputs: int) -> None:
        scale = math.sqrt(2 / width)
        super().__init__(
            UnitRows(width, width, bias=False),
            Scaler(width, scale, scale),
            UnitRows(width, outputs),
        )


def simbav2_head(module: nn.Module) -> nn.Module:
    """Replace a linear output layer, or the one in a Sequential; return other modules as they are."""
    if isinstance(module, nn.Linear):
        return SimbaV2Head(module.in_features, module.out_features).to(module.weight.device)
    if type(module) is nn.Sequential:
        return nn.Sequential(*map(simbav2_head, module))
    return module


@dataclass(frozen=True)
class Net:
    """One network.

    Attributes:
        body: class of its blocks; None: the hidden layers that SB3 makes.
        summary: description in one line.
        norm: normalizer of its paper.
        obs_norm: normalizer of observations of its paper.
        weight_decay: decay of its paper, None: no AdamW.
        actor: widths of the actor's blocks in the paper.
        critic: widths of the critic's blocks in the paper.
        small: widths of either on a CPU.
        sites: number of places of normalizers for a number of blocks.
        refuses: terms of specs that it has no place for, and why.
        head: replaces output layers.
    """

    body: type[Body] | None
    summary: str
    norm: str = "none"
    obs_norm: str = "none"
    weight_decay: float | None = None
    actor: tuple[int, ...] = ()
    critic: tuple[int, ...] = ()
    small: tuple[int, ...] = ()
    sites: Callable[[int], int] = lambda blocks: blocks
    refuses: tuple[tuple[str, ...], str] = ((), "")
    head: Callable[[nn.Module], nn.Module] | None = None


NETS = {
    "mlp": Net(None, "hidden layers of SB3"),
    "simba": Net(
        Simba, "residual blocks with LayerNorm before each (SimBa)", "ln", "rsnorm", 1e-2,
        actor=(128,), critic=(512, 512), small=(64,), sites=lambda blocks: blocks + 1,
        refuses=(("nap",), "its normalizers follow a sum, not a layer; use mlp or bronet"),
    ),
    "simbav2": Net(
        SimbaV2, "blocks on the unit sphere, rows of weights projected to it (SimbaV2)", "none",
        "rsnorm", None, actor=(128,), critic=(512, 512), small=(64,), head=simbav2_head,
        refuses=(("nap", "wn", "spectral"), "its weights have rows of length 1"),
    ),
    "bronet": Net(
        BroNet, "residual blocks with LayerNorm after each layer (BRO)", "ln", "none", 1e-4,
        actor=(256,), critic=(512, 512), small=(64,), sites=lambda blocks: 2 * blocks + 1,
    ),
}  # fmt: skip
"""All networks by name."""

PRESETS = ("paper", "small")
"""Names of ``net_arch``: the widths of the paper, or those for a CPU."""


def net_of(name: str) -> Net:
    """Look up a network; raise :class:`UserError` for an unknown name."""
    if not isinstance(name, str) or name not in NETS:  # a list, of a YAML file, has no hash
        raise unknown("net", str(name), NETS)
    return NETS[name]


def without_weights(norm: str) -> str:
    """Return the terms of a spec that add a module, so without ``wn``, ``spectral`` and ``nap``."""
    acting = [str(term) for term in parse_spec(norm) if term.row.factory is not None]
    return "+".join(acting) or "none"


def check_norm(name: str, norm: str) -> None:
    """Raise :class:`UserError` if a network has no place for a term of the spec."""
    terms, why = net_of(name).refuses
    for term in parse_spec(norm):
        if term.row.name in terms:
            raise UserError(f"norm {norm!r} in net {name!r}: no {term.row.name} there, since {why}")


def hidden_layers(
    layers: nn.Sequential, net: str, norm: str, widths: Sequence[int], first: int = 0
) -> Hidden:
    """Turn the layers that SB3 built into those of a network, with normalizers.

    Args:
        layers: the result of ``create_mlp``; what follows its hidden layers is kept, for SimbaV2 with
            another head.
        net: name of the network.
        norm: normalizer spec.
        widths: sizes of the hidden layers, for networks other than ``"mlp"`` one for each block.
        first: number of the first normalizer among those of the policy, for recordings.
    """
    found = net_of(net)
    if found.body is None:
        return normalized(layers, norm, len(widths), first)
    children = list(layers)
    at = [i for i, child in enumerate(children) if isinstance(child, nn.Linear)]
    inner = children[at[0]]
    assert isinstance(inner, nn.Linear)
    activation = partial(copy.deepcopy, children[at[0] + 1])  # with its arguments
    body = found.body(inner.in_features, widths, norm, activation, first)
    after = children[at[len(widths)] :] if len(at) > len(widths) else []
    tail = [found.head(child) if found.head else child for child in after]
    return Hidden(body, *tail).to(inner.weight.device)
