"""Normalizers as torch modules; imports neither Stable-Baselines3 nor gymnasium."""

from rn_rl.normalization.phase import (
    PhaseNorm,
    observation_weights,
    phase_norms,
    state_before_commit,
    unobserved,
)
from rn_rl.normalization.plugins import adopt, register
from rn_rl.normalization.popart import PopArt
from rn_rl.normalization.projection import constraints, project, project_after_steps
from rn_rl.normalization.published import PublishedRegularityNorm, observed_acting
from rn_rl.normalization.registry import REGISTRY, available_normalizers, make_normalizers
from rn_rl.normalization.regularity import RegularityNorm
from rn_rl.normalization.running import RunningNorm
from rn_rl.normalization.saliency import (
    NamedPrior,
    SaliencyNorm,
    class_shares,
    named_priors,
    saliency_prior,
    tail_shares,
)
from rn_rl.normalization.specs import (
    canonical_spec,
    check_importable,
    check_recordings,
    imported_names,
    origins,
    parse_spec,
    prior_terms,
    split_names,
    split_outside,
)
from rn_rl.normalization.steps import CommitEvery, commit_every

__all__ = [
    "REGISTRY",
    "CommitEvery",
    "NamedPrior",
    "PhaseNorm",
    "PopArt",
    "PublishedRegularityNorm",
    "RegularityNorm",
    "RunningNorm",
    "SaliencyNorm",
    "adopt",
    "available_normalizers",
    "canonical_spec",
    "check_importable",
    "check_recordings",
    "class_shares",
    "commit_every",
    "constraints",
    "imported_names",
    "make_normalizers",
    "named_priors",
    "observation_weights",
    "observed_acting",
    "origins",
    "parse_spec",
    "phase_norms",
    "prior_terms",
    "project",
    "project_after_steps",
    "register",
    "saliency_prior",
    "split_names",
    "split_outside",
    "state_before_commit",
    "tail_shares",
    "unobserved",
]
