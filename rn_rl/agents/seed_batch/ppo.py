"""PPO for many seeds in one process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn
from torch.distributions import Categorical, Normal
from torch.distributions import Distribution as TorchDistribution

from rn_rl.agents.seed_batch.actor_critic import components, sample, values_and_distribution
from rn_rl.agents.seed_batch.base import SeedBatch
from rn_rl.agents.seed_batch.introspection import answers_by_row, convolutions, first_weights
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.agents.seed_batch.vector_envs import SeedEnvs
from rn_rl.engine.dedup.cache import InferenceCache
from rn_rl.engine.dedup.patches import Patches
from rn_rl.engine.dedup.plan import DedupPlan
from rn_rl.engine.dedup.rows import counted
from rn_rl.engine.ensemble import clip_gradients
from rn_rl.engine.trace import TracedFunction
from rn_rl.policies.divergence import evenly_spaced

LOSSES = (
    "train/policy_gradient_loss",
    "train/value_loss",
    "train/entropy_loss",
    "train/approx_kl",
)
"""What an update gives, by the names that SB3 logs."""


class SeedBatchPPO(SeedBatch[PPO]):
    """SB3's PPO for S seeds at once; see :class:`~rn_rl.agents.seed_batch.base.SeedBatch`.

    Args:
        models: see :class:`~rn_rl.agents.seed_batch.base.SeedBatch`.
        envs: see :class:`~rn_rl.agents.seed_batch.base.SeedBatch`.
        compile: compile the update with ``torch.compile``: some ten seconds once, then faster.
    """

    model: PPO

    def __init__(self, models: Sequence[PPO], envs: SeedEnvs, compile: bool = False) -> None:
        super().__init__(models, envs)
        model = self.model
        length, per_seed = model.n_steps, envs.num_envs
        self.sampling = Streams(self.seeds, "actions", (per_seed, components(model.action_space)))
        self.shuffling = Streams(self.seeds, "minibatches", (length * per_seed,))
        observation, action = model.observation_space, model.action_space
        assert isinstance(observation, spaces.Box) and action.shape is not None
        shape = (length, self.size, per_seed)
        action_type = np.float32 if isinstance(action, spaces.Box) else np.int64
        self.rollout = {
            "observations": np.zeros((*shape, *observation.shape), observation.dtype),
            "actions": np.zeros((*shape, *action.shape), action_type),
            "values": np.zeros(shape, np.float32),
            "log_probs": np.zeros(shape, np.float32),
            "rewards": np.zeros(shape, np.float32),
            "starts": np.zeros(shape, np.float32),
        }
        """Of the current rollout, time first."""
        self.starts = np.ones((self.size, per_seed), np.float32)
        by_row, readers = self.by_row(model.policy), self.readers(model.policy)
        first = convolutions(self.stack.module)
        self.asking = DedupPlan(
            self.stack, observation.shape, model.batch_size, by_row, readers, first
        )
        # of each step, of episodes that end, and after the last step
        most = (2 * length + 1) * per_seed
        self.memo = InferenceCache(self._ask, self.size, most) if self._repeats() else None
        own = len(self.stack.tensors)
        self._act = TracedFunction(self._compute_act, constant=own, values=True)
        self._answers = TracedFunction(self._compute_answers, constant=own, values=True)
        self._predict = TracedFunction(self._compute_predict, constant=own, values=True)
        self._values = TracedFunction(self._compute_values, constant=own, values=True)
        self._parameters = TracedFunction(self._compute_parameters, constant=own, values=True)
        self._gradients = TracedFunction(self._compute_gradients, compile, constant=own)

    @staticmethod
    def network(model: PPO) -> nn.Module:
        return model.policy

    @classmethod
    def cannot(cls, model: BaseAlgorithm) -> str | None:
        reason = super().cannot(model)
        if reason or not isinstance(model, PPO):
            return reason or f"{type(model).__name__} is not PPO"
        return cls.cannot_act(model)

    @staticmethod
    def cannot_act(model: Any) -> str | None:
        """The same of what on-policy agents of any kind have."""
        if not isinstance(model.action_space, spaces.Discrete | spaces.Box):
            return f"actions are {model.action_space}, not Discrete or a Box"
        if model.target_kl is not None:
            return "target_kl is set, which would end the epochs of each seed at another time"
        return None

    def _compute_act(self, *tensors: Tensor) -> Any:
        *own, observations, uniform = tensors

        def act(policy: ActorCriticPolicy, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
            values, distribution = values_and_distribution(policy, x)
            actions = sample(distribution, u)
            return actions, values[:, 0], distribution.log_prob(actions)

        return self.stack.over_seeds(act, own, observations, uniform)

    def by_row(self, policy: Any) -> bool:
        """See :class:`~rn_rl.engine.dedup.plan.DedupPlan`."""
        return answers_by_row(policy)

    def readers(self, policy: Any) -> list[str]:
        """See :class:`~rn_rl.engine.dedup.plan.DedupPlan`."""
        return first_weights(policy)

    def _repeats(self) -> bool:
        """Whether observations can come again, and a network then gives the answer that it gave."""
        observation, action = self.model.observation_space, self.model.action_space
        return (
            np.issubdtype(observation.dtype, np.integer)
            and isinstance(action, spaces.Discrete)
            and self.asking.by_row
            and not getattr(self.model.policy, "acting_observes", False)
        )

    def _ask(self, observations: np.ndarray) -> tuple[np.ndarray, ...]:
        given = self._answers(*self.stack.tensors, self.tensor(observations))
        return tuple(part.cpu().numpy() for part in given)

    def _compute_answers(self, *tensors: Tensor) -> Any:
        *own, observations = tensors

        def answers(policy: ActorCriticPolicy, x: Tensor) -> tuple[Tensor, Tensor]:
            values, distribution = values_and_distribution(policy, x)
            return values[:, 0], distribution.distribution.logits  # type: ignore[union-attr]

        return self.stack.over_seeds(answers, own, observations)

    def _compute_predict(self, *tensors: Tensor) -> Tensor:
        *own, observations = tensors

        def mode(policy: ActorCriticPolicy, x: Tensor) -> Tensor:
            return policy.get_distribution(x).mode()

        result: Tensor = self.stack.over_seeds(mode, own, observations)
        return result

    def _compute_values(self, *tensors: Tensor) -> Tensor:
        *own, observations = tensors

        def values(policy: ActorCriticPolicy, x: Tensor) -> Tensor:
            return policy.predict_values(x)[:, 0]

        result: Tensor = self.stack.over_seeds(values, own, observations)
        return result

    def _compute_gradients(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Clipped gradients ``(seeds, P)`` and losses ``(4, seeds)`` of one minibatch each."""
        own = list(tensors[: len(self.stack.tensors)])
        actions, old_values, old_log_prob, advantages, returns, *given = tensors[len(own) :]
        clip, clip_value, *given = given
        model = self.model
        leaves = [t.detach().requires_grad_() for t in own[: self.stack.parameters]]
        own[: len(leaves)] = leaves
        values, log_prob, entropy = self.evaluate(own, actions, *given)
        if model.normalize_advantage and advantages.shape[1] > 1:
            centred = advantages - self.mean(advantages, given)[:, None]
            count = self.rows(advantages, given)
            squares = self.mean(centred.square(), given) * (count / (count - 1))
            advantages = centred / (squares.sqrt()[:, None] + 1e-8)
        log_ratio = log_prob - old_log_prob
        ratio = log_ratio.exp()
        clipped = torch.clamp(ratio, 1 - clip, 1 + clip)
        policy_loss = -self.mean(torch.min(advantages * ratio, advantages * clipped), given)
        if model.clip_range_vf is not None:
            moved = torch.clamp(values - old_values, -clip_value, clip_value)
            values = old_values + moved
        value_loss = self.mean((returns - values).square(), given)
        entropy_loss = -self.mean(entropy, given)
        loss = policy_loss + model.ent_coef * entropy_loss + model.vf_coef * value_loss
        parts = torch.autograd.grad(loss.sum(), leaves, allow_unused=True)
        gradients = torch.cat(
            [
                (torch.zeros_like(leaf) if part is None else part).flatten(1)
                for part, leaf in zip(parts, leaves, strict=True)
            ],
            1,
        )
        approx_kl = self.mean(ratio - 1 - log_ratio, given)
        losses = torch.stack((policy_loss, value_loss, entropy_loss, approx_kl)).detach()
        return clip_gradients(gradients, model.max_grad_norm), losses

    def mean(self, x: Tensor, given: Sequence[Tensor]) -> Tensor:
        """Of ``(seeds, rows)`` over the rows."""
        return x.mean(1)

    def rows(self, x: Tensor, given: Sequence[Tensor]) -> Any:
        """How many those are."""
        return x.shape[1]

    def evaluate(self, own: Sequence[Tensor], actions: Tensor, *given: Tensor) -> Any:
        """Values, log probabilities and entropies of minibatches, ``(seeds, batch)`` each.

        Args:
            own: what the networks are made of.
            actions: of the minibatches.
            given: what :class:`~rn_rl.engine.dedup.plan.DedupPlan` gave.
        """

        def evaluate(policy: ActorCriticPolicy, a: Tensor, x: Tensor, *others: Tensor) -> Any:
            patches, repeated = self.asking.over_patches(policy, x, others)
            with patches, counted(policy, *repeated[1:]) if repeated else contextlib.nullcontext():
                values, distribution = values_and_distribution(policy, x, *repeated[:1])
            log_prob, entropy = distribution.log_prob(a), distribution.entropy()
            return values[:, 0], log_prob, -log_prob if entropy is None else entropy

        return self.stack.over_seeds(evaluate, own, actions, *given, training=True)

    def update(
        self,
        minibatch: Sequence[Tensor],
        numbers: np.ndarray | None = None,
        patches: Patches | None = None,
        sequences: Sequence[Tensor] = (),
    ) -> None:
        """One gradient step of every seed.

        Args:
            minibatch: observations, actions, old values, old log probabilities, advantages, returns,
                each ``(seeds, batch, ...)``.
            numbers: of the observations, see :func:`~rn_rl.engine.dedup.rows.number_rows`; the networks
                are then asked about each distinct one once, which gives the same numbers.
            patches: what the images with these numbers are put together from; their contents then stand
                for the observations, and convolutions compute each of them once.
            sequences: what :meth:`minibatches` gave with the rows.
        """
        model = self.model
        clip = model.clip_range(self.progress_remaining)  # type: ignore[operator]
        clip_value: Any = model.clip_range_vf
        clip_value = 0.0 if clip_value is None else clip_value(self.progress_remaining)
        # as double: a float32 of 0.2 is not what SB3 clips at
        clips = [torch.tensor(float(c), dtype=torch.float64) for c in (clip, clip_value)]
        observations, *others = minibatch
        self.stack.weights.grad, losses = self._gradients(
            *self.stack.tensors,
            *others,
            *(c.to(self.device) for c in clips),
            *sequences,
            *self.asking.minibatch(observations, numbers, patches),
        )
        self.losses = dict(zip(LOSSES, losses, strict=True))
        self.step_optimizer()

    def policies(self, tensors: Sequence[Tensor], observations: Tensor) -> TorchDistribution:
        first, *std = self._parameters(*tensors, observations)
        if isinstance(self.model.action_space, spaces.Discrete):
            return Categorical(logits=first, validate_args=False)
        return Normal(first, std[0], validate_args=False)

    def _compute_parameters(self, *tensors: Tensor) -> Any:
        *own, observations = tensors

        def parameters(policy: ActorCriticPolicy, x: Tensor) -> tuple[Tensor, ...]:
            given: Any = policy.get_distribution(x).distribution
            if isinstance(given, Categorical):
                return (given.logits,)
            return given.mean, given.stddev

        return self.stack.over_seeds(parameters, own, observations)

    def seen(self, rows: int) -> Tensor | None:
        if not self.num_updates:
            return None
        observations = self.rollout["observations"]
        flat = np.moveaxis(observations, 1, 0).reshape(self.size, -1, *observations.shape[3:])
        return self.tensor(flat[:, evenly_spaced(flat.shape[1], rows)])

    def predict(
        self, observations: np.ndarray, deterministic: bool = True, noise: np.ndarray | None = None
    ) -> np.ndarray:
        x = self.tensor(observations)
        if deterministic:
            actions = self._predict(*self.stack.tensors, x)
        else:
            assert noise is not None
            actions, _, _ = self._act(*self.stack.tensors, x, self.tensor(noise))
        return self.within_bounds(actions.cpu().numpy())

    def act(self, observations: np.ndarray, t: int) -> tuple[np.ndarray, ...]:
        """Sampled actions, values and log probabilities, ``(seeds, envs)``.

        Args:
            observations: of every environment.
            t: step of the rollout; before the first, the networks have changed.
        """
        uniform = self.sampling.draw()
        if self.memo is None:
            given = self.tensor(observations), self.tensor(uniform)
            return tuple(part.cpu().numpy() for part in self._act(*self.stack.tensors, *given))
        if t == 0:
            self.memo.forget()
        values, logits = self.memo(observations)
        below = np.exp(logits, dtype=np.float64).cumsum(2)[..., :-1] < uniform
        actions = below.sum(2)
        return actions, values, np.take_along_axis(logits, actions[..., None], 2)[..., 0]

    def within_bounds(self, actions: np.ndarray) -> np.ndarray:
        """Continuous actions as the environment takes them."""
        space = self.model.action_space
        if not isinstance(space, spaces.Box):
            return actions
        if self.model.policy.squash_output:
            return self.model.policy.unscale_action(actions)
        return np.clip(actions, space.low, space.high)

    def values(self, observations: np.ndarray) -> np.ndarray:
        """V of ``(seeds, n, ...)`` observations."""
        return self._values(*self.stack.tensors, self.tensor(observations)).cpu().numpy()

    def last_values(self) -> np.ndarray:
        """V of what comes after the rollout."""
        assert self.last_observations is not None
        return self.values(self.last_observations)

    @property
    def rollout_length(self) -> int:
        return self.model.n_steps

    def step(self, t: int) -> None:
        observations: Any = self.last_observations
        actions, values, log_probs = self.act(observations, t)
        step = self.envs.step(self.within_bounds(actions))
        rewards = step.rewards
        if step.timeouts.any():  # an episode that was cut off would have gone on
            future = self.values(step.next_observations)
            rewards = rewards + self.model.gamma * np.where(step.timeouts, future, 0)
        row = (observations, actions, values, log_probs, rewards, self.starts)
        for array, value in zip(self.rollout.values(), row, strict=True):
            array[t] = value
        self.starts = step.dones.astype(np.float32)
        self.last_observations = step.observations
        self.count_step()

    def streams(self) -> list[Streams]:
        return [self.sampling, self.shuffling]

    def state(self, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, plain = super().state(seed)
        return {**arrays, "starts": self.starts[seed]}, plain

    def restore(self, stored: Sequence[tuple[Mapping[str, np.ndarray], dict[str, Any]]]) -> None:
        super().restore(stored)
        self.starts = np.stack([arrays["starts"] for arrays, _ in stored])

    def advantages(self) -> tuple[np.ndarray, np.ndarray]:
        """Generalized advantages and returns of the rollout, ``(time, seeds, envs)``."""
        model = self.model
        values, rewards = self.rollout["values"], self.rollout["rewards"]
        next_values = self.last_values()
        advantages = np.zeros_like(values)
        last: Any = 0
        going_on = 1 - self.starts
        for t in reversed(range(model.n_steps)):
            delta = rewards[t] + model.gamma * next_values * going_on - values[t]
            last = delta + model.gamma * model.gae_lambda * going_on * last
            advantages[t] = last
            next_values, going_on = values[t], 1 - self.rollout["starts"][t]
        return advantages, advantages + values

    def train(self) -> None:
        model = self.model
        advantages, returns = self.advantages()
        self.stack.set_training_mode(True)
        self.set_learning_rate()
        kept = ("observations", "actions", "values", "log_probs")
        parts = [*(self.rollout[name] for name in kept), advantages, returns]
        rows_of_seed = model.n_steps * self.envs.num_envs
        # (time, seeds, envs, ...) to (seeds, time * envs, ...)
        by_seed = [
            np.moveaxis(part, 1, 0).reshape(self.size, rows_of_seed, *part.shape[3:])
            for part in parts
        ]
        numbers, patches = self.asking.rollout(by_seed[0])
        flat = [self.tensor(part).flatten(0, 1) for part in by_seed[patches is not None :]]
        first = np.arange(self.size)[:, None] * rows_of_seed
        with self.asking.columns_by_place(patches, lambda: self._optimizer_state().values()):
            for _ in range(model.n_epochs):
                for chosen, sequences in self.minibatches():
                    where = self.tensor((chosen + first).reshape(-1))
                    minibatch = [
                        x.index_select(0, where).view(*chosen.shape, *x.shape[1:]) for x in flat
                    ]
                    self.update(
                        minibatch if patches is None else [patches.contents, *minibatch],
                        None if numbers is None else np.take_along_axis(numbers, chosen, 1),
                        patches,
                        sequences,
                    )
        self.num_updates += model.n_epochs

    def minibatches(self) -> Iterator[tuple[np.ndarray, Sequence[Tensor]]]:
        """For one epoch: rows of the rollout, ``(seeds, batch)``, and what else belongs to them."""
        order = self.shuffling.draw().argsort(1)
        for begin in range(0, order.shape[1], self.model.batch_size):
            yield order[:, begin : begin + self.model.batch_size], ()
