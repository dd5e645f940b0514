"""Policy classes with normalizers for DQN and QR-DQN."""

from __future__ import annotations

import warnings
from typing import Any

from sb3_contrib.qrdqn.policies import QRDQNPolicy, QuantileNetwork
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import Tensor, nn

from rn_rl.errors import UserError
from rn_rl.normalization import (
    PublishedRegularityNorm,
    RegularityNorm,
    observed_acting,
    phase_norms,
)
from rn_rl.policies.norm_policy import NormNetworkMixin, NormPolicyMixin, freeze_normalizers


class NormQNetwork(NormNetworkMixin, QNetwork):
    """SB3's Q-network with normalizers."""

    hidden = "q_net"


class NormQuantileNetwork(NormNetworkMixin, QuantileNetwork):
    """sb3-contrib's quantile network with normalizers."""

    hidden = "quantile_net"


def warn_unbounded_gain(network: nn.Module, norm: str) -> None:
    """Warn if a Q-network that begins to train has a regularity normalizer that never forgets."""
    norms = phase_norms(network).values()
    if any(isinstance(n, RegularityNorm) and n.half_life is None for n in norms):
        warnings.warn(
            f"the gain of {norm} has no bound in DQN: it rises as the logarithm of the number of "
            "commits. On whole LunarLander DQN ended at -518 with rn and at 169 without; bound the gain, "
            "as in rn(half_life=2000), or use ln",
            stacklevel=2,
        )


class WarnsOfGainMixin:
    """Policy that calls :func:`warn_unbounded_gain` when its training begins."""

    _began = False

    def set_training_mode(self, mode: bool) -> None:
        """Set the mode of the networks, as SB3 does before it acts and before it learns."""
        super().set_training_mode(mode)  # type: ignore[misc]
        if mode and not self._began:
            self._began = True
            warn_unbounded_gain(self, self.norm)  # type: ignore[arg-type, attr-defined]


class NormDQNPolicy(WarnsOfGainMixin, NormPolicyMixin, DQNPolicy):
    """SB3's ``DQNPolicy`` with normalizers in every hidden layer of the Q-network.

    The normalizers of the target network are frozen: their state changes only at target updates, by a
    copy from the online network, even if ``policy.train()`` is called.

    Args:
        acting_observes: with ``rn-paper`` or ``rln-paper``, change the state while acting too, as the
            published agents did; see :func:`rn_rl.normalization.observed_acting`. SB3 distinguishes
            acting from evaluation only by ``deterministic=False``, so every such prediction changes
            the state; greedy predictions do not.
        args: see :class:`~rn_rl.policies.norm_policy.NormPolicyMixin`.
        kwargs: see :class:`~rn_rl.policies.norm_policy.NormPolicyMixin`.

    Raises:
        UserError: ``acting_observes`` without ``rn-paper`` or ``rln-paper``.
    """

    def __init__(self, *args: Any, acting_observes: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.acting_observes = acting_observes
        if acting_observes and not any(
            isinstance(n, PublishedRegularityNorm) for n in phase_norms(self.q_net).values()
        ):
            raise UserError(
                f"acting_observes with normalizer {self.norm!r}: expected rn-paper or rln-paper in it, "
                "since the state of others changes between phases only"
            )

    def _predict(self, obs: PyTorchObs, deterministic: bool = True) -> Tensor:
        if self.acting_observes and not deterministic:
            with observed_acting(self.q_net):
                return super()._predict(obs, deterministic)
        return super()._predict(obs, deterministic)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters = super()._get_constructor_parameters()
        return {**parameters, "acting_observes": self.acting_observes}

    def make_q_net(self) -> QNetwork:
        kwargs = self._update_features_extractor(self.net_args, features_extractor=None)
        return NormQNetwork(norm=self.norm, **kwargs).to(self.device)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        freeze_normalizers(self.q_net_target)


class NormQRDQNPolicy(WarnsOfGainMixin, NormPolicyMixin, QRDQNPolicy):
    """sb3-contrib's ``QRDQNPolicy`` with normalizers in every hidden layer of the quantile network.

    The target network is treated as in :class:`NormDQNPolicy`.
    """

    def make_quantile_net(self) -> QuantileNetwork:
        kwargs = self._update_features_extractor(self.net_args, features_extractor=None)
        return NormQuantileNetwork(norm=self.norm, **kwargs).to(self.device)

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        freeze_normalizers(self.quantile_net_target)
