"""Agents: SB3 subclasses with replay-aware normalizer state, their logging, and many seeds at once."""

from rn_rl.agents.sb3 import RNDQN, RNPPO
from rn_rl.agents.callbacks import NormalizerLogger
from rn_rl.agents.replay import AgeWeightedDictReplayBuffer, AgeWeightedReplayBuffer
from rn_rl.agents.seed_batch.base import SeedBatch
from rn_rl.agents.seed_batch.dqn import SeedBatchDQN
from rn_rl.agents.seed_batch.ppo import SeedBatchPPO
from rn_rl.agents.seed_batch.recurrent_ppo import SeedBatchRecurrentPPO
from rn_rl.agents.seed_batch.vector_envs import EnvpoolSeedEnvs, VecSeedEnvs

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
