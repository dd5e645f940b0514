"""Seed batch of PPO."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor

from rn_rl.agents.priors import NetworkPriors
from rn_rl.agents.seed_batch import optimizer as optimizers
from rn_rl.agents.seed_batch.actor_critic import PolicyEvaluation
from rn_rl.agents.seed_batch.minibatch import (
    ClipRanges,
    RolloutSamples,
    masked_mean,
    standardized,
    unflatten,
)
from rn_rl.agents.seed_batch.on_policy import SeedBatchOnPolicy
from rn_rl.agents.seed_batch.rollout import by_seed
from rn_rl.agents.seed_batch.vector_envs import SeedEnvs
from rn_rl.engine.dedup.patches import Patches
from rn_rl.engine.trace import TracedFunction

LOSSES = (
    "train/policy_gradient_loss",
    "train/value_loss",
    "train/entropy_loss",
    "train/approx_kl",
)
"""Losses of a minibatch of PPO, by the names that SB3 logs."""


class SeedBatchPPO(SeedBatchOnPolicy):
    """SB3's PPO for S seeds at once; see :class:`~rn_rl.agents.seed_batch.on_policy.SeedBatchOnPolicy`.

    Args:
        models: SB3 agents that have not learned yet, one for each seed.
        envs: environments of all seeds.
        compile: compile the update with ``torch.compile``, which takes some ten seconds once.
    """

    algorithm: ClassVar[type[BaseAlgorithm]] = PPO
    gives_priors: ClassVar[bool] = True
    loss_names: ClassVar[tuple[str, ...]] = LOSSES
    """Losses of a minibatch, by the names that SB3 logs."""

    def __init__(
        self, models: Sequence[OnPolicyAlgorithm], envs: SeedEnvs, compile: bool = False
    ) -> None:
        super().__init__(models, envs, compile)
        own = len(self.stack.tensors)
        self._gradients = TracedFunction(self._compute_gradients, compile, num_static=own)

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
        return None

    @property
    def n_epochs(self) -> int:
        """Number of times that each rollout is learned from."""
        epochs: int = self.model.n_epochs
        return epochs

    def train(self) -> None:
        rollout, dedup = self.rollout, self.actor_critics.dedup
        advantages, returns = self.advantages()
        self.observe_returns(returns)
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
