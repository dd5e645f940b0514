"""Options of the commands that belong to no single room: documented dataclasses."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class NormsConfig:
    """List the normalizers."""


@dataclass
class ZooConfig:
    """List the environments, algorithms and published baselines."""
