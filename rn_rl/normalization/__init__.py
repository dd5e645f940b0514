"""Normalizers as torch modules; imports neither Stable-Baselines3 nor gymnasium."""

from rn_rl.normalization.phase import (
    PhaseNorm,
    observation_weights,
    phase_norms,
    state_before_commit,
    unobserved,
)
from rn_rl.normalization.published import PublishedRegularityNorm, observed_acting
from rn_rl.normalization.registry import (
    REGISTRY,
    available_normalizers,
    canonical_spec,
    check_recordings,
    make_normalizers,
    parse_spec,
    split_names,
    split_outside,
)
from rn_rl.normalization.regularity import RegularityNorm
from rn_rl.normalization.saliency import SaliencyNorm, class_shares, saliency_prior
from rn_rl.normalization.steps import CommitEvery, commit_every

__all__ = [
    "REGISTRY",
    "CommitEvery",
    "PhaseNorm",
    "PublishedRegularityNorm",
    "RegularityNorm",
    "SaliencyNorm",
    "available_normalizers",
    "canonical_spec",
    "check_recordings",
    "class_shares",
    "commit_every",
    "make_normalizers",
    "observation_weights",
    "observed_acting",
    "parse_spec",
    "phase_norms",
    "saliency_prior",
    "split_names",
    "split_outside",
    "state_before_commit",
    "unobserved",
]
