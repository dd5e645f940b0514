"""Deprecated name of :mod:`rn_rl.agents.callbacks`."""

from rn_rl.agents._moved import forward

__getattr__ = forward(__name__, "rn_rl.agents.callbacks", {"kl": "rn_rl.policies.divergence:kl"})
