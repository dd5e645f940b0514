"""Norm policy for ARS."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from sb3_contrib.ars.policies import ARSPolicy
from torch import nn

from rn_rl.normalization import parse_spec
from rn_rl.policies.layers import activation, normalized


class NormARSPolicy(ARSPolicy):
    """sb3-contrib's ``ARSPolicy`` with normalizers in every hidden layer.

    ARS searches at random and never trains by gradient, so there is no training forward to observe
    and no phase that ends: normalizers with state stay as they began (a gain of 1). Those without
    state (``ln``, ``rms``, ``gn``) act as everywhere.

    Args:
        norm: a spec, see :func:`rn_rl.make_normalizers`.
        activation_fn: class or name.
        kwargs: see sb3-contrib.
    """

    norm: str

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        norm: str = "none",
        activation_fn: str | type[nn.Module] = nn.ReLU,
        **kwargs: Any,
    ) -> None:
        parse_spec(norm)
        kind = activation(activation_fn)
        super().__init__(observation_space, action_space, activation_fn=kind, **kwargs)
        self.norm = norm
        self.action_net = normalized(self.action_net, norm, len(self.net_arch))

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {**super()._get_constructor_parameters(), "norm": self.norm}
