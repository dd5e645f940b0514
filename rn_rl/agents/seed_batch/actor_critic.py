"""Actor-critic policies of all seeds: acting, values, and the outputs that a loss is computed from."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor
from torch.distributions import Categorical, Distribution, Normal

from rn_rl.agents.priors import NetworkPriors
from rn_rl.agents.seed_batch.distributions import (
    allow,
    components,
    distribution_parameters,
    log_probs_and_entropies,
    sample,
    values_and_distribution,
)
from rn_rl.agents.seed_batch.introspection import (
    acts_without_effect,
    convolutions,
    first_dense_weights,
    is_row_wise,
    repeats_observations,
)
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.agents.seed_batch.rollout import PolicyOutput, SeedRollout
from rn_rl.agents.seed_batch.vector_envs import Masks
from rn_rl.engine.dedup.cache import InferenceCache
from rn_rl.engine.dedup.plan import DedupPlan
from rn_rl.engine.dedup.rows import weight_observations
from rn_rl.engine.ensemble import ModuleStack
from rn_rl.engine.trace import TracedFunction


class PolicyEvaluation(NamedTuple):
    """Outputs of the policies for a minibatch, ``(seeds, rows)`` each."""

    values: Tensor
    log_probs: Tensor
    """Log probabilities of the minibatch's actions."""
    entropies: Tensor
    mask: Tensor | None = None
    """0 for padding, 1 otherwise; None if there is no padding."""


