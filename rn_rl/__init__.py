"""rn-rl: regularity normalization and related normalizers inside Stable-Baselines3 agents.

``import rn_rl`` loads neither torch nor Stable-Baselines3 nor Gymnasium: names are imported on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rn_rl.analysis.tidy import read_runs
    from rn_rl.normalization import (
        RegularityNorm,
        available_normalizers,
        make_normalizers,
        observation_weights,
        register,
    )
    from rn_rl.probe import CodeLengthProbe

__version__ = "0.2.0"

_EXPORTS = {
    "RegularityNorm": "rn_rl.normalization",
    "available_normalizers": "rn_rl.normalization",
    "make_normalizers": "rn_rl.normalization",
    "observation_weights": "rn_rl.normalization",
    "register": "rn_rl.normalization",
    "CodeLengthProbe": "rn_rl.probe",
    "read_runs": "rn_rl.analysis.tidy",
}

__all__ = [
    "CodeLengthProbe",
    "RegularityNorm",
    "__version__",
    "available_normalizers",
    "make_normalizers",
    "observation_weights",
    "read_runs",
    "register",
]


def __getattr__(name: str) -> Any:
    if name not in _EXPORTS:
        raise AttributeError(f"module 'rn_rl' has no attribute {name!r}")
    return getattr(importlib.import_module(_EXPORTS[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
