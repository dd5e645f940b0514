"""Code lengths of any module, layer by layer, while it trains."""

from rn_rl.probe.core import CodeLengthProbe

__all__ = ["CodeLengthProbe"]
