"""Seed batch of TRPO: a step of the policy within a trust region, then gradient steps of the values."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
from sb3_contrib import TRPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor
from torch.distributions import Distribution, kl_divergence

from rn_rl.agents.seed_batch.distributions import distribution_parameters
from rn_rl.agents.seed_batch.minibatch import RolloutSamples, standardized
from rn_rl.agents.seed_batch.on_policy import SeedBatchOnPolicy
from rn_rl.agents.seed_batch.rng import Streams, gaussian
from rn_rl.agents.seed_batch.rollout import by_seed
from rn_rl.agents.seed_batch.vector_envs import SeedEnvs
from rn_rl.engine.ensemble import to_rows
from rn_rl.engine.trace import (
    TracedFunction,
    no_batching_warnings,
    no_distribution_validation,
)

RESIDUAL = 1e-10
"""Squared norm of the residual at which sb3-contrib's conjugate gradients end."""


class SeedBatchTRPO(SeedBatchOnPolicy):
    """sb3-contrib's TRPO for S seeds at once (Schulman et al., 2015, arXiv:1502.05477).

    Every seed has its own trust region: conjugate gradients and line searches of all seeds go on side by
    side, and a seed whose own has ended does not change any more.

    Args:
        models: see :class:`~rn_rl.agents.SeedBatchPPO`.
        envs: see :class:`~rn_rl.agents.SeedBatchPPO`.
        compile: compile the gradients of the values with ``torch.compile``.
    """

    algorithm: ClassVar[type[BaseAlgorithm]] = TRPO

    def __init__(
        self, models: Sequence[OnPolicyAlgorithm], envs: SeedEnvs, compile: bool = False
    ) -> None:
        super().__init__(models, envs, compile)
        self.region = TrustRegion(self)
        own = len(self.stack.tensors)
        self._gradients = TracedFunction(self._compute_gradients, compile, num_static=own)
        # conjugate gradients begin at small random numbers, one for each weight
        self.beginnings = Streams(self.seeds, "conjugate gradients", (sum(self.stack.sizes),))

    def train(self) -> None:
        advantages, returns = self.advantages()
        self.observe_returns(returns)
        self.set_training_mode(True)
        self.set_learning_rate()
        rollout, policies = self.rollout, self.actor_critics
        observations = self.tensor(by_seed(rollout.observations))
        arrays = (rollout.actions, rollout.values, rollout.log_probs, advantages, returns)
        samples = RolloutSamples(*(self.tensor(by_seed(array)) for array in arrays))
        seeds = torch.arange(self.size, device=self.device)[:, None]
        chosen: tuple[Tensor, ...] = observations, *samples
        if self.model.sub_sampling_factor > 1:
            order = policies.shuffling.draw().argsort(1)[:, :: self.model.sub_sampling_factor]
            rows = self.tensor(order)
            chosen = tuple(x[seeds, rows] for x in chosen)
        self.update_policies(chosen[0], RolloutSamples(*chosen[1:]))
        for _ in range(self.model.n_critic_updates):
            for where, _ in policies.minibatches(rollout):
                rows = self.tensor(where)
                self.update_values(observations[seeds, rows], samples.returns[seeds, rows])
        self.num_updates += 1

    def update_policies(self, observations: Tensor, samples: RolloutSamples) -> None:
        """Take one step of every policy within its trust region.

        Args:
            observations: ``(seeds, rows, ...)``.
            samples: actions, log probabilities and advantages of these rows; the rest is not used.
        """
        advantages = samples.advantages
        if self.model.normalize_advantage:
            advantages = standardized(advantages, None)
        begin = torch.from_numpy(1e-4 * gaussian(self.beginnings.draw())).to(self.stack.weights)
        self.losses.update(self.region.step(observations, samples, advantages, begin))

    def update_values(self, observations: Tensor, returns: Tensor) -> None:
        """Take one gradient step on ``mean((returns - values)^2)`` of every seed.

        Weights that the policy has too stay as they are, since a step would leave its trust region.

        Args:
            observations: ``(seeds, batch, ...)``.
            returns: ``(seeds, batch)``.
        """
        self.stack.weights.grad, loss = self._gradients(*self.stack.tensors, returns, observations)
        self.losses["train/value_loss"] = loss
        self.step_optimizer()

    def step_optimizer(self, prefix: str | None = None) -> None:
        columns = self.region.columns
        kept = self.stack.weights.detach()[:, columns]
        self.parts[""].step()
        with torch.no_grad():  # a decay of weights would change them without a gradient
            self.stack.weights[:, columns] = kept
        self.stack.project()
        torch.autograd.graph.increment_version(self.stack.weights)

    def _compute_gradients(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Compute gradients of the values' losses, ``(seeds, P)``, and the losses; traced."""
        *own, returns, observations = tensors
        leaves, online = self.leaves(own)

        def values(policy: ActorCriticPolicy, x: Tensor) -> Tensor:
            return policy.predict_values(x)[:, 0]

        predicted = self.stack.vmap_modules(values, online, observations, training=True)
        loss = (returns - predicted).square().mean(1)
        found = torch.autograd.grad(loss.sum(), leaves, materialize_grads=True)
        parts = [
            torch.zeros_like(part) if i in self.region.of_policy else part
            for i, part in enumerate(found)
        ]
        return to_rows(parts), loss.detach()

    def streams(self) -> list[Streams]:
        return [*super().streams(), self.beginnings]


class Surrogate(NamedTuple):
    """Objective and KL divergence of changed policies, ``(seeds,)`` each."""

    objectives: Tensor
    """``mean(A * exp(log_prob - old_log_prob))``."""
    divergences: Tensor
    """``mean(KL(policy || old policy))``, over the components of actions too, as in sb3-contrib."""


class TrustRegion:
    """Steps of all policies along the natural gradient, as long as they stay near the old policies.

    Args:
        batch: the batch whose policies are changed, in place.
    """

    def __init__(self, batch: SeedBatchTRPO) -> None:
        self.batch, self.stack = batch, batch.stack
        named = enumerate(self.stack.names[: self.stack.num_parameters])
        self.candidates = [i for i, name in named if "value" not in name]
        """Indices of parameters without "value" in their names, as in sb3-contrib."""
        self.of_policy: list[int] = []
        """Indices of the parameters that the policy depends on; empty before the first step."""
        self.columns = torch.zeros(0, dtype=torch.int64, device=batch.device)
        """Columns of those parameters in the stacked weights."""

    def step(
        self, observations: Tensor, samples: RolloutSamples, advantages: Tensor, begin: Tensor
    ) -> dict[str, Tensor]:
        """Take one step.

        Args:
            observations: ``(seeds, rows, ...)``.
            samples: actions and log probabilities of these rows.
            advantages: ``(seeds, rows)``.
            begin: where conjugate gradients begin, ``(seeds, P)``.

        Returns:
            What sb3-contrib logs of it, ``(seeds,)`` each, by name.
        """
        model = self.batch.model
        with torch.no_grad():
            old = self._policies(self.stack.tensors, observations)

        def surrogate(tensors: Sequence[Tensor]) -> Surrogate:
            policies = self._policies(tensors, observations)
            log_probs = policies.log_prob(samples.actions)
            if log_probs.dim() > advantages.dim():
                log_probs = log_probs.sum(2)
            ratios = torch.exp(log_probs - samples.old_log_probs)
            return Surrogate(
                (advantages * ratios).mean(1), kl_divergence(policies, old).flatten(1).mean(1)
            )

        leaves, online = self.batch.leaves(self.stack.tensors)
        with torch.enable_grad():
            now = surrogate(online)
            gradients, product = self._derivatives(now, leaves)
        objectives = now.objectives.detach()
        direction = conjugate_gradients(
            product, gradients, begin[:, self.columns], model.cg_max_steps
        )
        length = (2 * model.target_kl / (direction * product(direction)).sum(1)).sqrt()
        return self._search(surrogate, objectives, length[:, None], direction)

    @torch.no_grad()
    def _search(
        self,
        surrogate: Callable[[Sequence[Tensor]], Surrogate],
        objectives: Tensor,
        length: Tensor,
        direction: Tensor,
    ) -> dict[str, Tensor]:
        """Shorten the step of each seed until it is a step up within the trust region, or give it up."""
        model, weights, columns = self.batch.model, self.stack.weights, self.columns
        before = weights[:, columns]
        hopeless = ~length[:, 0].isfinite()
        accepted = torch.zeros_like(hopeless)
        found = Surrogate(objectives.clone(), torch.zeros_like(objectives))
        share = 1.0
        for _ in range(model.line_search_max_iter):
            trial = before + share * length * direction
            weights[:, columns] = torch.where(accepted[:, None], weights[:, columns], trial)
            new = surrogate(self.stack.tensors)
            passes = (new.divergences < model.target_kl) & (new.objectives > objectives) & ~accepted
            found = Surrogate(*(torch.where(passes, x, y) for x, y in zip(new, found, strict=True)))
            accepted |= passes
            if (accepted | hopeless).all():
                break
            share *= model.line_search_shrinking_factor
        weights[:, columns] = torch.where(accepted[:, None], weights[:, columns], before)
        return {
            "train/policy_objective": found.objectives,
            "train/kl_divergence_loss": found.divergences,
            "train/is_line_search_success": accepted.to(objectives.dtype),
        }

    def _policies(self, tensors: Sequence[Tensor], observations: Tensor) -> Distribution:
        """Return the policies in training mode, which normalizers observe unless under ``no_grad``."""

        def parameters(policy: ActorCriticPolicy, x: Tensor) -> tuple[Tensor, ...]:
            return distribution_parameters(policy.get_distribution(x))

        with no_batching_warnings(), no_distribution_validation():
            found = self.stack.vmap_modules(parameters, tensors, observations, training=True)
        return self.batch.actor_critics.distribution_of(*found)

    def _derivatives(
        self, now: Surrogate, leaves: Sequence[Tensor]
    ) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
        """Return the objectives' gradients, ``(seeds, p)``, and the product with the KL's Hessian."""
        found = torch.autograd.grad(
            now.divergences.sum(),
            [leaves[i] for i in self.candidates],
            create_graph=True,
            allow_unused=True,
        )
        used = [(i, g) for i, g in zip(self.candidates, found, strict=True) if g is not None]
        self.of_policy = [i for i, _ in used]
        chosen = [leaves[i] for i in self.of_policy]
        weights = self.stack.weights
        numbers = torch.arange(weights.shape[1], device=weights.device).expand_as(weights)
        views = [self.stack.parameter_view(numbers, self.stack.names[i]) for i in self.of_policy]
        self.columns = flattened(views)[0]
        of_kl = flattened([g for _, g in used])
        gradients = torch.autograd.grad(now.objectives.sum(), chosen, retain_graph=True)

        def product(vectors: Tensor) -> Tensor:
            twice = torch.autograd.grad(
                (of_kl * vectors).sum(), chosen, retain_graph=True, materialize_grads=True
            )
            return flattened(twice) + self.batch.model.cg_damping * vectors

        return flattened(gradients), product


def conjugate_gradients(
    product: Callable[[Tensor], Tensor], b: Tensor, begin: Tensor, steps: int
) -> Tensor:
    """Solve ``A x = b`` of every seed by conjugate gradients, each until its own residual is small.

    As in sb3-contrib: at most ``steps`` steps, and none after a squared residual below 1e-10.

    Args:
        product: maps ``(seeds, p)`` to ``A x``.
        b: right-hand sides, ``(seeds, p)``.
        begin: first x, ``(seeds, p)``.
        steps: largest number of steps.
    """
    x = begin
    residual = b - product(x)
    squared = residual.square().sum(1)
    going = squared >= RESIDUAL  # false for a seed that diverged
    p = residual
    for _ in range(steps):
        if not going.any():
            break
        image = product(p)
        alpha = torch.where(going, squared / (p * image).sum(1), 0)[:, None]
        x = torch.where(going[:, None], x + alpha * p, x)
        residual = residual - alpha * image
        new = residual.square().sum(1)
        going = going & (new >= RESIDUAL)
        p = residual + (new / squared)[:, None] * p
        squared = new
    return x


def flattened(parts: Sequence[Tensor]) -> Tensor:
    """Return tensors ``(seeds, ...)`` as the columns of one, ``(seeds, p)``."""
    return torch.cat([part.flatten(1) for part in parts], 1)
