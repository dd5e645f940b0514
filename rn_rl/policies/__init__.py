"""Normalizers in Stable-Baselines3 agents: ``policy_kwargs()``, Norm policies, feature extractors."""

from rn_rl.policies.ars import NormARSPolicy
from rn_rl.policies.continuous import (
    NormCrossQPolicy,
    NormSACPolicy,
    NormTD3Policy,
    NormTQCPolicy,
)
from rn_rl.policies.deterministic import DeterministicPolicy
from rn_rl.policies.extractors import (
    AutoExtractor,
    DictExtractor,
    MinigridExtractor,
    MlpExtractor,
    NatureExtractor,
    NormExtractor,
)
from rn_rl.policies.kwargs import policy_kwargs
from rn_rl.policies.on_policy import (
    NormActorCriticPolicy,
    NormMaskableActorCriticPolicy,
    NormRecurrentActorCriticPolicy,
)
from rn_rl.policies.pqn import NormPQNPolicy
from rn_rl.policies.q_policies import NormDQNPolicy, NormQRDQNPolicy

__all__ = [
    "AutoExtractor",
    "DeterministicPolicy",
    "DictExtractor",
    "MinigridExtractor",
    "MlpExtractor",
    "NatureExtractor",
    "NormARSPolicy",
    "NormActorCriticPolicy",
    "NormCrossQPolicy",
    "NormDQNPolicy",
    "NormExtractor",
    "NormMaskableActorCriticPolicy",
    "NormPQNPolicy",
    "NormQRDQNPolicy",
    "NormRecurrentActorCriticPolicy",
    "NormSACPolicy",
    "NormTD3Policy",
    "NormTQCPolicy",
    "policy_kwargs",
]
