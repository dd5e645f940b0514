"""Base class of the Norm policies: SB3 policy classes that take ``norm=``.

They have the networks of SB3's policies, with the same initial weights for the same seed. All arguments
are plain values, so a YAML file can give them: ``policy: rn_rl.policies.NormDQNPolicy``,
``policy_kwargs: {norm: rn}``.
"""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.policies import BaseModel, BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from rn_rl.normalization import parse_spec, phase_norms
from rn_rl.policies.extractors import extractor_class
from rn_rl.policies.layers import activation, normalized


class NormPolicyMixin(BasePolicy):
    """Arguments ``norm``, ``features`` and ``trunk_norm`` of a policy class; activations by name.

    Args:
        observation_space: see SB3.
        action_space: see SB3.
        lr_schedule: see SB3.
        args: further positional arguments of SB3's policy.
        norm: normalizer spec for every hidden layer, see :func:`rn_rl.make_normalizers`.
        features: the trunk before the hidden layers: ``"auto"`` (by the observation space),
            ``"mlp"``, ``"minigrid"``, ``"nature"`` or ``"dict"``.
        trunk_norm: normalizer spec for the convolutions of the trunk.
        activation_fn: class or name of the activation; None: SB3's default.
        kwargs: further arguments of SB3's policy.

    Raises:
        UserError: the name of a normalizer, activation or extractor is unknown.
    """

    norm: str

    def __init__(
        self,
        observation_space: spaces.Space,
        action_space: spaces.Space,
        lr_schedule: Schedule,
        *args: Any,
        norm: str = "none",
        features: str = "auto",
        trunk_norm: str = "none",
        activation_fn: str | type[nn.Module] | None = None,
        **kwargs: Any,
    ) -> None:
        parse_spec(norm)
        if "features_extractor_class" not in kwargs:
            kwargs["features_extractor_class"] = extractor_class(features, observation_space)
            given = kwargs.get("features_extractor_kwargs") or {}
            kwargs["features_extractor_kwargs"] = {
                "net_arch": [],
                "trunk_norm": trunk_norm,
                **({"norm": norm} if "features_dim" in given else {}),  # a hidden layer
                **given,
            }
        if kwargs.get("net_arch", "absent") is None:
            del kwargs["net_arch"]
        if activation_fn is not None:
            kwargs["activation_fn"] = activation(activation_fn)
        if features == "minigrid":
            kwargs.setdefault("normalize_images", False)
        object.__setattr__(
            self, "norm", norm
        )  # before nn.Module exists, and before _build needs it
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._get_constructor_parameters()
        return {**parameters, "norm": self.norm}


class NormNetworkMixin(BaseModel):
    """Network of a policy with normalizers in its hidden layers; its own ``save`` and ``load`` know them.

    Args:
        args: see the network of SB3 or sb3-contrib.
        norm: normalizer spec for every hidden layer.
        kwargs: see the network of SB3 or sb3-contrib.
    """

    norm: str
    hidden: str
    """Name of the attribute with the layers, set by each class."""
    net_arch: list[int]

    def __init__(self, *args: Any, norm: str = "none", **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.norm = norm
        layers = normalized(getattr(self, self.hidden), norm, len(self.net_arch))
        setattr(self, self.hidden, layers)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._get_constructor_parameters()
        return {**parameters, "norm": self.norm}


def freeze_normalizers(target: nn.Module) -> None:
    """Freeze the normalizers of a target network: their state is only ever copied from the online one."""
    for norm in phase_norms(target).values():
        norm.freeze()


@torch.no_grad()
def copy_state(online: nn.Module, target: nn.Module) -> None:
    """Copy the normalizer state of an online network to its target, in place."""
    for source, copy in zip(
        phase_norms(online).values(), phase_norms(target).values(), strict=True
    ):
        copy.running_state.copy_(source.running_state)
