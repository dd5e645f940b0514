"""RNPPO: SB3's PPO with normalizers, whose commits are measured and logged."""

from __future__ import annotations

from typing import Any

from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback

from rn_rl.agents._arguments import with_logger, with_norm
from rn_rl.agents.priors import check_actions, priors_in, rollout_priors
from rn_rl.agents.rollouts import TellingDictRolloutBuffer, TellingRolloutBuffer, TellsRows
from rn_rl.errors import UserError
from rn_rl.policies import NormActorCriticPolicy


class RNPPO(PPO):
    """SB3's PPO with normalizers; :class:`~rn_rl.agents.NormalizerLogger` measures their commits.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a
            ``NormActorCriticPolicy``.
        env: as in PPO.
        norm: normalizer spec such as ``"rn"`` or ``"ln+rn"``; also ``"sn(prior=td)"`` and the other
            priors of :mod:`rn_rl.agents.priors`, in updates only.
        kwargs: as in PPO.

    Raises:
        UserError: an unknown normalizer, or a policy that does not take ``norm=``; a rollout buffer of
            another kind together with a named prior; ``prior=action`` with continuous actions.
    """

    def __init__(
        self, policy: str | type[BasePolicy], env: Any, norm: str = "rn", **kwargs: Any
    ) -> None:
        self.norm = norm
        norm_policy, kwargs["policy_kwargs"] = with_norm(
            policy, NormActorCriticPolicy, norm, kwargs.get("policy_kwargs")
        )
        super().__init__(norm_policy, env, **kwargs)

    def _setup_model(self) -> None:
        terms = priors_in(self.policy_kwargs)
        check_actions(terms, self.action_space)
        if terms:
            dict_space = isinstance(self.observation_space, spaces.Dict)
            usual = TellingDictRolloutBuffer if dict_space else TellingRolloutBuffer
            kind = self.rollout_buffer_class or usual
            if not issubclass(kind, TellsRows):
                raise UserError(
                    f"rollout_buffer_class {kind.__name__}: {terms[0]} needs one that tells its rows; "
                    f"expected a subclass of {usual.__name__}, or none given"
                )
            self.rollout_buffer_class = kind
        super()._setup_model()

    def train(self) -> None:
        with rollout_priors(self):
            super().train()

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        return super()._init_callback(with_logger(callback), progress_bar)
