"""Normalizers: torch only. No Stable-Baselines3 and no gymnasium below this door."""

from rn_rl.normalization.phase import (
    PhaseNorm,
    observation_weights,
    phase_norms,
    state_before_commit,
    unobserved,
)
from rn_rl.normalization.registry import (
    REGISTRY,
    available_normalizers,
    canonical_spec,
    make_normalizers,
    parse_spec,
)
from rn_rl.normalization.regularity import RegularityNorm

__all__ = [
    "REGISTRY",
    "PhaseNorm",
    "RegularityNorm",
    "available_normalizers",
    "canonical_spec",
    "make_normalizers",
    "observation_weights",
    "parse_spec",
    "phase_norms",
    "state_before_commit",
    "unobserved",
]
