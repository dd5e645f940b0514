"""Seed batch of TQC."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import torch
from sb3_contrib import TQC
from sb3_contrib.common.utils import quantile_huber_loss
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor

from rn_rl.agents.seed_batch.continuous import CRITIC
from rn_rl.agents.seed_batch.minibatch import Transitions
from rn_rl.agents.seed_batch.sac import SeedBatchSAC
from rn_rl.engine.ensemble import ModuleStack
from rn_rl.normalization import unobserved


class SeedBatchTQC(SeedBatchSAC):
    """sb3-contrib's TQC for S seeds at once; see :class:`~rn_rl.agents.SeedBatch`.

    It is SAC whose critics learn quantiles, of which the target drops the largest (Kuznetsov et al.,
    2020, arXiv:2005.04269).
    """

    algorithm: ClassVar[type[BaseAlgorithm]] = TQC

    @staticmethod
    def _quantiles(critic: Any, observations: Tensor, actions: Tensor) -> Tensor:
        """Return the quantiles of all critics of one seed, ``(n, critics, quantiles)``."""
        found: Tensor = critic(observations, actions)
        return found

    def next_values(self, target: Sequence[Tensor], x: Tensor, actions: Tensor) -> Tensor:
        """Return the quantiles that are left of the target critics, ``(seeds, batch, quantiles)``."""
        model: Any = self.model
        kept = model.critic.quantiles_total
        kept -= model.top_quantiles_to_drop_per_net * model.critic.n_critics
        found = self.targets[CRITIC].vmap_modules(self._quantiles, target, x, actions)
        ordered: Tensor = found.flatten(2).sort(2)[0]
        return ordered[:, :, :kept]

    def critic_losses(
        self, critic: Sequence[Tensor], batch: Transitions, targets: Tensor
    ) -> Tensor:
        """Return the quantile Huber losses, means over critics and quantiles, ``(seeds,)``."""
        found = self.critic.vmap_modules(
            self._quantiles, critic, batch.observations, batch.actions, training=True
        )

        def loss(current: Tensor, wanted: Tensor) -> Tensor:
            value: Tensor = quantile_huber_loss(current, wanted, sum_over_quantiles=False)
            return value

        losses: Tensor = torch.vmap(loss)(found, targets[:, :, None])
        return losses

    def actor_values(self, critic: Sequence[Tensor], x: Tensor, actions: Tensor) -> Tensor:
        """Return the means over critics and quantiles, ``(seeds, batch, 1)``."""

        def mean(network: Any, x: Tensor, actions: Tensor) -> Tensor:
            with unobserved(network):
                return self._quantiles(network, x, actions).mean((1, 2))[:, None]

        values: Tensor = self.critic.vmap_modules(mean, critic, x, actions, training=True)
        return values

    def probed(self) -> dict[str, tuple[ModuleStack, Callable[..., Any]]]:
        networks = super().probed()
        for name, (stack, _) in networks.items():
            if name.startswith("critic"):
                networks[name] = stack, self._quantiles
        return networks
