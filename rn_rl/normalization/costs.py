"""Measured costs of the normalizers, which ``rn-rl norms`` prints."""

from __future__ import annotations

import json
from importlib import resources

RECORD_FILE = resources.files(__package__) / "costs.json"
"""Times as ratios to LayerNorm's; ``python -m benchmarks layer --record`` writes them."""


def recorded() -> dict[str, float]:
    """Time of a training forward and backward as a ratio to LayerNorm's, by name of the normalizer.

    Empty where the file is missing.
    """
    if not RECORD_FILE.is_file():
        return {}
    ratios: dict[str, float] = json.loads(RECORD_FILE.read_text(encoding="utf-8"))["ratios"]
    return ratios
