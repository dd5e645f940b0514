"""Norm policies for SAC, TD3, DDPG, TQC and CrossQ: normalizers in actor and critic.

The critic's hidden layers see observation and action together, so Q stays a nonlinear function of
both (through ``policy_kwargs()`` it would be linear in the action).

What the state follows: the actor observes the replayed observations of its own update, not the next
ones that the critic's target asks it about (see :class:`rn_rl.policies.layers.Hidden`); the critic
observes the replayed pairs that it learns from, not the actions about which the actor asks it.
"""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from sb3_contrib.crossq import policies as crossq
from sb3_contrib.tqc import policies as tqc
from stable_baselines3.common.policies import BaseModel, ContinuousCritic
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.sac.policies import SACPolicy
from stable_baselines3.td3.policies import TD3Policy
from torch import Tensor, nn

from rn_rl.errors import UserError
from rn_rl.normalization import unobserved
from rn_rl.policies.layers import normalized
from rn_rl.policies.norm_policy import NormPolicyMixin, copy_state, freeze_normalizers


class NormCriticMixin(BaseModel):
    """A critic that tells what it learns from and what it is only asked about.

    An action that carries a gradient comes from the actor, whose update asks for its value.
    """

    q_networks: list[Any]

    def normalize(self, norm: str, hidden: int, first: int) -> None:
        """Put normalizers into every network, before its optimizer is made."""
        for i, network in enumerate(self.q_networks):
            assert isinstance(network, nn.Sequential)
            self.q_networks[i] = normalized(network, norm, hidden, first + i * hidden)
            setattr(self, f"qf{i}", self.q_networks[i])

    def forward(self, obs: Any, actions: Tensor) -> Any:
        if self.training and actions.requires_grad:
            with unobserved(self):
                return super().forward(obs, actions)
        return super().forward(obs, actions)

    def q1_forward(self, obs: Any, actions: Tensor) -> Tensor:
        """The first network's value, which TD3's actor asks for: never observed."""
        with unobserved(self):
            q_value: Tensor = super().q1_forward(obs, actions)  # type: ignore[misc]
        return q_value


class NormContinuousCritic(NormCriticMixin, ContinuousCritic):
    """SB3's critic of SAC and TD3."""


class NormTQCCritic(NormCriticMixin, tqc.Critic):
    """sb3-contrib's critic of TQC."""


class NormCrossQCritic(NormCriticMixin, crossq.CrossQCritic):
    """sb3-contrib's critic of CrossQ."""


class NormContinuousMixin(NormPolicyMixin):
    """Builds normalized actors and critics, and keeps the state of targets up to date.

    SB3 copies running state to the targets inside an update, that is, before the commit that follows
    it; these policies copy it right at the commit, so online and target networks have the same state
    whenever anybody looks.
    """

    critic_class: type[NormCriticMixin]
    actor_kwargs: dict[str, Any]
    critic_kwargs: dict[str, Any]

    def make_actor(self, features_extractor: Any = None) -> Any:
        actor: Any = super().make_actor(features_extractor)  # type: ignore[misc]
        name = "mu" if isinstance(self, TD3Policy) else "latent_pi"
        layers = normalized(getattr(actor, name), self.norm, len(self.actor_kwargs["net_arch"]))
        setattr(actor, name, layers)
        return actor

    def make_critic(self, features_extractor: Any = None) -> Any:
        kwargs = self._update_features_extractor(self.critic_kwargs, features_extractor)
        critic = self.critic_class(**kwargs).to(self.device)
        actor_depth = len(self.actor_kwargs["net_arch"])
        critic.normalize(self.norm, len(self.critic_kwargs["net_arch"]), first=actor_depth)
        return critic

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)  # type: ignore[misc]
        for _, target in self._pairs():
            freeze_normalizers(target)

    def _pairs(self) -> list[tuple[nn.Module, nn.Module]]:
        """Online networks with their targets."""
        names = [name for name in ("actor", "critic") if hasattr(self, f"{name}_target")]
        return [(getattr(self, name), getattr(self, f"{name}_target")) for name in names]

    def set_training_mode(self, mode: bool) -> None:
        commits = self.training and not mode
        super().set_training_mode(mode)
        if commits:
            for online, target in self._pairs():
                copy_state(online, target)


class NormSACPolicy(NormContinuousMixin, SACPolicy):
    """SB3's ``SACPolicy`` with normalizers in every hidden layer of actor and critics."""

    critic_class = NormContinuousCritic


class NormTD3Policy(NormContinuousMixin, TD3Policy):
    """SB3's ``TD3Policy`` (TD3 and DDPG), normalized like :class:`NormSACPolicy`.

    A gain that rises (``rn``, ``logt``) lets each step of the optimizer move an action further, up to
    where tanh is flat and no gradient comes back. Narrow layers and ``train_freq=(1, "episode")``,
    which makes a phase of an episode so that the gain rises less, learn where TD3's own (256, 256) and
    a phase at each step fail; the README has figures.
    """

    critic_class = NormContinuousCritic


class NormTQCPolicy(NormContinuousMixin, tqc.TQCPolicy):
    """sb3-contrib's ``TQCPolicy``, normalized like :class:`NormSACPolicy`."""

    critic_class = NormTQCCritic


class NormCrossQPolicy(NormContinuousMixin, crossq.CrossQPolicy):
    """sb3-contrib's ``CrossQPolicy``, normalized like :class:`NormSACPolicy`.

    CrossQ's own batch renormalization, before each layer, stays, since it is the algorithm; it moves
    inside updates. ``batch_norm=False`` leaves it out: ``norm="brn", batch_norm=False`` is CrossQ
    with batch renormalization that obeys the phase rule.
    """

    critic_class = NormCrossQCritic

    def __init__(self, observation_space: spaces.Space, *args: Any, **kwargs: Any) -> None:
        if isinstance(observation_space, spaces.Dict):
            raise UserError(
                f"CrossQ on observations {observation_space}: sb3-contrib's CrossQ cannot join dicts; "
                "use SAC or TQC, or flatten them with gymnasium.wrappers.FlattenObservation"
            )
        super().__init__(observation_space, *args, **kwargs)
