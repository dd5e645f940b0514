"""Deprecated name of :mod:`rn_rl.agents.sb3`."""

from rn_rl.agents._moved import forward

__getattr__ = forward(__name__, "rn_rl.agents.sb3")
