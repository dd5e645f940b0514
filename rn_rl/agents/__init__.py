"""Agents: SB3 subclasses with replay-aware normalizer state, and their logging."""

from rn_rl.agents.agents import RNDQN, RNPPO
from rn_rl.agents.logging import NormalizerLogger
from rn_rl.agents.replay import AgeWeightedDictReplayBuffer, AgeWeightedReplayBuffer

__all__ = [
    "RNDQN",
    "RNPPO",
    "AgeWeightedDictReplayBuffer",
    "AgeWeightedReplayBuffer",
    "NormalizerLogger",
]
