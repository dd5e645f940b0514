"""Seed batch of TD3 and DDPG."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3 import TD3
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor
from torch.distributions import Distribution

from rn_rl.agents.seed_batch.continuous import (
    ACTOR,
    CRITIC,
    ContinuousSeedBatch,
    values_of,
)
from rn_rl.agents.seed_batch.distributions import components
from rn_rl.agents.seed_batch.minibatch import Transitions, unflatten
from rn_rl.agents.seed_batch.rng import Streams, gaussian
from rn_rl.agents.seed_batch.vector_envs import SeedEnvs
from rn_rl.engine.trace import TracedFunction
from rn_rl.errors import UserError
from rn_rl.normalization import unobserved


class SeedBatchTD3(ContinuousSeedBatch[TD3]):
    """SB3's TD3 and DDPG for S seeds at once; see :class:`~rn_rl.agents.SeedBatch`.

    Fujimoto et al., 2018, arXiv:1802.09477, as in SB3: the actors are updated every ``policy_delay``
    gradient steps, and the targets with them.

    Args:
        models: SB3 agents that have not learned yet, one for each seed.
        envs: environments of all seeds, one environment each.
        compile: compile the updates with ``torch.compile``, which takes some ten seconds once.
    """

    algorithm: ClassVar[type[BaseAlgorithm]] = TD3
    model: TD3

    def __init__(self, models: Sequence[TD3], envs: SeedEnvs, compile: bool = False) -> None:
        super().__init__(models, envs, compile)
        model = self.model
        shape = (model.batch_size, components(model.action_space))
        self.smoothing = Streams(self.seeds, "updates", shape)
        """Noise of the next actions."""
        actor, critic = len(self.actor.tensors), len(self.critic.tensors)
        self._critic_gradients = TracedFunction(
            self._compute_critic_gradients, compile, num_static=actor + 2 * critic
        )
        self._actor_gradients = TracedFunction(
            self._compute_actor_gradients, compile, num_static=actor + critic
        )

    @staticmethod
    def target_networks() -> dict[str, Any]:
        return {
            ACTOR: lambda model: model.actor_target,
            CRITIC: lambda model: model.critic_target,
        }

    @staticmethod
    def mode_of(actor: Any, observations: Tensor) -> Tensor:
        actions: Tensor = actor(observations)
        return actions

    def policies(self, tensors: Sequence[Tensor], observations: Tensor) -> Distribution:
        raise UserError("TD3 and DDPG have no distribution of actions")

    def commit_kl(self, rows: int = 64) -> np.ndarray | None:
        """Return None: the actions have no distribution."""
        return None

    def update(self, minibatch: Transitions) -> None:
        """Take one gradient step of the critics of every seed, and of the actors where one is due."""
        noise = self.tensor(gaussian(self.smoothing.draw()))
        actor, critic = self.actor, self.critic
        critic.weights.grad, critic_loss = self._critic_gradients(
            *self.targets[ACTOR].tensors,
            *critic.tensors,
            *self.targets[CRITIC].tensors,
            *minibatch,
            noise,
        )
        self.step_optimizer(CRITIC)
        self.losses["train/critic_loss"] = critic_loss
        self.num_updates += 1
        if self.num_updates % self.model.policy_delay == 0:
            actor.weights.grad, actor_loss = self._actor_gradients(
                *actor.tensors, *critic.tensors, minibatch.observations
            )
            self.step_optimizer(ACTOR)
            self.losses["train/actor_loss"] = actor_loss
            self.follow(CRITIC)
            self.follow(ACTOR)

    def count_updates(self, steps: int) -> None:
        """Count nothing: :meth:`update` does, since every ``policy_delay``-th differs."""

    def _compute_critic_gradients(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients of the critics, ``(seeds, P)``, and their losses, ``(seeds,)``."""
        model = self.model
        first, own = len(self.actor.tensors), len(self.critic.tensors)
        actor_target, rest = tensors[:first], tensors[first:]
        leaves, critic = self.leaves(rest[:own], self.critic)
        critic_target = rest[own : 2 * own]
        batch, (noise,) = unflatten(rest[2 * own :], Transitions)
        with torch.no_grad():
            noise = (noise * model.target_policy_noise).clamp(
                -model.target_noise_clip, model.target_noise_clip
            )
            actions = self.targets[ACTOR].vmap_modules(
                self.mode_of, actor_target, batch.next_observations
            )
            actions = (actions + noise.to(actions.dtype)).clamp(-1, 1)
            future = self.targets[CRITIC].vmap_modules(
                values_of, critic_target, batch.next_observations, actions
            )
            future = future.amin(2, keepdim=True)
            targets = batch.rewards + (1 - batch.dones) * model.gamma * future
        values = self.critic.vmap_modules(
            values_of, critic, batch.observations, batch.actions, training=True
        )
        losses = (values - targets).square().mean(1).sum(1)
        return self.clipped_gradients(losses, leaves), losses.detach()

    def _compute_actor_gradients(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients of the actors, ``(seeds, P)``, and their losses, ``(seeds,)``."""
        first, own = len(self.actor.tensors), len(self.critic.tensors)
        leaves, actor = self.leaves(tensors[:first], self.actor)
        critic, observations = tensors[first : first + own], tensors[-1]

        def first_value(network: Any, x: Tensor, actions: Tensor) -> Tensor:
            with unobserved(network):
                value: Tensor = network.q1_forward(x, actions)
            return value

        actions = self.actor.vmap_modules(self.mode_of, actor, observations, training=True)
        values = self.critic.vmap_modules(first_value, critic, observations, actions, training=True)
        losses = -values.mean((1, 2))
        return self.clipped_gradients(losses, leaves), losses.detach()

    def streams(self) -> list[Streams]:
        return [*super().streams(), self.smoothing]
