"""Seed batch of QR-DQN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from sb3_contrib import QRDQN
from sb3_contrib.common.utils import quantile_huber_loss
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn

from rn_rl.agents.seed_batch.dqn import SeedBatchDQN
from rn_rl.agents.seed_batch.minibatch import Transitions


class SeedBatchQRDQN(SeedBatchDQN):
    """sb3-contrib's QR-DQN for S seeds at once; see :class:`~rn_rl.agents.SeedBatch`.

    The loss is the quantile Huber loss, summed over the quantiles of a network and averaged over those
    of the target and over the minibatch (Dabney et al., 2018, arXiv:1710.10044). Actions are greedy with
    respect to the mean over quantiles.
    """

    algorithm: ClassVar[type[BaseAlgorithm]] = QRDQN
    network_name = "quantile_net"
    gives_priors = False

    @staticmethod
    def q_of(network: nn.Module, observations: Tensor) -> Tensor:
        values: Tensor = network(observations).mean(1)  # (n, quantiles, actions)
        return values

    @staticmethod
    def _quantiles(network: nn.Module, x: Tensor, actions: Tensor | None = None) -> Tensor:
        """Return quantiles ``(batch, quantiles)`` of actions ``(batch, 1)``, or of the greedy ones."""
        found = network(x)
        if actions is None:
            actions = found.mean(1).argmax(1, keepdim=True)
        chosen: Tensor = found.gather(2, actions[:, None].expand(-1, found.shape[1], 1))[:, :, 0]
        return chosen

    def compute_losses(
        self, online: Sequence[Tensor], target: Sequence[Tensor], minibatch: Transitions
    ) -> Tensor:
        with torch.no_grad():
            future = self.target.vmap_modules(self._quantiles, target, minibatch.next_observations)
            targets = minibatch.rewards + (1 - minibatch.dones) * self.model.gamma * future
        current = self.stack.vmap_modules(
            self._quantiles, online, minibatch.observations, minibatch.actions, training=True
        )
        losses: Tensor = torch.vmap(quantile_huber_loss)(current, targets)
        return losses
