"""Seed batch of RecurrentPPO."""

from __future__ import annotations

from typing import Any, ClassVar

from sb3_contrib import RecurrentPPO
from stable_baselines3.common.base_class import BaseAlgorithm

from rn_rl.agents.seed_batch.actor_critic import ActorCritics
from rn_rl.agents.seed_batch.ppo import SeedBatchPPO
from rn_rl.agents.seed_batch.recurrent_actor_critic import RecurrentActorCritics


class SeedBatchRecurrentPPO(SeedBatchPPO):
    """sb3-contrib's RecurrentPPO for S seeds at once: PPO's loss for policies with an LSTM.

    All that differs from PPO is in
    :class:`~rn_rl.agents.seed_batch.recurrent_actor_critic.RecurrentActorCritics`.

    Args:
        models: see :class:`~rn_rl.agents.SeedBatchPPO`.
        envs: see :class:`~rn_rl.agents.SeedBatchPPO`.
        compile: see :class:`~rn_rl.agents.SeedBatchPPO`.
    """

    algorithm: ClassVar[type[BaseAlgorithm]] = RecurrentPPO
    gives_priors = False
    policy_class: ClassVar[type[ActorCritics]] = RecurrentActorCritics
    model: Any
    actor_critics: RecurrentActorCritics
