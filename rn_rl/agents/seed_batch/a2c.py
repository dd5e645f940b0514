"""Seed batch of A2C."""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rn_rl.agents.seed_batch.actor_critic import PolicyEvaluation
from rn_rl.agents.seed_batch.minibatch import (
    ClipRanges,
    RolloutSamples,
    masked_mean,
    standardized,
)
from rn_rl.agents.seed_batch.ppo import SeedBatchPPO


class SeedBatchA2C(SeedBatchPPO):
    """SB3's A2C for S seeds at once; see :class:`~rn_rl.agents.SeedBatch`.

    It differs from PPO in its loss, and takes one gradient step on each rollout as a whole.
    """

    algorithm: ClassVar[type[BaseAlgorithm]] = A2C
    gives_priors = False
    loss_names = ("train/policy_loss", "train/value_loss", "train/entropy_loss")

    @property
    def n_epochs(self) -> int:
        return 1

    def clip_ranges(self) -> ClipRanges:
        zero = torch.zeros((), dtype=torch.float64, device=self.device)
        return ClipRanges(zero, zero)

    def compute_losses(
        self, output: PolicyEvaluation, samples: RolloutSamples, clips: ClipRanges
    ) -> tuple[Tensor, Tensor]:
        """Compute the loss of every seed, ``(seeds,)``, and its parts, ``(3, seeds)``.

        ``-mean(A * log_prob) - ent_coef * mean(entropy) + vf_coef * mean((returns - values)^2)``, as in
        SB3 (Mnih et al., 2016, arXiv:1602.01783). Traced, so it must be a pure function.
        """
        model: Any = self.model
        advantages = samples.advantages
        if model.normalize_advantage:
            advantages = standardized(advantages, output.mask)
        policy_loss = -masked_mean(advantages * output.log_probs, output.mask)
        value_loss = masked_mean((samples.returns - output.values).square(), output.mask)
        entropy_loss = -masked_mean(output.entropies, output.mask)
        loss = policy_loss + model.ent_coef * entropy_loss + model.vf_coef * value_loss
        return loss, torch.stack((policy_loss, value_loss, entropy_loss))
