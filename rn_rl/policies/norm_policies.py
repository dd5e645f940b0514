"""Policy classes that take ``norm=`` and put the normalizer in every hidden layer.

Same networks as SB3's own policies, same initial weights for the same seed; plain values only, so a
YAML file can name them: ``policy: rn_rl.policies.NormDQNPolicy``, ``policy_kwargs: {norm: rn}``.
"""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn

from rn_rl.normalization import parse_spec, phase_norms
from rn_rl.policies.extractors import extractor_class
from rn_rl.policies.layers import activation, normalized


class NormPolicyMixin(BasePolicy):
    """What all Norm policies share: ``norm``, ``features`` and activations by name.

    Args:
        norm: a spec, see :func:`rn_rl.make_normalizers`.
        features: the trunk before the hidden layers: ``"auto"`` (by the observation space),
            ``"mlp"``, ``"minigrid"``, ``"nature"`` or ``"dict"``.
        activation_fn: class or name.
        kwargs: SB3's own, see its policy of the same kind.
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
        activation_fn: str | type[nn.Module] | None = None,
        **kwargs: Any,
    ) -> None:
        parse_spec(norm)
        if "features_extractor_class" not in kwargs:
            kwargs["features_extractor_class"] = extractor_class(features, observation_space)
            kwargs["features_extractor_kwargs"] = {"net_arch": []}
        if kwargs.get("net_arch", "absent") is None:
            del kwargs["net_arch"]
        if activation_fn is not None:
            kwargs["activation_fn"] = activation(activation_fn)
        if features == "minigrid":
            kwargs.setdefault("normalize_images", False)
        object.__setattr__(self, "norm", norm)  # before nn.Module exists, and before _build needs it
        super().__init__(observation_space, action_space, lr_schedule, *args, **kwargs)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._get_constructor_parameters()
        return {**parameters, "norm": self.norm}


class NormDQNPolicy(NormPolicyMixin, DQNPolicy):
    """SB3's ``DQNPolicy`` with normalizers in every hidden layer of the Q-network.

    The target network's normalizers are frozen: they take the online network's state at target
    updates and from nowhere else, also when somebody calls ``policy.train()``.
    """

    def make_q_net(self) -> QNetwork:
        q_net = super().make_q_net()
        q_net.q_net = normalized(q_net.q_net, self.norm)
        return q_net

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        for norm in phase_norms(self.q_net_target).values():
            norm.freeze()


class NormActorCriticPolicy(NormPolicyMixin, ActorCriticPolicy):
    """SB3's ``ActorCriticPolicy`` with normalizers in every hidden layer of actor and critic.

    As in SB3, actor and critic share the trunk (``share_features_extractor``) and have separate
    hidden layers (``net_arch``).
    """

    def _build_mlp_extractor(self) -> None:
        super()._build_mlp_extractor()
        self.mlp_extractor.policy_net = normalized(self.mlp_extractor.policy_net, self.norm)
        self.mlp_extractor.value_net = normalized(self.mlp_extractor.value_net, self.norm)
