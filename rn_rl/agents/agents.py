"""Deprecated name of :mod:`rn_rl.agents.rndqn` and :mod:`rn_rl.agents.rnppo`."""

from rn_rl.agents._moved import forward

__getattr__ = forward(__name__, "rn_rl.agents.rndqn", {"RNPPO": "rn_rl.agents.rnppo:RNPPO"})
