"""Plans of grids on disk, by which another process can tell what is left to train, and for how long."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path

from rn_rl.experiment.grid.cells import Cell
from rn_rl.experiment.runs.io import DAMAGE, write_json


@dataclass(frozen=True)
class PlannedCell:
    """All seeds of one algorithm, environment and normalizer."""

    norm: str
    algo: str
    env: str
    timesteps: int
    """Length of one training."""
    keys: list[str]
    """Keys of the trainings; see :func:`~rn_rl.experiment.grid.cells.key_of`."""


@dataclass(frozen=True)
class Plan:
    """Trainings of one grid."""

    cells: list[PlannedCell]
    behind: int
    """Timesteps that were done when the command began."""
    began: float
    """Time at which the command began, by the clock of the file system."""

    @property
    def total(self) -> int:
        """Timesteps of all trainings."""
        return sum(cell.timesteps * len(cell.keys) for cell in self.cells)

    def seconds_left(self, behind: int, now: float) -> float | None:
        """Estimate the time to the end from the speed since the command began; None if unknown.

        Args:
            behind: timesteps that are done now.
            now: time by the clock of the file system.
        """
        gained = behind - self.behind
        if gained <= 0 or now <= self.began or behind >= self.total:
            return None
        return (now - self.began) * (self.total - behind) / gained


def plans_folder(root: Path) -> Path:
    """Return the folder of plans, hidden inside the folder of runs."""
    return root / ".grid" / "plans"


def write_plan(root: Path, cells: list[Cell], behind: int) -> None:
    """Write the plan of a grid; that of the same trainings is replaced.

    Args:
        root: folder of runs.
        cells: cells of the grid.
        behind: timesteps that are done.
    """
    planned = [
        PlannedCell(spec.norm, spec.algo, spec.env, spec.timesteps, cell.keys)
        for cell in cells
        for spec in cell.specs[:1]
    ]
    name = hashlib.sha256("".join(sorted(k for c in planned for k in c.keys)).encode()).hexdigest()
    plans_folder(root).mkdir(parents=True, exist_ok=True)
    content = {"cells": [asdict(cell) for cell in planned], "behind": behind}
    write_json(plans_folder(root) / f"{name[:12]}.json", content)


def read_plans(root: Path) -> list[Plan]:
    """Return the plans in a folder of runs, without damaged ones; grids of old versions have none."""
    found = []
    for path in sorted(plans_folder(root).glob("*.json")):
        try:
            content = json.loads(path.read_text("utf-8"))
            cells = [PlannedCell(**cell) for cell in content["cells"]]
            whole = all(isinstance(c.timesteps, int) and isinstance(c.keys, list) for c in cells)
            if whole and isinstance(content["behind"], int):
                found.append(Plan(cells, content["behind"], path.stat().st_mtime))
        except DAMAGE:
            continue
    return found
