"""Measurement of the code length of each layer of any network while it trains."""

from rn_rl.probe.core import CodeLengthProbe

__all__ = ["CodeLengthProbe"]
