"""Seed batch of PPO."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn
from torch.distributions import Distribution

from rn_rl.agents.priors import NetworkPriors
from rn_rl.agents.seed_batch import optimizer as optimizers
from rn_rl.agents.seed_batch.actor_critic import ActorCritics, PolicyEvaluation
from rn_rl.agents.seed_batch.base import SeedBatch
from rn_rl.agents.seed_batch.distributions import values_and_distribution
from rn_rl.agents.seed_batch.minibatch import ClipRanges, RolloutSamples, unflatten
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.agents.seed_batch.rollout import PolicyOutput, SeedRollout, by_seed
from rn_rl.agents.seed_batch.vector_envs import Masks, SeedEnvs
from rn_rl.engine.dedup.patches import Patches
from rn_rl.engine.ensemble import ModuleStack
from rn_rl.engine.trace import TracedFunction
from rn_rl.policies.divergence import evenly_spaced

LOSSES = (
    "train/policy_gradient_loss",
    "train/value_loss",
    "train/entropy_loss",
    "train/approx_kl",
)
"""Losses of a minibatch of PPO, by the names that SB3 logs."""


class SeedBatchPPO(SeedBatch[PPO]):
    """SB3's PPO for S seeds at once; see :class:`~rn_rl.agents.seed_batch.base.SeedBatch`.

    This class has the training loop and the loss; :class:`~rn_rl.agents.seed_batch.rollout.SeedRollout`
    stores rollouts and computes advantages; :class:`~rn_rl.agents.seed_batch.actor_critic.ActorCritics`
    evaluates the policies.

    Args:
        models: SB3 agents that have not learned yet, one for each seed.
        envs: environments of all seeds.
        compile: compile the update with ``torch.compile``, which takes some ten seconds once.
    """

    algorithm: ClassVar[type[BaseAlgorithm]] = PPO
    gives_priors: ClassVar[bool] = True
    policy_class: ClassVar[type[ActorCritics]] = ActorCritics
    """Class that evaluates the policies."""
    loss_names: ClassVar[tuple[str, ...]] = LOSSES
    """Losses of a minibatch, by the names that SB3 logs."""
    model: PPO

    def __init__(self, models: Sequence[PPO], envs: SeedEnvs, compile: bool = False) -> None:
        super().__init__(models, envs, compile)
        model: Any = self.model
        self.actor_critics = self.policy_class(self.stack, model, self.seeds, envs.num_envs)
        self.rollout = SeedRollout(
            model.n_steps, self.size, envs.num_envs, model.observation_space, model.action_space
        )
        self.starts = np.ones((self.size, envs.num_envs), np.float32)
        """1 where the last observation begins an episode, ``(seeds, envs)``."""
        own = len(self.stack.tensors)
        self._gradients = TracedFunction(self._compute_gradients, compile, num_static=own)

    @classmethod
    def network(cls, model: Any) -> nn.Module:
        policy: nn.Module = model.policy
        return policy

    @classmethod
    def cannot(cls, model: Any) -> str | None:
        reason = super().cannot(model)
        if reason:
            return reason
        if getattr(model, "target_kl", None) is not None:
            return "target_kl is set, which would end the epochs of each seed at another time"
        box = isinstance(model.action_space, spaces.Box)
        if box and "action" in NetworkPriors(model.policy).names:
            return f"prior=action with actions {model.action_space}, of which no two are equal"
        return cls.policy_class.cannot(model)

    def act(self, observations: np.ndarray, t: int) -> PolicyOutput:
        """Sample actions for step t of a rollout from observations ``(seeds, envs, ...)``."""
        return self.actor_critics.act(observations, self.starts, t)

    @property
    def rollout_length(self) -> int:
        return self.model.n_steps

    @property
    def n_epochs(self) -> int:
        """Number of times that each rollout is learned from."""
        return self.model.n_epochs

    def step(self, t: int) -> None:
        observations: Any = self.last_observations
        output = self.act(observations, t)
        step = self.envs.step(self.actor_critics.within_bounds(output.actions))
        rewards = step.rewards
        if step.timeouts.any():  # add the value of the return that the time limit cut off
            future = self.values(step.next_observations)
            rewards = rewards + self.model.gamma * np.where(step.timeouts, future, 0)
        self.rollout.add(t, observations, output, rewards, self.starts)
        self.starts = step.dones.astype(np.float32)
        self.last_observations = step.observations
        self.count_step()

    def values(self, observations: np.ndarray) -> np.ndarray:
        """Return the values ``(seeds, n)`` of observations that continue the current episodes."""
        return self.actor_critics.values(observations, np.zeros_like(self.starts))

    def begin_episodes(self) -> None:
        super().begin_episodes()
        self.starts[:] = 1

    def advantages(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute advantages and returns of the rollout, ``(steps, seeds, envs)`` each."""
        assert self.last_observations is not None
        last_values = self.actor_critics.values(self.last_observations, self.starts)
        model = self.model
        return self.rollout.advantages(last_values, self.starts, model.gamma, model.gae_lambda)

    def train(self) -> None:
        rollout, dedup = self.rollout, self.actor_critics.dedup
        advantages, returns = self.advantages()
        self.set_training_mode(True)
        self.set_learning_rate()
        rows = [rollout.observations, rollout.actions, rollout.values, rollout.log_probs]
        by_row = [by_seed(array) for array in (*rows, advantages, returns)]
        shares: list[Tensor] = []
        if self.actor_critics.priors:
            rewards = by_seed(rollout.rewards)
            shares = self.actor_critics.saliency(by_row[1], rewards, by_row[4])
            again = self.actor_critics.evaluate_again(by_row[0], by_row[1], shares)
            by_row[2:4] = [array.astype(rollout.values.dtype) for array in again]
        row_ids, patches = dedup.analyze_rollout(by_row[0])
        flat = [self.tensor(array).flatten(0, 1) for array in by_row[patches is not None :]]
        flat += [s.flatten(0, 1) for s in shares]
        first = np.arange(self.size)[:, None] * by_row[0].shape[1]

        def moments() -> Iterable[Tensor]:
            return optimizers.state_tensors(self.optimizer).values()

        with dedup.position_major_weights(patches, moments):
            for _ in range(self.n_epochs):
                for chosen, sequences in self.actor_critics.minibatches(rollout):
                    where = self.tensor((chosen + first).reshape(-1))
                    parts = [
                        x.index_select(0, where).view(*chosen.shape, *x.shape[1:]) for x in flat
                    ]
                    given = [parts.pop() for _ in shares][::-1]
                    self.update(
                        parts.pop(0) if patches is None else patches.contents,
                        RolloutSamples(*parts),
                        None if row_ids is None else np.take_along_axis(row_ids, chosen, 1),
                        patches,
                        [*given, *sequences],
                    )
        self.num_updates += self.n_epochs

    def update(
        self,
        observations: Tensor,
        samples: RolloutSamples,
        row_ids: np.ndarray | None = None,
        patches: Patches | None = None,
        sequences: Sequence[Tensor] = (),
    ) -> None:
        """Take one gradient step of every seed.

        Args:
            observations: ``(seeds, batch, ...)``; ``patches.contents`` if there are patches.
            samples: the rest of the minibatch.
            row_ids: equal for equal observations, ``(seeds, batch)``, see
                :func:`~rn_rl.engine.dedup.rows.row_ids`: each distinct observation then passes through
                the networks once, with the same gradients.
            patches: unique patches of the rollout's images, of which each passes through the
                convolutions once, with the same gradients.
            sequences: saliency priors of the rows, and tensors of :meth:`ActorCritics.minibatches`.
        """
        self.stack.weights.grad, losses = self._gradients(
            *self.stack.tensors,
            *samples,
            *self.clip_ranges(),
            *sequences,
            *self.actor_critics.dedup.prepare_minibatch(observations, row_ids, patches),
        )
        self.losses = dict(zip(self.loss_names, losses, strict=True))
        self.step_optimizer()

    def clip_ranges(self) -> ClipRanges:
        """Return the present clip ranges of ratios and values, by their schedules."""
        model: Any = self.model
        clip_values = 0.0
        if model.clip_range_vf is not None:
            clip_values = float(model.clip_range_vf(self.progress_remaining))
        return ClipRanges(
            *(
                torch.tensor(clip, dtype=torch.float64, device=self.device)
                for clip in (float(model.clip_range(self.progress_remaining)), clip_values)
            )
        )

    def _compute_gradients(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Compute clipped gradients ``(seeds, P)``, and losses in the order of :attr:`loss_names`."""
        own = len(self.stack.tensors)
        leaves, online = self.leaves(tensors[:own])
        samples, clips, inputs = unflatten(tensors[own:], RolloutSamples, ClipRanges)
        output = self.actor_critics.evaluate(online, samples.actions, inputs)
        loss, losses = self.compute_losses(output, samples, clips)
        return self.clipped_gradients(loss, leaves), losses.detach()

    def compute_losses(
        self, output: PolicyEvaluation, samples: RolloutSamples, clips: ClipRanges
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss of every seed, ``(seeds,)``, and its parts, ``(4, seeds)``.

        With ``ratio = exp(log_prob - old_log_prob)``, means over the rows of the minibatch:
        ``-mean(min(A * ratio, A * clip(ratio, 1 - c, 1 + c))) - ent_coef * mean(entropy)
        + vf_coef * mean((returns - values)^2)``, as in SB3 (Schulman et al., 2017, arXiv:1707.06347).
        Traced, so it must be a pure function.
        """
        model: Any = self.model
        values, log_probs, entropies, mask = output
        advantages = samples.advantages
        if model.normalize_advantage and advantages.shape[1] > 1:
            advantages = standardized(advantages, mask)
        log_ratio = log_probs - samples.old_log_probs
        ratio = log_ratio.exp()
        clipped = torch.clamp(ratio, 1 - clips.ratio, 1 + clips.ratio)
        policy_loss = -masked_mean(torch.min(advantages * ratio, advantages * clipped), mask)
        if model.clip_range_vf is not None:
            moved = torch.clamp(values - samples.old_values, -clips.values, clips.values)
            values = samples.old_values + moved
        value_loss = masked_mean((samples.returns - values).square(), mask)
        entropy_loss = -masked_mean(entropies, mask)
        loss = policy_loss + model.ent_coef * entropy_loss + model.vf_coef * value_loss
        approx_kl = masked_mean(ratio - 1 - log_ratio, mask)
        return loss, torch.stack((policy_loss, value_loss, entropy_loss, approx_kl))

    def policies(self, tensors: Sequence[Tensor], observations: Tensor) -> Distribution:
        return self.actor_critics.distributions(tensors, observations)

    def recent_observations(self, rows: int) -> Tensor | None:
        if not self.num_updates:
            return None
        observations = by_seed(self.rollout.observations)
        return self.tensor(observations[:, evenly_spaced(observations.shape[1], rows)])

    def probed(self) -> dict[str, tuple[ModuleStack, Callable[..., Any]]]:
        return {"": (self.stack, lambda policy, x: values_and_distribution(policy, x)[0])}

    def predict(
        self, observations: np.ndarray, deterministic: bool = True, noise: np.ndarray | None = None
    ) -> np.ndarray:
        if deterministic:
            return self.actor_critics.predict(observations, None)
        assert noise is not None
        return self.actor_critics.predict(observations, noise)

    def player(
        self, noise: Streams | None, masks: Masks | None = None
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        return self.actor_critics.player(noise, masks)

    def streams(self) -> list[Streams]:
        return self.actor_critics.streams()

    def state(self, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, plain = super().state(seed)
        arrays["starts"] = self.starts[seed]
        return {**arrays, **self.actor_critics.state(seed)}, plain

    def restore(self, stored: Sequence[tuple[Mapping[str, np.ndarray], dict[str, Any]]]) -> None:
        super().restore(stored)
        self.starts = np.stack([arrays["starts"] for arrays, _ in stored])
        self.actor_critics.restore([arrays for arrays, _ in stored])


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the means ``(seeds,)`` of the rows of ``(seeds, rows)`` that are not padding."""
    return x.mean(1) if mask is None else (x * mask).sum(1) / mask.sum(1)


def standardized(x: Tensor, mask: Tensor | None) -> Tensor:
    """Shift and scale the rows of ``(seeds, rows)`` to mean 0 and standard deviation 1 in each seed."""
    count: Any = x.shape[1] if mask is None else mask.sum(1)
    centred = x - masked_mean(x, mask)[:, None]
    variance = masked_mean(centred.square(), mask) * (count / (count - 1))
    return centred / (variance.sqrt()[:, None] + 1e-8)