class ActorCritics:
    """The feed-forward actor-critic policies of all seeds, evaluated together.

    :class:`~rn_rl.agents.seed_batch.recurrent_actor_critic.RecurrentActorCritics` is the same for
    policies with an LSTM, and :class:`~rn_rl.agents.seed_batch.maskable_ppo.MaskedActorCritics` for those
    with action masks; :class:`~rn_rl.agents.SeedBatchPPO` trains them.

    Args:
        stack: policies of all seeds.
        model: agent whose hyperparameters and spaces are read.
        seeds: seed of each policy.
        num_envs: number of environments of each seed.
    """

    num_masks: ClassVar[int] = 0
    """Number of tensors of action masks, 0 or 1, that the traced functions take."""

    def __init__(self, stack: ModuleStack, model: Any, seeds: Sequence[int], num_envs: int) -> None:
        self.stack, self.model, self.num_envs = stack, model, num_envs
        self.size = len(seeds)
        self.sampling = Streams(seeds, "actions", (num_envs, components(model.action_space)))
        self.shuffling = self.shuffling_streams(seeds)
        self.priors = NetworkPriors(stack.module)
        shuffled = self.priors.num_shuffled
        rows = model.n_steps * num_envs
        self.prior_shuffling = Streams(seeds, "priors", (shuffled, rows)) if shuffled else None
        """Random numbers that permute shuffled priors; None if there are none."""
        # A2C takes a rollout as a whole
        self.batch_size: int = getattr(model, "batch_size", model.n_steps * num_envs)
        shape = model.observation_space.shape
        self.dedup = DedupPlan(stack, shape, self.batch_size, *self.dedup_arguments())
        # observations of each step, at the end of each episode, and after the last step
        capacity = (2 * model.n_steps + 1) * num_envs
        self.cache = (
            InferenceCache(self.cached_outputs, self.size, capacity) if self.caches() else None
        )
        self._act = self.traced(self._compute_act)
        self._heads = self.traced(self._compute_heads)
        self._modes = self.traced(self._compute_modes)
        self._values = self.traced(self._compute_values)
        self._parameters = self.traced(self._compute_parameters)
        self._evaluation = self.traced(self._compute_evaluation)

    @staticmethod
    def cannot(model: Any) -> str | None:
        """Return the reason why policies like the agent's cannot be stacked, or None."""
        if not isinstance(model.action_space, spaces.Discrete | spaces.Box):
            return f"actions are {model.action_space}, not Discrete or a Box"
        return None

    def traced(self, function: Callable[..., Any]) -> TracedFunction:
        """Trace a function of the stack's tensors and others, which leaves the stack unchanged."""
        return TracedFunction(function, num_static=len(self.stack.tensors), cache_invariants=True)

    def tensor(self, array: np.ndarray) -> Tensor:
        """Return an array as a tensor on the device of the networks."""
        return torch.from_numpy(np.ascontiguousarray(array)).to(self.model.device)

    # how minibatches are deduplicated, and outputs cached

    def dedup_arguments(self) -> tuple[Any, ...]:
        """Return ``dedup_rows``, ``dense_weights`` and ``convolutions`` for :class:`DedupPlan`."""
        policy = self.model.policy
        return is_row_wise(policy), first_dense_weights(policy), convolutions(self.stack.module)

    def caches(self) -> bool:
        """Return True if observations repeat within a rollout, and outputs then may be reused."""
        return (
            repeats_observations(self.model.observation_space)
            and isinstance(self.model.action_space, spaces.Discrete)
            and self.dedup.dedup_rows
            and acts_without_effect(self.model.policy)
        )

    def cached_outputs(self, observations: np.ndarray) -> tuple[np.ndarray, ...]:
        """Compute what :attr:`cache` stores for observations: values and logits."""
        found = self._heads(*self.stack.tensors, self.tensor(observations))
        return tuple(part.cpu().numpy() for part in found)

    # acting

    def act(self, observations: np.ndarray, starts: np.ndarray, t: int) -> PolicyOutput:
        """Sample actions for step t of a rollout.

        Args:
            observations: ``(seeds, envs, ...)``.
            starts: 1 where an episode begins, ``(seeds, envs)``.
            t: step of the rollout; the networks have changed since the last rollout.
        """
        uniform = self.sampling.draw()
        if self.cache is None:
            inputs = self.tensor(observations), self.tensor(uniform)
            found = self._act(*self.stack.tensors, *inputs)
            return PolicyOutput(*(part.cpu().numpy() for part in found))
        if t == 0:
            self.cache.clear()
        values, logits = self.cache(observations)
        below = np.exp(logits, dtype=np.float64).cumsum(2)[..., :-1] < uniform
        actions = below.sum(2)
        log_probs = np.take_along_axis(logits, actions[..., None], 2)[..., 0]
        return PolicyOutput(actions, values, log_probs)

    def values(self, observations: np.ndarray, starts: np.ndarray) -> np.ndarray:
        """Return the values of the observations that follow the last step, ``(seeds, envs)``.

        Args:
            observations: ``(seeds, envs, ...)``.
            starts: 1 where an episode begins, ``(seeds, envs)``.
        """
        return self._values(*self.stack.tensors, self.tensor(observations)).cpu().numpy()

    def predict(self, observations: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """Return actions ``(seeds, n, ...)`` for observations ``(seeds, n, ...)``.

        Args:
            observations: observations of every seed.
            noise: uniform random numbers to sample with, ``(seeds, n, components)``; None: modes.
        """
        x = self.tensor(observations)
        if noise is None:
            actions = self._modes(*self.stack.tensors, x)
        else:
            actions, _, _ = self._act(*self.stack.tensors, x, self.tensor(noise))
        return self.within_bounds(actions.cpu().numpy())

    def player(
        self, noise: Streams | None, masks: Masks | None = None
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        """See :meth:`SeedBatch.player`."""

        def play(observations: np.ndarray, starts: np.ndarray) -> np.ndarray:
            return self.predict(observations, None if noise is None else noise.draw())

        return play

    def within_bounds(self, actions: np.ndarray) -> np.ndarray:
        """Give continuous actions the shape of the action space and clip or rescale them, as SB3 does."""
        space = self.model.action_space
        if not isinstance(space, spaces.Box):
            return actions
        actions = actions.reshape(*actions.shape[:2], *space.shape)
        if self.model.policy.squash_output:
            rescaled: np.ndarray = self.model.policy.unscale_action(actions)
            return rescaled
        return np.clip(actions, space.low, space.high)

    def distributions(
        self, tensors: Sequence[Tensor], observations: Tensor, *masks: Tensor
    ) -> Distribution:
        """See :meth:`SeedBatch.policies`."""
        return self.distribution_of(*self._parameters(*tensors, observations, *masks))

    def distribution_of(self, first: Tensor, *std: Tensor) -> Distribution:
        """Return the distributions with given logits, or means and standard deviations."""
        if isinstance(self.model.action_space, spaces.Discrete):
            return Categorical(logits=first, validate_args=False)
        return Normal(first, std[0], validate_args=False)

    # learning

    def shuffling_streams(self, seeds: Sequence[int]) -> Streams:
        """Return the random numbers that :meth:`minibatches` draws once for each epoch."""
        return Streams(seeds, "minibatches", (self.model.n_steps * self.num_envs,))

    def minibatches(self, rollout: SeedRollout) -> Iterator[tuple[np.ndarray, Sequence[Tensor]]]:
        """Iterate over the minibatches of one epoch.

        Yields:
            Row numbers of the rollout, ``(seeds, batch)``; and tensors that :meth:`evaluate` takes
            before the deduplicated observations: none for a feed-forward policy.
        """
        order = self.shuffling.draw().argsort(1)
        for begin in range(0, order.shape[1], self.batch_size):
            yield order[:, begin : begin + self.batch_size], ()

    def evaluate(
        self, own: Sequence[Tensor], actions: Tensor, inputs: Sequence[Tensor]
    ) -> PolicyEvaluation:
        """Evaluate the policies on a minibatch in training mode; traced.

        Args:
            own: weights and buffers of the policies.
            actions: actions of the minibatch, ``(seeds, rows, ...)``.
            inputs: :meth:`saliency` of its rows and tensors of :meth:`minibatches` (action masks, if
                there are any), then those of :meth:`DedupPlan.prepare_minibatch`.
        """
        return self._evaluate(own, actions, inputs, training=True)

    def _evaluate(
        self, own: Sequence[Tensor], actions: Tensor, inputs: Sequence[Tensor], training: bool
    ) -> PolicyEvaluation:
        given = len(self.priors.norms)
        first = given + self.num_masks

        def evaluate(policy: ActorCriticPolicy, a: Tensor, *tensors: Tensor) -> Any:
            shares, masks, (x, *others) = tensors[:given], tensors[given:first], tensors[first:]
            patches, repeated = self.dedup.patch_context(policy, x, others)
            weighted = (
                weight_observations(policy, *repeated[1:]) if repeated else contextlib.nullcontext()
            )
            with patches, weighted, self.priors.given(shares):
                values, distribution = values_and_distribution(policy, x, *repeated[:1])
            return values[:, 0], *log_probs_and_entropies(allow(distribution, masks), a)

        return PolicyEvaluation(
            *self.stack.vmap_modules(evaluate, own, actions, *inputs, training=training)
        )

    # saliency priors

    def saliency(
        self, actions: np.ndarray, rewards: np.ndarray, advantages: np.ndarray
    ) -> list[Tensor]:
        """Compute the named priors of a rollout, ``(seeds, rows)`` each; see :mod:`rn_rl.agents.priors`.

        Args:
            actions: ``(seeds, rows)``; continuous ones have components, and no ``prior=action``.
            rewards: ``(seeds, rows)``.
            advantages: ``(seeds, rows)``.
        """
        orders = []
        if self.prior_shuffling is not None:
            drawn = self.prior_shuffling.draw().argsort(-1)
            orders = [torch.from_numpy(drawn[:, i].copy()) for i in range(drawn.shape[1])]
        labels, r, errors = (torch.from_numpy(array) for array in (actions, rewards, advantages))
        return [s.to(self.model.device) for s in self.priors.shares(labels, r, errors, orders)]

    def evaluate_again(
        self, observations: np.ndarray, actions: np.ndarray, shares: Sequence[Tensor]
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return values and log probabilities of a rollout under its priors, ``(seeds, rows)`` each.

        Args:
            observations: ``(seeds, rows, ...)``.
            actions: ``(seeds, rows, ...)``.
            shares: result of :meth:`saliency`.
        """
        found = []
        for begin in range(0, actions.shape[1], self.batch_size):
            rows = slice(begin, begin + self.batch_size)
            arrays = self.tensor(actions[:, rows]), self.tensor(observations[:, rows])
            own = self.stack.tensors
            some = [s[:, rows].contiguous() for s in shares]
            outputs = self._evaluation(*own, arrays[0], *some, arrays[1])
            found.append([part.cpu().numpy() for part in outputs])
        values, log_probs = (np.concatenate(parts, 1) for parts in zip(*found, strict=True))
        return values, log_probs

    def _compute_evaluation(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        own = len(self.stack.tensors)
        found = self._evaluate(tensors[:own], tensors[own], tensors[own + 1 :], training=False)
        return found.values.detach(), found.log_probs.detach()

    # traced functions of the stack's tensors, then observations, uniform random numbers, masks

    def _compute_act(self, *tensors: Tensor) -> Any:
        own = len(self.stack.tensors)

        def act(policy: ActorCriticPolicy, x: Tensor, u: Tensor, *masks: Tensor) -> Any:
            values, distribution = values_and_distribution(policy, x)
            actions = sample(allow(distribution, masks), u)
            return actions, values[:, 0], distribution.log_prob(actions)

        return self.stack.vmap_modules(act, tensors[:own], *tensors[own:])

    def _compute_heads(self, *tensors: Tensor) -> Any:
        *own, observations = tensors

        def heads(policy: ActorCriticPolicy, x: Tensor) -> tuple[Tensor, Tensor]:
            values, distribution = values_and_distribution(policy, x)
            return values[:, 0], distribution.distribution.logits  # type: ignore[union-attr]

        return self.stack.vmap_modules(heads, own, observations)

    def _compute_modes(self, *tensors: Tensor) -> Any:
        own = len(self.stack.tensors)

        def mode(policy: ActorCriticPolicy, x: Tensor, *masks: Tensor) -> Tensor:
            result: Tensor = allow(policy.get_distribution(x), masks).mode()
            return result

        return self.stack.vmap_modules(mode, tensors[:own], *tensors[own:])

    def _compute_values(self, *tensors: Tensor) -> Tensor:
        *own, observations = tensors

        def values(policy: ActorCriticPolicy, x: Tensor) -> Tensor:
            return policy.predict_values(x)[:, 0]

        result: Tensor = self.stack.vmap_modules(values, own, observations)
        return result

    def _compute_parameters(self, *tensors: Tensor) -> Any:
        own = len(self.stack.tensors)

        def parameters(policy: ActorCriticPolicy, x: Tensor, *masks: Tensor) -> tuple[Tensor, ...]:
            return distribution_parameters(allow(policy.get_distribution(x), masks))

        return self.stack.vmap_modules(parameters, tensors[:own], *tensors[own:])

    # checkpoints

    def streams(self) -> list[Streams]:
        """Return the random number streams of acting and learning."""
        return [self.sampling, self.shuffling, *filter(None, [self.prior_shuffling])]

    def state(self, seed: int) -> dict[str, np.ndarray]:
        """Return arrays that a checkpoint of one seed stores beside the networks."""
        return {}

    def restore(self, arrays: Sequence[Mapping[str, np.ndarray]]) -> None:
        """Load the :meth:`state` of every seed."""
