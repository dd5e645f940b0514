"""Properties of a policy that the engine is told, since it knows nothing about policies."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium import spaces
from torch import nn

from rn_rl.normalization import phase_norms
from rn_rl.policies.extractors import NormExtractor

ELEMENTWISE = (nn.ReLU, nn.Tanh, nn.ELU, nn.GELU, nn.SiLU, nn.LeakyReLU, nn.Sigmoid, nn.Identity)
"""Activations that map each element independently, so that equal inputs have equal outputs."""


def mixing_layer(network: nn.Module) -> str | None:
    """Return the class of a layer whose output of a row depends on other rows or on randomness, or None.

    Those layers of torch are batch normalization and dropout; see :func:`is_row_wise` for our
    normalizers.
    """
    mixing = (nn.modules.batchnorm._BatchNorm, nn.modules.dropout._DropoutNd)
    return next((type(m).__name__ for m in network.modules() if isinstance(m, mixing)), None)


def is_row_wise(network: nn.Module) -> bool:
    """Return True if a row's output and gradient depend on that row and the weights alone.

    Equal rows of a minibatch may then pass through the network once.
    """
    norms = phase_norms(network).values()
    mixes = mixing_layer(network) is not None
    return not mixes and not any(norm.depends_on_batch for norm in norms)


def is_row_wise_before_lstm(policy: Any) -> bool:
    """Return True if equal rows may pass once through what comes before a recurrent policy's LSTM.

    Normalizers there would have to observe each unique row as often as it occurs outside of the padding
    of sequences, which deduplication does not count.
    """
    return not phase_norms(policy.pi_features_extractor)


def repeats_observations(space: spaces.Space) -> bool:
    """Return True if equal observations are likely: those of integers, such as images of a gridworld."""
    return np.issubdtype(space.dtype, np.integer)


def acts_without_effect(policy: Any) -> bool:
    """Return True if acting leaves the state of the normalizers unchanged, so that it can be cached."""
    return not getattr(policy, "acting_observes", False)


def convolutions(network: nn.Module) -> list[nn.Conv2d]:
    """Return the convolutions that a network begins with, if patches of images can be deduplicated.

    That takes a :class:`~rn_rl.policies.extractors.NormExtractor` that actor and critic share, whose
    trunk has only elementwise activations between convolutions without padding, dilation and groups.

    Returns:
        The convolutions in their order; an empty list for any other network.
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


def first_dense_weights(policy: Any) -> list[str]:
    """Return the names of the weights of the dense layers that read the output of the convolutions.

    Args:
        policy: actor-critic policy; its extractor's head reads the convolutions, or else the first layers
            of actor and critic do.
    """
    extractor = policy.features_extractor
    head: Any = extractor.head if isinstance(extractor, NormExtractor) else ()
    nets = {"features_extractor.head": head}
    if not len(head):
        heads = policy.mlp_extractor
        nets = {f"mlp_extractor.{x}": getattr(heads, x) for x in ("policy_net", "value_net")}
    begins = {name: next(net.children(), None) for name, net in nets.items()}
    return [f"{name}.0.weight" for name, layer in begins.items() if type(layer) is nn.Linear]
