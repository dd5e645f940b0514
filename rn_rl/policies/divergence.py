"""Divergence: how far two states of a policy differ in what it does."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.policies import BasePolicy
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution, kl_divergence


def q_network(policy: BasePolicy) -> nn.Module | None:
    """The online network of DQN and QR-DQN; None for policies with an actor."""
    return getattr(policy, "q_net", None) or getattr(policy, "quantile_net", None)


def behaviour(policy: Any, obs: Any, masks: np.ndarray | None) -> Any:
    """What a policy does with observations: a list of torch distributions, or one tensor.

    The tensor has Q-values for DQN and QR-DQN, and actions in [-1, 1] for TD3 and DDPG.
    """
    network = q_network(policy)
    if network is not None:
        values: Tensor = network(obs)
        return values if values.dim() == 2 else values.mean(1)  # (batch, quantiles, actions)
    actor = getattr(policy, "actor", None)
    if actor is not None:
        if not hasattr(actor, "get_action_dist_params"):
            return actor(obs)
        mean, log_std, others = actor.get_action_dist_params(obs)
        return [actor.action_dist.proba_distribution(mean, log_std, **others).distribution]
    if isinstance(policy, RecurrentActorCriticPolicy):
        rows = len(next(iter(obs.values())) if isinstance(obs, dict) else obs)
        layers, _, width = policy.lstm_hidden_state_shape
        zeros = torch.zeros(layers, rows, width, device=policy.device)
        starts = torch.ones(rows, device=policy.device)
        given: Any = policy.get_distribution(obs, (zeros, zeros), starts)[0]
    elif isinstance(policy, MaskableActorCriticPolicy):
        given = policy.get_distribution(obs, action_masks=masks)
    else:
        given = policy.get_distribution(obs)
    parts = given.distributions if hasattr(given, "distributions") else given.distribution
    return parts if isinstance(parts, list) else [parts]


def mean_kl(old: list[Distribution], new: list[Distribution]) -> float:
    """Mean over rows of KL(old || new); the components of an action are independent, so they add."""
    parts = [kl(p, q) for p, q in zip(old, new, strict=True)]
    return float(sum(part.reshape(len(part), -1).sum(1) for part in parts).mean())  # type: ignore[union-attr]


def kl(p: Distribution, q: Distribution) -> Tensor:
    """``KL(p || q)`` of each row, finite where a probability of q underflows."""
    if isinstance(p, Categorical) and isinstance(q, Categorical):
        # torch's is infinite where a probability of q underflows to 0; its logit does not
        return (p.probs * (p.logits - q.logits)).sum(-1)
    return kl_divergence(p, q)


def evenly_spaced(size: int, rows: int) -> np.ndarray:
    """At most so many positions, spread over all of them."""
    return np.linspace(0, size - 1, min(rows, size)).astype(int)
