"""Measured costs of the normalizers, which ``rn-rl norms`` shows."""

from __future__ import annotations

import json
from pathlib import Path

RECORD_FILE = Path(__file__).with_name("costs.json")
"""Ratios to LayerNorm's time; ``python -m benchmarks layer --record`` writes them."""


def recorded() -> dict[str, float]:
    """The measured ratios to LayerNorm that ship with the library, by name."""
    if not RECORD_FILE.is_file():
        return {}
    ratios: dict[str, float] = json.loads(RECORD_FILE.read_text())["ratios"]
    return ratios
