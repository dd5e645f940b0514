"""Seed batch of CrossQ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from sb3_contrib import CrossQ
from sb3_contrib.common.torch_layers import BatchRenorm1d
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rn_rl.agents.seed_batch.continuous import CRITIC, values_of
from rn_rl.agents.seed_batch.minibatch import Transitions, unflatten
from rn_rl.agents.seed_batch.rng import gaussian
from rn_rl.agents.seed_batch.sac import SeedBatchSAC
from rn_rl.agents.seed_batch.vector_envs import SeedEnvs
from rn_rl.engine.trace import TracedFunction
from rn_rl.normalization import unobserved


class SeedBatchCrossQ(SeedBatchSAC):
    """sb3-contrib's CrossQ for S seeds at once; see :class:`~rn_rl.agents.SeedBatch`.

    It is SAC without target networks: batch renormalization sees observations and next observations in
    one forward pass, and the actor is updated every ``policy_delay`` gradient steps (Bhatt et al., 2024,
    arXiv:1902.05605).

    Args:
        models: agents that have not learned yet, one for each seed.
        envs: environments of all seeds, one environment each.
        compile: compile the updates with ``torch.compile``, which takes some ten seconds once.
    """

    algorithm: ClassVar[type[BaseAlgorithm]] = CrossQ

    def __init__(self, models: Sequence[Any], envs: SeedEnvs, compile: bool = False) -> None:
        super().__init__(models, envs, compile)
        for stack in (self.actor, self.critic):  # copies, so the agents keep their classes
            for module in stack.module.modules():
                if isinstance(module, BatchRenorm1d):
                    module.__class__ = StackedBatchRenorm
        own = len(self.actor.tensors) + len(self.critic.tensors)
        self._critic_gradients = TracedFunction(
            self._compute_critic_gradients, compile, num_static=own
        )

    @classmethod
    def cannot(cls, model: Any) -> str | None:
        # not that of SAC: here the order of forwards is SB3's
        return super(SeedBatchSAC, cls).cannot(model)

    @staticmethod
    def target_networks() -> dict[str, Any]:
        return {}

    @classmethod
    def learned_sample_of(
        cls, actor: Any, observations: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        actor.set_bn_training_mode(True)
        found = cls.sample_of(actor, observations, noise)
        actor.set_bn_training_mode(False)
        return found

    def update(self, minibatch: Transitions) -> None:
        """Take one gradient step of the critics of every seed, and of the actors where one is due."""
        noise = self.tensor(gaussian(self.update_noise.draw()))
        now, following = noise[:, 0], noise[:, 1]
        ent_coef = self.entropy_coefficients()
        self.critic.weights.grad, critic_loss = self._critic_gradients(
            *self.actor.tensors, *self.critic.tensors, *minibatch, following, ent_coef
        )
        self.step_optimizer(CRITIC)
        self.losses["train/critic_loss"] = critic_loss
        self.num_updates += 1
        if self.num_updates % self.model.policy_delay == 0:  # type: ignore[attr-defined]
            self.update_actor(minibatch.observations, now, ent_coef)

    def count_updates(self, steps: int) -> None:
        """Count nothing: :meth:`update` does, since every ``policy_delay``-th differs."""

    def _compute_critic_gradients(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients of the critics, ``(seeds, P)``, and their losses, ``(seeds,)``."""
        first, own = len(self.actor.tensors), len(self.critic.tensors)
        actor, rest = tensors[:first], tensors[first:]
        leaves, critic = self.leaves(rest[:own], self.critic)
        batch, (noise, ent_coef) = unflatten(rest[own:], Transitions)

        def next_sample(network: Any, x: Tensor, normal: Tensor) -> tuple[Tensor, Tensor]:
            network.set_bn_training_mode(False)
            return self.sample_of(network, x, normal)

        def joint_values(network: Any, x: Tensor, actions: Tensor) -> Tensor:
            network.set_bn_training_mode(True)
            found = values_of(network, x, actions)
            network.set_bn_training_mode(False)
            return found

        with torch.no_grad():
            actions, log_prob = self.actor.vmap_modules(
                next_sample, actor, batch.next_observations, noise, training=True
            )
        values = self.critic.vmap_modules(
            joint_values,
            critic,
            torch.cat([batch.observations, batch.next_observations], 1),
            torch.cat([batch.actions, actions.to(batch.actions.dtype)], 1),
            training=True,
        )
        rows = batch.observations.shape[1]
        current, following = values[:, :rows], values[:, rows:].detach()
        future = following.amin(2, keepdim=True) - ent_coef[:, None] * log_prob
        targets = batch.rewards + (1 - batch.dones) * self.model.gamma * future
        losses = 0.5 * (current - targets).square().mean(1).sum(1)
        return self.clipped_gradients(losses, leaves), losses.detach()

    def actor_values(self, critic: Sequence[Tensor], x: Tensor, actions: Tensor) -> Tensor:
        def values(network: Any, x: Tensor, chosen: Tensor) -> Tensor:
            network.set_bn_training_mode(False)
            with unobserved(network):
                return values_of(network, x, chosen)

        found: Tensor = self.critic.vmap_modules(values, critic, x, actions, training=True)
        return found.amin(2, keepdim=True)


class StackedBatchRenorm(BatchRenorm1d):
    """sb3-contrib's ``BatchRenorm1d`` without a branch on its steps, so that it can be traced."""

    ra_mean: Tensor
    ra_var: Tensor
    steps: Tensor

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            mean, var = self.ra_mean, self.ra_var
        else:
            batch_mean, batch_var = x.mean(dim=0), x.var(dim=0)
            running_std = (self.ra_var + self.eps).sqrt()
            r = (
                ((batch_var + self.eps).sqrt() / running_std)
                .detach()
                .clamp(1 / self.rmax, self.rmax)
            )
            d = ((batch_mean - self.ra_mean) / running_std).detach().clamp(-self.dmax, self.dmax)
            warm = self.steps > self.warmup_steps
            mean = torch.where(warm, batch_mean - d * batch_var.sqrt() / r, batch_mean)
            var = torch.where(warm, batch_var / r**2, batch_var)
            self.ra_mean.add_(self.momentum * (batch_mean.detach() - self.ra_mean))
            self.ra_var.add_(self.momentum * (batch_var.detach() - self.ra_var))
            self.steps.add_(1)
        x = (x - mean[None]) / (var[None] + self.eps).sqrt()
        return self.scale * x + self.bias if self.affine else x
