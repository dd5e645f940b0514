"""Divergence: weights that are not finite or too large to learn; found, recorded and told for ever."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor

from rn_rl.experiment.runs.io import DAMAGE, write_json

MOST_WEIGHT = 1e6
"""Largest absolute weight: above it, neighbouring float32 numbers are 0.06 apart and more, so updates of
a usual size no longer change a weight."""


@dataclass(frozen=True)
class Divergence:
    """First sign that the training of a run diverged, as ``diverged.json`` holds it."""

    timesteps: int
    """Timestep at which it was found."""
    layer: str
    """Name of the parameter."""
    weight: float
    """Its largest absolute weight; NaN if one is NaN."""

    def __str__(self) -> str:
        return (
            f"diverged at timestep {self.timesteps:,}: a weight of {self.layer} is {self.weight:.3g} "
            f"(expected at most {MOST_WEIGHT:g}); a lower learning_rate or max_grad_norm may help"
        )


class Diverged(Exception):
    """Ends the training of a single run whose weights diverged.

    Args:
        found: what was found.
    """

    def __init__(self, found: Divergence) -> None:
        super().__init__(str(found))
        self.found = found


def find_divergence(parameters: Iterable[tuple[str, Tensor]], timesteps: int) -> Divergence | None:
    """Return the first parameter that is not finite or too large; None if there is none.

    Args:
        parameters: trained parameters by name.
        timesteps: the present timestep.
    """
    named = [(name, tensor.detach()) for name, tensor in parameters if tensor.numel()]
    if not named:
        return None
    # one number for each parameter, and one synchronization on a GPU; a NaN in any stays NaN
    largest = torch.stack([tensor.abs().max().double() for _, tensor in named]).tolist()
    for (name, _), value in zip(named, largest, strict=True):
        if not value <= MOST_WEIGHT:
            return Divergence(timesteps, name, value)
    return None


def write_divergence(path: Path, found: Divergence) -> None:
    """Write ``diverged.json``. JSON has no NaN, so the weight is text."""
    write_json(path, {**asdict(found), "weight": str(found.weight)}, durable=True)


def read_divergence(path: Path) -> Divergence | None:
    """Read ``diverged.json``; None if there is none. A damaged file tells of one at timestep 0."""
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        return Divergence(int(found["timesteps"]), str(found["layer"]), float(found["weight"]))
    except DAMAGE:
        return Divergence(0, f"unknown ({path.name} is damaged)", math.nan)
