"""Seed batches: SB3's algorithms for many seeds at once, on the engine."""

from rn_rl.agents._moved import forward
from rn_rl.agents.seed_batch.a2c import SeedBatchA2C
from rn_rl.agents.seed_batch.base import SeedBatch
from rn_rl.agents.seed_batch.crossq import SeedBatchCrossQ
from rn_rl.agents.seed_batch.dqn import SeedBatchDQN
from rn_rl.agents.seed_batch.maskable_ppo import SeedBatchMaskablePPO
from rn_rl.agents.seed_batch.ppo import SeedBatchPPO
from rn_rl.agents.seed_batch.pqn import SeedBatchPQN
from rn_rl.agents.seed_batch.qrdqn import SeedBatchQRDQN
from rn_rl.agents.seed_batch.recurrent_ppo import SeedBatchRecurrentPPO
from rn_rl.agents.seed_batch.sac import SeedBatchSAC
from rn_rl.agents.seed_batch.td3 import SeedBatchTD3
from rn_rl.agents.seed_batch.tqc import SeedBatchTQC
from rn_rl.agents.seed_batch.trpo import SeedBatchTRPO
from rn_rl.agents.seed_batch.vector_envs import EnvpoolSeedEnvs, SeedEnvs, VecSeedEnvs

__all__ = [
    "EnvpoolSeedEnvs",
    "SeedBatch",
    "SeedBatchA2C",
    "SeedBatchCrossQ",
    "SeedBatchDQN",
    "SeedBatchMaskablePPO",
    "SeedBatchPPO",
    "SeedBatchPQN",
    "SeedBatchQRDQN",
    "SeedBatchRecurrentPPO",
    "SeedBatchSAC",
    "SeedBatchTD3",
    "SeedBatchTQC",
    "SeedBatchTRPO",
    "SeedEnvs",
    "VecSeedEnvs",
]

# names that version 0.1.0 had in the module of this name
__getattr__ = forward(
    __name__,
    "rn_rl.agents.seed_batch.base",
    {
        "ELEMENTWISE": "rn_rl.agents.seed_batch.optimizer:ELEMENTWISE",
        "clip_gradients": "rn_rl.engine.ensemble:clip_gradients",
        "keep_freed_memory": "rn_rl.engine.host:raise_mmap_threshold",
        "without_subnormals": "rn_rl.engine.host:flush_denormals",
    },
)
