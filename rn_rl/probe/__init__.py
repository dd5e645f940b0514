"""Measurement of the code length of each layer of any network while it trains."""

from rn_rl.probe.core import MEASURES, CodeLengthProbe, Readings

__all__ = ["MEASURES", "CodeLengthProbe", "Readings"]
