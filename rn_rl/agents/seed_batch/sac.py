"""Seed batch of SAC."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from stable_baselines3 import SAC
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor
from torch.distributions import Distribution, Normal
from torch.optim import Optimizer

from rn_rl.agents.seed_batch import optimizer as optimizers
from rn_rl.agents.seed_batch.base import set_rate
from rn_rl.agents.seed_batch.continuous import (
    ACTOR,
    CRITIC,
    ContinuousSeedBatch,
    values_of,
    values_unobserved,
)
from rn_rl.agents.seed_batch.distributions import components
from rn_rl.agents.seed_batch.minibatch import Transitions, unflatten
from rn_rl.agents.seed_batch.rng import Streams, gaussian
from rn_rl.agents.seed_batch.vector_envs import SeedEnvs
from rn_rl.agents.value_targets import TARGET_ROWS
from rn_rl.engine.ensemble import to_rows
from rn_rl.engine.trace import TracedFunction
from rn_rl.normalization import PublishedRegularityNorm, phase_norms
from rn_rl.policies.divergence import evenly_spaced

ENTROPY = "ent_coef."
"""Prefix of the entropy coefficient's optimizer in checkpoints."""


class SeedBatchSAC(ContinuousSeedBatch[SAC]):
    """SB3's SAC for S seeds at once; see :class:`~rn_rl.agents.SeedBatch`.

    Haarnoja et al., 2018, arXiv:1812.05905, as in SB3: the entropy coefficient may be learned, and each
    seed has its own.

    Args:
        models: SB3 agents that have not learned yet, one for each seed.
        envs: environments of all seeds, one environment each.
        compile: compile the updates with ``torch.compile``, which takes some ten seconds once.
    """

    algorithm: ClassVar[type[BaseAlgorithm]] = SAC
    gives_targets: ClassVar[bool] = True
    model: SAC

    def __init__(self, models: Sequence[SAC], envs: SeedEnvs, compile: bool = False) -> None:
        super().__init__(models, envs, compile)
        model: Any = self.model
        count = components(model.action_space)
        self.update_noise = Streams(self.seeds, "updates", (2, model.batch_size, count))
        """Noise of the actions at observations and at next observations."""
        learns_scale = bool(self.critic.value_layers)
        noise = Streams(self.seeds, "targets", (TARGET_ROWS, count)) if learns_scale else None
        self.target_noise = noise
        """Noise of next actions for layers that scale values; None if there are none."""
        self.entropy_optimizer: Optimizer | None = None
        if model.ent_coef_optimizer is None:
            each = [m.ent_coef_tensor.log().view(1) for m in models]
        else:
            learned: list[Any] = [m.log_ent_coef for m in models]
            each = [one.detach() for one in learned]
        self._entropy_row = to_rows([torch.stack(each)])
        self.log_ent_coef = self._entropy_row[:, :1]
        """Logarithms of the entropy coefficients, ``(seeds, 1)``."""
        if model.ent_coef_optimizer is not None:
            self.entropy_optimizer = optimizers.stacked_optimizer(
                self._entropy_row, model.ent_coef_optimizer
            )
        self._gradient_step = 0
        actor, critic = len(self.actor.tensors), len(self.critic.tensors)
        self._samples = TracedFunction(
            self._compute_samples, num_static=actor, cache_invariants=True
        )
        self._parameters = TracedFunction(
            self._compute_parameters, num_static=actor, cache_invariants=True
        )
        self._critic_gradients = TracedFunction(
            self._compute_critic_gradients, compile, num_static=actor + 2 * critic
        )
        self._actor_gradients = TracedFunction(
            self._compute_actor_gradients, compile, num_static=actor + critic
        )

    @classmethod
    def cannot(cls, model: Any) -> str | None:
        reason = super().cannot(model)
        norms = () if reason else phase_norms(model.actor).values()
        if any(isinstance(norm, PublishedRegularityNorm) for norm in norms):
            # SB3 passes observations through the actor first, a batch the next observations
            return (
                f"{model.policy.norm} changes its state inside an update, in the order of forwards"
            )
        return reason

    def entropy_coefficients(self) -> Tensor:
        """Return the entropy coefficients, ``(seeds, 1)``."""
        return self._entropy_row.exp()[:, :1]

    # acting

    @staticmethod
    def distribution_of(actor: Any, observations: Tensor) -> Normal:
        """Return one seed's distribution of actions before tanh."""
        mean, log_std, _ = actor.get_action_dist_params(observations)
        return Normal(mean, log_std.exp(), validate_args=False)

    @classmethod
    def sample_of(cls, actor: Any, observations: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        """Return actions in [-1, 1] and their log probabilities, ``(n, components)`` and ``(n, 1)``.

        Args:
            actor: actor of one seed.
            observations: ``(n, ...)``.
            noise: standard normal numbers, ``(n, components)``.
        """
        distribution = cls.distribution_of(actor, observations)
        before = distribution.mean + distribution.stddev * noise.to(distribution.mean.dtype)
        actions = torch.tanh(before)
        log_prob = distribution.log_prob(before).sum(1)
        log_prob = log_prob - (1 - actions.square() + actor.action_dist.epsilon).log().sum(1)
        return actions, log_prob[:, None]

    @classmethod
    def learned_sample_of(
        cls, actor: Any, observations: Tensor, noise: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the same for the actor's update."""
        return cls.sample_of(actor, observations, noise)

    def _compute_samples(self, *tensors: Tensor) -> Tensor:
        *own, observations, noise = tensors
        actions: Tensor = self.actor.vmap_modules(self.sample_of, own, observations, noise)[0]
        return actions

    def sampled(self, observations: np.ndarray, uniform: np.ndarray) -> np.ndarray:
        inputs = self.tensor(observations), self.tensor(gaussian(uniform))
        found: np.ndarray = self._samples(*self.actor.tensors, *inputs).cpu().numpy()
        return found

    def _compute_parameters(self, *tensors: Tensor) -> Any:
        *own, observations = tensors

        def parameters(actor: Any, x: Tensor) -> tuple[Tensor, Tensor]:
            distribution = self.distribution_of(actor, x)
            return distribution.mean, distribution.stddev

        return self.actor.vmap_modules(parameters, own, observations)

    def policies(self, tensors: Sequence[Tensor], observations: Tensor) -> Distribution:
        mean, std = self._parameters(*tensors, observations)
        return Normal(mean, std, validate_args=False)

    # learning

    def set_learning_rate(self) -> None:
        super().set_learning_rate()
        if self.entropy_optimizer is not None:
            set_rate(self.entropy_optimizer, self.model.lr_schedule(self.progress_remaining))

    def train(self) -> None:
        self._gradient_step = 0
        super().train()

    @torch.no_grad()
    def observe_targets(self) -> None:
        """Give the targets of replayed rows to critics that scale values."""
        if self.target_noise is None:
            return
        rows = evenly_spaced(len(self.memory), TARGET_ROWS)
        replayed = self.scaled(self.memory.at(rows))
        noise = self.tensor(gaussian(self.target_noise.draw()))[:, : len(rows)]
        actions, log_prob = self.actor.vmap_modules(
            self.sample_of, self.actor.tensors, replayed.next_observations, noise
        )
        target = self.targets[CRITIC].tensors
        future = self.next_values(target, replayed.next_observations, actions)
        future = future - self.log_ent_coef.exp()[:, None] * log_prob
        targets = replayed.rewards + (1 - replayed.dones) * self.model.gamma * future
        self.critic.observe_targets(targets[..., 0].T)

    def update(self, minibatch: Transitions) -> None:
        """Take one gradient step of the critics, the actor and the entropy coefficient of every seed."""
        noise = self.tensor(gaussian(self.update_noise.draw()))
        now, following = noise[:, 0], noise[:, 1]
        ent_coef = self.entropy_coefficients()
        actor, critic = self.actor, self.critic
        critic.weights.grad, critic_loss = self._critic_gradients(
            *actor.tensors,
            *critic.tensors,
            *self.targets[CRITIC].tensors,
            *minibatch,
            following,
            ent_coef,
        )
        self.step_optimizer(CRITIC)
        self.losses["train/critic_loss"] = critic_loss
        self.update_actor(minibatch.observations, now, ent_coef)
        if self._gradient_step % self.model.target_update_interval == 0:
            self.follow(CRITIC)
        self._gradient_step += 1

    def update_actor(self, observations: Tensor, noise: Tensor, ent_coef: Tensor) -> None:
        """Take one gradient step of the actor and of the entropy coefficient of every seed.

        Args:
            observations: ``(seeds, batch, ...)``.
            noise: standard normal numbers, ``(seeds, batch, components)``.
            ent_coef: entropy coefficients before the step, ``(seeds, 1)``.
        """
        self.actor.weights.grad, actor_loss, entropy_gap = self._actor_gradients(
            *self.actor.tensors, *self.critic.tensors, observations, noise, ent_coef
        )
        self.step_optimizer(ACTOR)
        self.losses.update({"train/actor_loss": actor_loss, "train/ent_coef": ent_coef[:, 0]})
        if self.entropy_optimizer is not None:
            # the loss is log_ent_coef times this gradient
            self.losses["train/ent_coef_loss"] = self.log_ent_coef[:, 0] * entropy_gap
            self._entropy_row.grad = to_rows([entropy_gap[:, None]])
            self.entropy_optimizer.step()

    def _compute_critic_gradients(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the gradients of the critics, ``(seeds, P)``, and their losses, ``(seeds,)``."""
        first, own = len(self.actor.tensors), len(self.critic.tensors)
        actor, rest = tensors[:first], tensors[first:]
        leaves, critic = self.leaves(rest[:own], self.critic)
        target = rest[own : 2 * own]
        batch, (noise, ent_coef) = unflatten(rest[2 * own :], Transitions)
        with torch.no_grad():
            actions, log_prob = self.actor.vmap_modules(
                self.sample_of, actor, batch.next_observations, noise, training=True
            )
            future = self.next_values(target, batch.next_observations, actions)
            future = future - ent_coef[:, None] * log_prob
            targets = batch.rewards + (1 - batch.dones) * self.model.gamma * future
        losses = self.critic_losses(critic, batch, targets)
        return self.clipped_gradients(losses, leaves), losses.detach()

    def next_values(self, target: Sequence[Tensor], x: Tensor, actions: Tensor) -> Tensor:
        """Return the values of next actions by the target critics, ``(seeds, batch, 1)``."""
        values: Tensor = self.targets[CRITIC].vmap_modules(values_of, target, x, actions)
        return values.amin(2, keepdim=True)

    def critic_losses(
        self, critic: Sequence[Tensor], batch: Transitions, targets: Tensor
    ) -> Tensor:
        """Return half of the sum of the critics' mean squared errors, ``(seeds,)``."""
        values = self.critic.vmap_modules(
            values_of, critic, batch.observations, batch.actions, training=True
        )
        losses: Tensor = 0.5 * (values - targets).square().mean(1).sum(1)
        return losses

    def _compute_actor_gradients(self, *tensors: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Compute the gradients of the actors, their losses, and those of the entropy coefficients.

        The last are ``-mean(log_prob + target_entropy)``, ``(seeds,)``.
        """
        first, own = len(self.actor.tensors), len(self.critic.tensors)
        leaves, actor = self.leaves(tensors[:first], self.actor)
        critic = tensors[first : first + own]
        observations, noise, ent_coef = tensors[first + own :]
        actions, log_prob = self.actor.vmap_modules(
            self.learned_sample_of, actor, observations, noise, training=True
        )
        values = self.actor_values(critic, observations, actions)
        losses = (ent_coef[:, None] * log_prob - values).mean((1, 2))
        gap = -(log_prob + self.model.target_entropy).mean((1, 2))
        return self.clipped_gradients(losses, leaves), losses.detach(), gap.detach()

    def actor_values(self, critic: Sequence[Tensor], x: Tensor, actions: Tensor) -> Tensor:
        """Return the values that the actor learns to raise, ``(seeds, batch, 1)``."""
        values: Tensor = self.critic.vmap_modules(
            values_unobserved, critic, x, actions, training=True
        )
        return values.amin(2, keepdim=True)

    # checkpoints

    def streams(self) -> list[Streams]:
        return [*super().streams(), self.update_noise, *filter(None, [self.target_noise])]

    def state(self, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, plain = super().state(seed)
        arrays["log_ent_coef"] = self.log_ent_coef[seed].cpu().numpy()
        if self.entropy_optimizer is not None:
            moments, steps = optimizers.seed_state(self.entropy_optimizer, seed, 1)
            arrays.update({ENTROPY + name: moment for name, moment in moments.items()})
            plain["optimizer"].update({ENTROPY + name: step for name, step in steps.items()})
        return arrays, plain

    @torch.no_grad()
    def restore(self, stored: Sequence[tuple[Mapping[str, np.ndarray], dict[str, Any]]]) -> None:
        super().restore(stored)
        kept = [arrays for arrays, _ in stored]
        for seed, arrays in enumerate(kept):
            self.log_ent_coef[seed] = torch.from_numpy(arrays["log_ent_coef"])
        if self.entropy_optimizer is not None:
            plain = stored[0][1]
            optimizers.restore(self.entropy_optimizer, kept, plain["optimizer"], ENTROPY)
            set_rate(self.entropy_optimizer, plain["learning_rate"])

    @torch.no_grad()
    def silence(self, seed: int) -> None:
        super().silence(seed)
        self.log_ent_coef[seed] = 0
        if self.entropy_optimizer is not None:
            for average in optimizers.state_tensors(self.entropy_optimizer).values():
                if average.dim():
                    average[seed] = 0

    def write_back(self, seed: int) -> SAC:
        model: Any = super().write_back(seed)
        if self.entropy_optimizer is not None:
            with torch.no_grad():
                model.log_ent_coef.copy_(self.log_ent_coef[seed])
            optimizers.load_into(
                self.entropy_optimizer, seed, model.ent_coef_optimizer, [model.log_ent_coef]
            )
        return model
