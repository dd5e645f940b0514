"""Difference between the behaviour of two states of a policy: KL divergence of their actions."""

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
    """Compute the action distributions of a policy, or its Q-values or actions.

    Args:
        policy: any SB3 or sb3-contrib policy but ARS.
        obs: observations as the policy's networks take them, ``(batch, ...)`` or a dict of such.
        masks: allowed actions, for maskable policies; else None.

    Returns:
        A list of torch distributions, one per independent component of the action. For DQN and QR-DQN,
        Q-values ``(batch, actions)``; for TD3 and DDPG, actions in [-1, 1].
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
    """Mean over the batch of ``KL(old || new)`` in nats, summed over the components of an action.

    Args:
        old: distributions as :func:`behaviour` returns them.
        new: distributions of the same kinds and shapes.
    """
    parts = [kl(p, q) for p, q in zip(old, new, strict=True)]
    return float(sum(part.reshape(len(part), -1).sum(1) for part in parts).mean())  # type: ignore[union-attr]


def kl(p: Distribution, q: Distribution) -> Tensor:
    """``KL(p || q)`` of each row in nats, finite where a probability of q underflows."""
    if isinstance(p, Categorical) and isinstance(q, Categorical):
        # torch returns infinity where a probability of q underflows to 0; its logit is finite
        return (p.probs * (p.logits - q.logits)).sum(-1)
    return kl_divergence(p, q)


def evenly_spaced(size: int, rows: int) -> np.ndarray:
    """At most ``rows`` indices, evenly spaced from 0 to ``size - 1``."""
    return np.linspace(0, size - 1, min(rows, size)).astype(int)
