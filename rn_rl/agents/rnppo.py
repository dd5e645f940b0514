"""RNPPO: SB3's PPO with normalizers, whose commits are measured and logged."""

from __future__ import annotations

from typing import Any

from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback

from rn_rl.agents._arguments import with_logger, with_norm
from rn_rl.policies import NormActorCriticPolicy


class RNPPO(PPO):
    """SB3's PPO with normalizers; :class:`~rn_rl.agents.NormalizerLogger` measures their commits.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a
            ``NormActorCriticPolicy``.
        env: as in PPO.
        norm: normalizer spec such as ``"rn"`` or ``"ln+rn"``.
        kwargs: as in PPO.

    Raises:
        UserError: an unknown normalizer, or a policy that does not take ``norm=``.
    """

    def __init__(
        self, policy: str | type[BasePolicy], env: Any, norm: str = "rn", **kwargs: Any
    ) -> None:
        self.norm = norm
        norm_policy, kwargs["policy_kwargs"] = with_norm(
            policy, NormActorCriticPolicy, norm, kwargs.get("policy_kwargs")
        )
        super().__init__(norm_policy, env, **kwargs)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        return super()._init_callback(with_logger(callback), progress_bar)
