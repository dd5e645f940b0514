"""Agents: SB3 subclasses with replay-aware normalizer state, their logging, and many seeds at once."""

from rn_rl.agents.agents import RNDQN, RNPPO
from rn_rl.agents.logging import NormalizerLogger
from rn_rl.agents.replay import AgeWeightedDictReplayBuffer, AgeWeightedReplayBuffer
from rn_rl.agents.seed_batch import SeedBatch
from rn_rl.agents.seed_batch_dqn import SeedBatchDQN
from rn_rl.agents.seed_batch_ppo import SeedBatchPPO
from rn_rl.agents.seed_batch_recurrent import SeedBatchRecurrentPPO
from rn_rl.agents.seed_envs import EnvpoolSeedEnvs, VecSeedEnvs

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
