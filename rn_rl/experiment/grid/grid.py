"""Make the grid of a comparison: every algorithm, environment and normalizer, checked first."""

from __future__ import annotations

import uuid
from dataclasses import fields
from typing import Any

from rich.console import Console

from rn_rl.errors import UserError
from rn_rl.experiment.grid.cells import Cell, make_cell
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.grid.state import Grid
from rn_rl.experiment.grid.workers import check_place
from rn_rl.experiment.runs.console import StatusLines, say
from rn_rl.experiment.training.conf_file import check_prefixes, for_algorithm
from rn_rl.experiment.training.config import SharedOptions, TrainConfig, check_seeds
from rn_rl.normalization import split_names


def new_grid(config: CompareConfig, console: Console) -> Grid:
    """Make the grid of a comparison; nothing is trained or written yet.

    Args:
        config: options of the comparison.
        console: where progress is printed.

    Raises:
        UserError: an option cannot be used.
    """
    check_options(config)
    return grid_of(config, make_cells(config, console), console)


def grid_of(config: CompareConfig, cells: list[Cell], console: Console) -> Grid:
    """Make a grid of cells; see :func:`new_grid`."""
    return Grid(config, cells, console, config.out / ".grid" / f"stop-{uuid.uuid4().hex}")


def check_options(config: CompareConfig) -> None:
    """Raise a :class:`UserError` for an option that is wrong by itself, whatever the cells are."""
    for name in ("algo", "env", "norms"):
        if not split_names(getattr(config, name)):
            raise UserError(f"--{name} is missing: one or more, separated by commas")
    check_place(config)
    check_seeds(config.seeds)
    if config.final_episodes < 1:
        raise UserError(f"--final-episodes {config.final_episodes}: expected at least 1")
    for path in config.agent:
        if not path.exists():
            raise UserError(f"--agent {path}: no such file or folder")
    if config.eval_freq == 0:
        raise UserError("--eval-freq 0: a comparison needs evaluations; expected at least 1")


def make_cells(config: CompareConfig, console: Console) -> list[Cell]:
    """Make and check the cell of every algorithm, environment and normalizer.

    Raises:
        UserError: an option cannot be used.
    """
    common: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(SharedOptions)}
    common |= {"out": config.out.absolute(), "quiet": True, "engine": "auto"}
    check_prefixes(config.set, split_names(config.algo))
    seeds = [config.seed + i for i in range(config.seeds)]
    cells: list[Cell] = []
    with StatusLines(console, lambda: f"setting up, {len(cells)} cells checked"):
        for algo in split_names(config.algo):
            for env in split_names(config.env):
                for norm in split_names(config.norms):
                    own: dict[str, Any] = {"algo": algo, "env": env, "norm": norm}
                    own["set"] = for_algorithm(config.set, algo)
                    one = TrainConfig(**{**common, **own})
                    cell = make_cell(one, seeds, config.engine)
                    if cell.keys not in [each.keys for each in cells]:  # a norm has several names
                        cells.append(cell)
    reasons = dict.fromkeys(cell.reason for cell in cells if cell.reason)
    for reason in reasons:
        say(console, f"one process for each seed where {reason}")
    return cells
