"""Agents: SB3 subclasses with age-weighted normalizer state, the logging callback, and seed batches.

Each name is imported from its module at its first use, so that importing this package is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rn_rl.agents.batch_probe import SeedBatchProbe
    from rn_rl.agents.callbacks import NormalizerLogger
    from rn_rl.agents.pqn import PQN
    from rn_rl.agents.probe import ProbeCallback
    from rn_rl.agents.replay import AgeWeightedDictReplayBuffer, AgeWeightedReplayBuffer
    from rn_rl.agents.rndqn import RNDQN
    from rn_rl.agents.rnppo import RNPPO
    from rn_rl.agents.seed_batch import (
        EnvpoolSeedEnvs,
        SeedBatch,
        SeedBatchA2C,
        SeedBatchCrossQ,
        SeedBatchDQN,
        SeedBatchMaskablePPO,
        SeedBatchPPO,
        SeedBatchPQN,
        SeedBatchQRDQN,
        SeedBatchRecurrentPPO,
        SeedBatchSAC,
        SeedBatchTD3,
        SeedBatchTQC,
        SeedBatchTRPO,
        VecSeedEnvs,
    )
    from rn_rl.agents.value_targets import ValueTargets

_EXPORTS = {
    "PQN": "rn_rl.agents.pqn",
    "RNDQN": "rn_rl.agents.rndqn",
    "RNPPO": "rn_rl.agents.rnppo",
    "AgeWeightedDictReplayBuffer": "rn_rl.agents.replay",
    "AgeWeightedReplayBuffer": "rn_rl.agents.replay",
    "NormalizerLogger": "rn_rl.agents.callbacks",
    "ProbeCallback": "rn_rl.agents.probe",
    "SeedBatchProbe": "rn_rl.agents.batch_probe",
    "ValueTargets": "rn_rl.agents.value_targets",
    "EnvpoolSeedEnvs": "rn_rl.agents.seed_batch",
    "SeedBatch": "rn_rl.agents.seed_batch",
    "SeedBatchA2C": "rn_rl.agents.seed_batch",
    "SeedBatchCrossQ": "rn_rl.agents.seed_batch",
    "SeedBatchDQN": "rn_rl.agents.seed_batch",
    "SeedBatchQRDQN": "rn_rl.agents.seed_batch",
    "SeedBatchPQN": "rn_rl.agents.seed_batch",
    "SeedBatchMaskablePPO": "rn_rl.agents.seed_batch",
    "SeedBatchPPO": "rn_rl.agents.seed_batch",
    "SeedBatchRecurrentPPO": "rn_rl.agents.seed_batch",
    "SeedBatchSAC": "rn_rl.agents.seed_batch",
    "SeedBatchTD3": "rn_rl.agents.seed_batch",
    "SeedBatchTQC": "rn_rl.agents.seed_batch",
    "SeedBatchTRPO": "rn_rl.agents.seed_batch",
    "VecSeedEnvs": "rn_rl.agents.seed_batch",
}

__all__ = [
    "PQN",
    "RNDQN",
    "RNPPO",
    "AgeWeightedDictReplayBuffer",
    "AgeWeightedReplayBuffer",
    "EnvpoolSeedEnvs",
    "NormalizerLogger",
    "ProbeCallback",
    "SeedBatch",
    "SeedBatchA2C",
    "SeedBatchCrossQ",
    "SeedBatchDQN",
    "SeedBatchMaskablePPO",
    "SeedBatchPPO",
    "SeedBatchPQN",
    "SeedBatchProbe",
    "SeedBatchQRDQN",
    "SeedBatchRecurrentPPO",
    "SeedBatchSAC",
    "SeedBatchTD3",
    "SeedBatchTQC",
    "SeedBatchTRPO",
    "ValueTargets",
    "VecSeedEnvs",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'rn_rl.agents' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
