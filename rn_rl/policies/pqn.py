"""Policy class of PQN: one Q-network with normalizers, without a target network."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor

from rn_rl.errors import UserError
from rn_rl.policies.q_policies import NormDQNPolicy


class NormPQNPolicy(NormDQNPolicy):
    """Q-network of :class:`~rn_rl.agents.PQN`, which acts epsilon-greedily while it collects a rollout.

    Args:
        args: see :class:`~rn_rl.policies.norm_policy.NormPolicyMixin`.
        use_sde: accepted as SB3 passes it; there is no state-dependent exploration of discrete actions.
        exploration_rate: epsilon, which the agent changes.
        reward_scale: factor on rewards under which the network learns; values are divided by it.
        acting_observes: accepted as False, as saved policies have it; PQN acts and learns on the same
            observations, so there is nothing more to observe.
        kwargs: see :class:`~rn_rl.policies.norm_policy.NormPolicyMixin`.

    Raises:
        UserError: ``acting_observes=True``.
    """

    def __init__(
        self,
        *args: Any,
        use_sde: bool = False,
        exploration_rate: float = 1.0,
        reward_scale: float = 1.0,
        acting_observes: bool = False,
        **kwargs: Any,
    ) -> None:
        if acting_observes:
            raise UserError(
                "acting_observes=True with PQN: it learns from what it acted on; expected DQN, or False"
            )
        super().__init__(*args, **kwargs)
        self.exploration_rate, self.reward_scale = exploration_rate, reward_scale

    def _get_constructor_parameters(self) -> dict[str, Any]:
        parameters: dict[str, Any] = super()._get_constructor_parameters()
        own = ("exploration_rate", "reward_scale")
        return {**parameters, **{name: getattr(self, name) for name in own}}

    def _build(self, lr_schedule: Schedule) -> None:
        # NormDQNPolicy's and SB3's build a target network too
        if self.net != "mlp":
            self.net_args["net"] = self.net
        if self.value_norm != "none":
            self.net_args["value_norm"] = self.value_norm
        self.q_net = self.make_q_net()
        make: Any = self.optimizer_class
        self.optimizer = make(self.q_net.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)

    def forward(  # type: ignore[override]
        self, obs: PyTorchObs, deterministic: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Act, as SB3's on-policy algorithms ask a policy to.

        Returns:
            Epsilon-greedy actions ``(n,)``, values ``max_a Q(s, a)`` in units of rewards, ``(n, 1)``, and
            zeros in place of log probabilities.
        """
        q_values = self.q_net(obs)
        values = q_values.amax(1, keepdim=True) / self.reward_scale
        actions = q_values.argmax(1)
        if not deterministic:
            actions = self.explore(actions, q_values.shape[1])
        return actions, values, torch.zeros_like(values[:, 0])

    def explore(self, actions: Tensor, count: int) -> Tensor:
        """Replace each action by a random one with probability epsilon."""
        chance = torch.rand(actions.shape, device=actions.device)
        random = torch.randint(count, actions.shape, device=actions.device)
        return torch.where(chance < self.exploration_rate, random, actions)

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Return ``max_a Q(s, a)`` in units of rewards, ``(n, 1)``."""
        values: Tensor = self.q_net(obs).amax(1, keepdim=True) / self.reward_scale
        return values

    def _predict(self, obs: PyTorchObs, deterministic: bool = True) -> Tensor:
        actions: Tensor = self(obs, deterministic)[0]
        return actions
