"""Norm policies for DQN and QR-DQN."""

from __future__ import annotations

from sb3_contrib.qrdqn.policies import QRDQNPolicy, QuantileNetwork
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork

from rn_rl.policies.layers import normalized
from rn_rl.policies.norm_policy import NormPolicyMixin, freeze_normalizers


class NormDQNPolicy(NormPolicyMixin, DQNPolicy):
    """SB3's ``DQNPolicy`` with normalizers in every hidden layer of the Q-network.

    The target network's normalizers are frozen: they take the online network's state at target
    updates and from nowhere else, also when somebody calls ``policy.train()``.
    """

    def make_q_net(self) -> QNetwork:
        q_net = super().make_q_net()
        q_net.q_net = normalized(q_net.q_net, self.norm, len(self.net_arch))
        return q_net

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        freeze_normalizers(self.q_net_target)


class NormQRDQNPolicy(NormPolicyMixin, QRDQNPolicy):
    """sb3-contrib's ``QRDQNPolicy`` with normalizers in every hidden layer of the quantile network.

    Target network: as in :class:`NormDQNPolicy`.
    """

    def make_quantile_net(self) -> QuantileNetwork:
        network = super().make_quantile_net()
        network.quantile_net = normalized(network.quantile_net, self.norm, len(self.net_arch))
        return network

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        freeze_normalizers(self.quantile_net_target)
