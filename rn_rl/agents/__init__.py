"""Agents: SB3 subclasses with replay-aware normalizer state, their logging, and many seeds at once.

Each name is loaded from its module when it is first asked for.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rn_rl.agents.callbacks import NormalizerLogger
    from rn_rl.agents.replay import AgeWeightedDictReplayBuffer, AgeWeightedReplayBuffer
    from rn_rl.agents.sb3 import RNDQN, RNPPO
    from rn_rl.agents.seed_batch import (
        EnvpoolSeedEnvs,
        SeedBatch,
        SeedBatchDQN,
        SeedBatchPPO,
        SeedBatchRecurrentPPO,
        VecSeedEnvs,
    )

_EXPORTS = {
    "RNDQN": "rn_rl.agents.sb3",
    "RNPPO": "rn_rl.agents.sb3",
    "AgeWeightedDictReplayBuffer": "rn_rl.agents.replay",
    "AgeWeightedReplayBuffer": "rn_rl.agents.replay",
    "NormalizerLogger": "rn_rl.agents.callbacks",
    "EnvpoolSeedEnvs": "rn_rl.agents.seed_batch",
    "SeedBatch": "rn_rl.agents.seed_batch",
    "SeedBatchDQN": "rn_rl.agents.seed_batch",
    "SeedBatchPPO": "rn_rl.agents.seed_batch",
    "SeedBatchRecurrentPPO": "rn_rl.agents.seed_batch",
    "VecSeedEnvs": "rn_rl.agents.seed_batch",
}

__all__ = [
    "RNDQN",
    "RNPPO",
    "AgeWeightedDictReplayBuffer",
    "AgeWeightedReplayBuffer",
    "EnvpoolSeedEnvs",
    "NormalizerLogger",
    "SeedBatch",
    "SeedBatchDQN",
    "SeedBatchPPO",
    "SeedBatchRecurrentPPO",
    "VecSeedEnvs",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'rn_rl.agents' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
