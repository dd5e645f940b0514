"""Measurement of the code length of each layer of any network while it trains."""

from rn_rl.probe.core import MEASURES, CodeLengthProbe
from rn_rl.probe.readings import Readings
from rn_rl.probe.readout import decoded_bits
from rn_rl.probe.records import ProbeLog, ProbeRecord
from rn_rl.probe.stages import Stage, find_stages, recurring
from rn_rl.probe.training import Probed, probed

__all__ = [
    "MEASURES",
    "CodeLengthProbe",
    "ProbeLog",
    "ProbeRecord",
    "Probed",
    "Readings",
    "Stage",
    "decoded_bits",
    "find_stages",
    "probed",
    "recurring",
]
