"""The binding to Stable-Baselines3: feature extractors, ``policy_kwargs()``, Norm policies."""

from rn_rl.policies.extractors import (
    DictExtractor,
    MinigridExtractor,
    MlpExtractor,
    NatureExtractor,
    NormExtractor,
)
from rn_rl.policies.kwargs import policy_kwargs
from rn_rl.policies.norm_policies import NormActorCriticPolicy, NormDQNPolicy

__all__ = [
    "DictExtractor",
    "MinigridExtractor",
    "MlpExtractor",
    "NatureExtractor",
    "NormActorCriticPolicy",
    "NormDQNPolicy",
    "NormExtractor",
    "policy_kwargs",
]
