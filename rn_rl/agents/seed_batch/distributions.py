"""Action distributions of one actor-critic policy, and actions sampled from them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib.common.maskable.distributions import MaskableCategoricalDistribution
from stable_baselines3.common.distributions import CategoricalDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor
from torch.distributions import Categorical

from rn_rl.engine.ops.gather import gather_rows

CATEGORICAL = CategoricalDistribution, MaskableCategoricalDistribution
"""SB3's and sb3-contrib's distributions of one discrete action."""


def components(space: spaces.Space) -> int:
    """Return the number of components of an action; each is sampled from one uniform number."""
    return 1 if isinstance(space, spaces.Discrete) else int(np.prod(space.shape or ()))


def sample(distribution: Distribution, uniform: Tensor) -> Tensor:
    """Sample actions by inverting the cumulative distribution function.

    Args:
        distribution: of ``n`` actions, categorical (masked or not) or Gaussian.
        uniform: uniform random numbers in [0, 1), ``(n, components)``.

    Returns:
        Actions, ``(n,)`` if discrete and ``(n, components)`` otherwise.
    """
    inner: Any = distribution.distribution
    if isinstance(inner, Categorical):
        cumulative, point = inner.probs.double().cumsum(1), uniform.double()
        if getattr(inner, "masks", None) is None:
            return (cumulative[:, :-1] < point).sum(1)
        # float32 probabilities may sum to less than 1: a point above would choose a forbidden last action
        return (cumulative[:, :-1] <= point * cumulative[:, -1:]).sum(1)
    gaussian = inner
    tiny = torch.finfo(torch.float32).eps
    normal = torch.special.ndtri(uniform.clamp(tiny, 1 - tiny))
    return gaussian.mean + gaussian.stddev * normal.to(gaussian.mean.dtype)


def distribution_parameters(distribution: Distribution) -> tuple[Tensor, ...]:
    """Return the logits of a categorical distribution, or mean and standard deviation."""
    inner: Any = distribution.distribution
    if isinstance(inner, Categorical):
        return (inner.logits,)
    return inner.mean, inner.stddev


def log_probs_and_entropies(distribution: Distribution, actions: Tensor) -> tuple[Tensor, Tensor]:
    """Return log probabilities of actions, and entropies: ``-log_prob`` if there is no closed form."""
    log_probs, entropies = distribution.log_prob(actions), distribution.entropy()
    return log_probs, -log_probs if entropies is None else entropies


def allow(distribution: Any, masks: Sequence[Tensor]) -> Any:
    """Apply the action masks, one tensor ``(n, actions)`` or none, to a distribution; return it."""
    for mask in masks:
        distribution.apply_masking(mask)
    return distribution


def values_and_distribution(
    policy: ActorCriticPolicy, x: Tensor, where: Tensor | None = None
) -> tuple[Tensor, Distribution]:
    """Compute the values and the action distribution, as ``ActorCriticPolicy.forward`` does.

    Args:
        policy: policy of one seed.
        x: observations ``(n, ...)``.
        where: row of x for each row of the result; None: all rows of x in their order.
    """
    features = policy.extract_features(x)
    if policy.share_features_extractor:
        latent_pi, latent_vf = policy.mlp_extractor(features)
    else:
        latent_pi = policy.mlp_extractor.forward_actor(features[0])
        latent_vf = policy.mlp_extractor.forward_critic(features[1])
    values = policy.value_net(latent_vf)
    discrete = isinstance(policy.action_dist, CATEGORICAL)
    if where is not None and not discrete:
        latent_pi = gather_rows(latent_pi, where)
    distribution = policy._get_action_dist_from_latent(latent_pi)
    if where is None:
        return values, distribution
    if discrete:  # gathering a few logits is faster than gathering the features they come from
        categorical: Any = distribution.distribution
        distribution = distribution.proba_distribution(gather_rows(categorical.logits, where))
    return gather_rows(values, where), distribution
