"""What the networks of on-policy agents say, and actions sampled from it."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from rn_rl.engine.ops.gather import gather_rows


def sample(distribution: Distribution, uniform: Tensor) -> Tensor:
    """Actions from uniform random numbers ``(n, components)``, by the inverse of a distribution.

    Discrete actions have one component.
    """
    if isinstance(distribution, CategoricalDistribution):
        below = distribution.distribution.probs.double().cumsum(1)[:, :-1] < uniform.double()
        return below.sum(1)
    gaussian: Any = distribution.distribution
    tiny = torch.finfo(torch.float32).eps
    normal = torch.special.ndtri(uniform.clamp(tiny, 1 - tiny))
    return gaussian.mean + gaussian.stddev * normal.to(gaussian.mean.dtype)


def components(space: spaces.Space) -> int:
    """Uniform random numbers that one action takes."""
    return 1 if isinstance(space, spaces.Discrete) else int(np.prod(space.shape or ()))


def values_and_distribution(
    policy: ActorCriticPolicy, x: Tensor, where: Tensor | None = None
) -> tuple[Tensor, Distribution]:
    """What ``ActorCriticPolicy.forward`` computes before it samples, for all rows of x or for these."""
    features = policy.extract_features(x)
    if policy.share_features_extractor:
        latent_pi, latent_vf = policy.mlp_extractor(features)
    else:
        latent_pi = policy.mlp_extractor.forward_actor(features[0])
        latent_vf = policy.mlp_extractor.forward_critic(features[1])
    values = policy.value_net(latent_vf)
    discrete = isinstance(policy.action_dist, CategoricalDistribution)
    if where is not None and not discrete:
        latent_pi = gather_rows(latent_pi, where)
    distribution = policy._get_action_dist_from_latent(latent_pi)
    if where is None:
        return values, distribution
    if discrete:  # a few logits are looked up faster than what they are made from
        categorical: Any = distribution.distribution
        distribution = distribution.proba_distribution(gather_rows(categorical.logits, where))
    return gather_rows(values, where), distribution
