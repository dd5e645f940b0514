"""Deprecated name of :mod:`rn_rl.agents.seed_batch.dqn`."""

from rn_rl.agents._moved import forward

__getattr__ = forward(
    __name__,
    "rn_rl.agents.seed_batch.dqn",
    {"SeedReplay": "rn_rl.agents.seed_batch.replay:SeedReplay"},
)
