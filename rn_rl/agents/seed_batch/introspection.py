"""Properties of a policy that the engine must be told, since it knows no policies."""

from __future__ import annotations

from typing import Any

from torch import nn

from rn_rl.normalization import phase_norms
from rn_rl.policies.extractors import NormExtractor

ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.ELU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Sigmoid, nn.Identity)
"""Activations that treat equal contents equally."""


def looks_at_all_rows(network: nn.Module) -> bool:
    """Whether what torch's own layers answer to a row depends on the others, or on its place."""
    mixing = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    return any(isinstance(module, mixing) for module in network.modules())


def answers_by_row(network: nn.Module) -> bool:
    """Whether a network's answer to a row, and its gradient, depend on that row and weights alone."""
    norms = phase_norms(network).values()
    return not looks_at_all_rows(network) and not any(norm.depends_on_batch for norm in norms)


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    """The convolutions that a network begins with, in their order; none where there is more to it.

    Nothing else may look at the images, and between the convolutions there is nothing but activations.
    """
    extractor = getattr(network, "features_extractor", None)
    if not isinstance(extractor, NormExtractor) or not getattr(
        network, "share_features_extractor", True
    ):
        return []
    parts = list(extractor.trunk.children())
    last = parts.pop() if parts else None
    plain = all(
        isinstance(part, ELEMENTWISE)
        or (
            isinstance(part, nn.Conv2d)
            and part.padding == (0, 0)
            and part.dilation == (1, 1)
            and part.groups == 1
        )
        for part in parts
    )
    if (
        not plain
        or not isinstance(last, nn.Flatten)
        or not parts
        or not isinstance(parts[0], nn.Conv2d)
    ):
        return []
    return [part for part in parts if isinstance(part, nn.Conv2d)]


def first_weights(policy: Any) -> list[str]:
    """Names of the weights that read what comes out of the trunk of an actor-critic policy."""
    head: Any = getattr(policy.features_extractor, "head", ())
    nets = {"features_extractor.head": head}
    if not len(head):
        heads = policy.mlp_extractor
        nets = {f"mlp_extractor.{x}": getattr(heads, x) for x in ("policy_net", "value_net")}
    begins = {name: next(net.children(), None) for name, net in nets.items()}
    return [f"{name}.0.weight" for name, layer in begins.items() if type(layer) is nn.Linear]
