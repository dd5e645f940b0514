"""Policy classes with normalizers in actor and critic, for SAC, TD3, DDPG, TQC and CrossQ.

The hidden layers of the critic take observation and action together, so Q is a nonlinear function of
both (with ``policy_kwargs()`` it would be linear in the action).

Normalizers observe only the inputs of the network's own update. The actor observes the replayed
observations of its update, not the next observations for which the critic's target computes actions
(see :class:`rn_rl.policies.layers.Hidden`). The critic observes the replayed pairs of its update, not
the actions that the actor's update evaluates. CrossQ's critic has no target and is given the replayed
pairs and the next ones in one batch: it observes both halves.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from gymnasium import spaces
from sb3_contrib.crossq import policies as crossq
from sb3_contrib.tqc import policies as tqc
from stable_baselines3.common.policies import ContinuousCritic
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.sac import policies as sac
from stable_baselines3.td3 import policies as td3
from torch import Tensor, nn

from rn_rl.errors import UserError
from rn_rl.normalization import unobserved
from rn_rl.policies.nets import hidden_layers, net_of
from rn_rl.policies.norm_policy import (
    NormNetworkMixin,
    NormPolicyMixin,
    TrainingExtractorMixin,
    copy_state,
    freeze_normalizers,
    with_value_norm,
)


class NormCriticMixin(TrainingExtractorMixin):
    """Critic whose normalizers observe its own updates, and not those of the actor.

    In the actor's update the action carries a gradient; in the critic's it does not.
    """

    q_networks: list[Any]

    def normalize(
        self,
        norm: str,
        widths: Sequence[int],
        first: int,
        net: str = "mlp",
        value_norm: str = "none",
    ) -> None:
        """Put normalizers into every Q-network; call it before the optimizer is created.

        Args:
            norm: normalizer spec.
            widths: sizes of the hidden layers of one network.
            first: number of the first normalizer in the policy, for recordings.
            net: name of the hidden layers.
            value_norm: normalizer of the output layers.
        """
        for i, network in enumerate(self.q_networks):
            assert isinstance(network, nn.Sequential)
            before = first + i * net_of(net).sites(len(widths))
            layers = hidden_layers(network, net, norm, widths, before)
            self.q_networks[i] = with_value_norm(layers, value_norm)
            setattr(self, f"qf{i}", self.q_networks[i])

    def forward(self, obs: Any, actions: Tensor) -> Any:
        if self.training and actions.requires_grad:
            with unobserved(self):
                return super().forward(obs, actions)
        return super().forward(obs, actions)

    def q1_forward(self, obs: Any, actions: Tensor) -> Tensor:
        """Compute the first network's value, for the update of TD3's actor; observes nothing."""
        with unobserved(self):
            q_value: Tensor = super().q1_forward(obs, actions)  # type: ignore[misc]
        return q_value


class NormContinuousCritic(NormCriticMixin, ContinuousCritic):
    """SB3's critic for SAC and TD3, with normalizers."""


class NormTQCCritic(NormCriticMixin, tqc.Critic):
    """sb3-contrib's critic for TQC, with normalizers."""


class NormCrossQCritic(NormCriticMixin, crossq.CrossQCritic):
    """sb3-contrib's critic for CrossQ, with normalizers."""


class NormSACActor(NormNetworkMixin, sac.Actor):
    """SB3's actor for SAC, with normalizers."""

    hidden = "latent_pi"


class NormTD3Actor(NormNetworkMixin, td3.Actor):
    """SB3's actor for TD3 and DDPG, with normalizers."""

    hidden = "mu"


class NormTQCActor(NormNetworkMixin, tqc.Actor):
    """sb3-contrib's actor for TQC, with normalizers."""

    hidden = "latent_pi"


class NormCrossQActor(NormNetworkMixin, crossq.Actor):
    """sb3-contrib's actor for CrossQ, with normalizers."""

    hidden = "latent_pi"


class NormContinuousMixin(NormPolicyMixin):
    """Build actors and critics with normalizers, and copy their state to target networks at commits.

    SB3 copies running state to the targets inside an update, before the commit that follows it. These
    policies copy it at the commit too, so online and target networks always have the same state.
    """

    actor_class: type[NormNetworkMixin]
    critic_class: type[NormCriticMixin]
    actor_kwargs: dict[str, Any]
    critic_kwargs: dict[str, Any]
    arch_keys = ("pi", "qf")
    takes_popart = False

    def make_actor(self, features_extractor: Any = None) -> Any:
        kwargs = self._update_features_extractor(self.actor_kwargs, features_extractor)
        return self.actor_class(norm=self.norm, **kwargs).to(self.device)

    def make_critic(self, features_extractor: Any = None) -> Any:
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        own = {name: kwargs.pop(name) for name in ("net", "value_norm") if name in kwargs}
        critic = self.critic_class(**kwargs).to(self.device)
        actor_sites = net_of(self.net).sites(len(self.actor_kwargs["net_arch"]))
        critic.normalize(self.norm, kwargs["net_arch"], first=actor_sites, **own)
        return critic

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        for _, target in self.target_pairs():
            freeze_normalizers(target)

    def give_state_to_targets(self) -> None:
        super().give_state_to_targets()
        for online, target in self.target_pairs():
            copy_state(online, target)


class NormSACPolicy(NormContinuousMixin, sac.SACPolicy):
    """SB3's ``SACPolicy`` with normalizers in every hidden layer of actor and critics."""

    actor_class = NormSACActor
    critic_class = NormContinuousCritic
    takes_popart = True


class NormTD3Policy(NormContinuousMixin, td3.TD3Policy):
    """SB3's ``TD3Policy`` (TD3 and DDPG), normalized like :class:`NormSACPolicy`.

    A rising gain (``rn``, ``logt``) lets each optimizer step change the action more, until tanh
    saturates and its gradient vanishes. Two settings avoid that: hidden layers narrower than TD3's
    (256, 256), and ``train_freq=(1, "episode")``, which makes an episode one phase (by default each
    environment step is one), so that the gain rises more slowly.
    """

    actor_class = NormTD3Actor
    critic_class = NormContinuousCritic


class NormTQCPolicy(NormContinuousMixin, tqc.TQCPolicy):
    """sb3-contrib's ``TQCPolicy``, normalized like :class:`NormSACPolicy`."""

    actor_class = NormTQCActor
    critic_class = NormTQCCritic


class NormCrossQPolicy(NormContinuousMixin, crossq.CrossQPolicy):
    """sb3-contrib's ``CrossQPolicy``, normalized like :class:`NormSACPolicy`.

    CrossQ's own batch renormalization before each layer stays, since it is part of the algorithm; its
    state changes inside updates. ``norm="brn", batch_norm=False`` replaces it by batch renormalization
    that obeys the phase rule. A ``net`` other than ``"mlp"`` has no batch renormalization.

    Raises:
        UserError: the observation space is a dict, which sb3-contrib's CrossQ does not support.
    """

    actor_class = NormCrossQActor
    critic_class = NormCrossQCritic

    def __init__(self, observation_space: spaces.Space, *args: Any, **kwargs: Any) -> None:
        if isinstance(observation_space, spaces.Dict):
            raise UserError(
                f"CrossQ on observations {observation_space}: sb3-contrib's CrossQ cannot join dicts; "
                "use SAC or TQC, or flatten them with gymnasium.wrappers.FlattenObservation"
            )
        super().__init__(observation_space, *args, **kwargs)
