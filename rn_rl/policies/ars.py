"""Policy class with normalizers for ARS."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from sb3_contrib.ars.policies import ARSPolicy
from torch import nn

from rn_rl.normalization import parse_spec
from rn_rl.policies.layers import activation, normalized


class NormARSPolicy(ARSPolicy):
    """sb3-contrib's ``ARSPolicy`` with normalizers in every hidden layer.

    ARS is a random search without gradient steps: there are no training forwards to observe and no
    commits, so normalizers with state keep their initial state (a gain of 1). Those without state
    (``ln``, ``rms``, ``gn``) work as in other algorithms.

    Args:
        observation_space: see sb3-contrib.
        action_space: see sb3-contrib.
        norm: normalizer spec, see :func:`rn_rl.make_normalizers`.
        activation_fn: class or name of the activation.
        kwargs: further arguments of sb3-contrib's policy.

    Raises:
        UserError: ``norm`` or ``activation_fn`` is unknown.
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
