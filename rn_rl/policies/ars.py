"""Policy class with normalizers for ARS."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from sb3_contrib.ars.policies import ARSPolicy
from torch import nn

from rn_rl.errors import UserError
from rn_rl.normalization import parse_spec
from rn_rl.policies.arch import resolve_arch
from rn_rl.policies.layers import activation
from rn_rl.policies.nets import check_norm, hidden_layers, net_of
from rn_rl.policies.observations import normalize_observations


class NormARSPolicy(ARSPolicy):
    """sb3-contrib's ``ARSPolicy`` with normalizers in every hidden layer.

    ARS is a random search without gradient steps: there are no training forwards to observe and no
    commits, so normalizers with state keep their initial state (a gain of 1). Those without state
    (``ln``, ``rms``, ``gn``) work as in other algorithms.

    Args:
        observation_space: see sb3-contrib.
        action_space: see sb3-contrib.
        norm: normalizer spec, see :func:`rn_rl.make_normalizers`; default: that of the network.
        net: hidden layers: ``"mlp"``, ``"simba"`` or ``"bronet"``, see :mod:`rn_rl.policies.nets`.
        obs_norm: normalizer spec for observations; one with state has nothing to observe here.
        activation_fn: class or name of the activation.
        kwargs: further arguments of sb3-contrib's policy.

    Raises:
        UserError: ``norm``, ``net`` or ``activation_fn`` is unknown or needs gradient steps.
    """

    norm: str
    net: str
    obs_norm: str

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        norm: str | None = None,
        net: str = "mlp",
        obs_norm: str = "none",
        activation_fn: str | type[nn.Module] = nn.ReLU,
        **kwargs: Any,
    ) -> None:
        for name in ("value_norm", "weight_decay", "features", "trunk_norm", "lstm_norm"):
            if name in kwargs:
                raise UserError(
                    f"{name}={kwargs[name]!r} with ARS: it has neither values, gradient steps nor other "
                    "networks than of flat observations; expected norm, net, net_arch or activation_fn"
                )
        norm = net_of(net).norm if norm is None else norm
        parse_spec(norm)
        check_norm(net, norm)
        if any(term.row.projects for term in parse_spec(norm)):
            raise UserError(
                f"norm {norm!r} with ARS: nap scales weights back after gradient steps, and ARS has "
                "none; expected a spec without nap"
            )
        if net_of(net).head is not None:
            raise UserError(
                f"net {net!r} with ARS: its weights are projected after gradient steps, and ARS has "
                "none; expected mlp, simba or bronet"
            )
        if any(term.row.stateful for term in parse_spec(obs_norm)):
            raise UserError(
                f"obs_norm={obs_norm!r} with ARS: it has no gradient steps whose observations count; use "
                "VecNormalize, or --set normalize=true"
            )
        object.__setattr__(self, "obs_norm", obs_norm)  # SB3 makes the extractor at once
        kind = activation(activation_fn)
        kwargs["net_arch"] = resolve_arch(net, kwargs.get("net_arch"), None)
        super().__init__(observation_space, action_space, activation_fn=kind, **kwargs)
        self.norm, self.net = norm, net
        self.action_net = hidden_layers(self.action_net, net, norm, self.net_arch)

    def make_features_extractor(self) -> Any:
        extractor = super().make_features_extractor()
        return normalize_observations(self.observation_space, extractor, self.obs_norm)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        own = {name: getattr(self, name) for name in ("norm", "net", "obs_norm")}
        return {**super()._get_constructor_parameters(), **own}
