"""SB3's algorithms for many seeds at once, on the engine."""

from rn_rl.agents.seed_batch.base import SeedBatch
from rn_rl.agents.seed_batch.dqn import SeedBatchDQN
from rn_rl.agents.seed_batch.ppo import SeedBatchPPO
from rn_rl.agents.seed_batch.recurrent_ppo import SeedBatchRecurrentPPO
from rn_rl.agents.seed_batch.vector_envs import EnvpoolSeedEnvs, SeedEnvs, VecSeedEnvs

__all__ = [
    "EnvpoolSeedEnvs",
    "SeedBatch",
    "SeedBatchDQN",
    "SeedBatchPPO",
    "SeedBatchRecurrentPPO",
    "SeedEnvs",
    "VecSeedEnvs",
]
