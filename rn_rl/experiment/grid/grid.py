"""Grids of trainings: every algorithm with every normalizer on every environment, checked first."""

from __future__ import annotations

import uuid
from dataclasses import fields
from typing import Any

from rich.console import Console

from rn_rl.errors import UserError
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.grid.jobs import Cell, make_cell
from rn_rl.experiment.grid.scheduler import Grid
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.training.config import SharedOptions, TrainConfig
from rn_rl.normalization import split_outside

ENGINES = ("auto", "process", "batch", "ray")


def new_grid(config: CompareConfig, console: Console) -> Grid:
    """Everything checked, and nothing trained or written yet.

    Raises:
        UserError: anything that the user can fix.
    """
    check(config)
    return grid_of(config, make_cells(config, console), console)


def grid_of(config: CompareConfig, cells: list[Cell], console: Console) -> Grid:
    """A grid of cells that were made before."""
    return Grid(config, cells, console, config.out / ".grid" / f"stop-{uuid.uuid4().hex}")


def check(config: CompareConfig) -> None:
    """What can be said wrong before anything else is looked at."""
    for name in ("algo", "env", "norms"):
        if not listed(getattr(config, name)):
            raise UserError(f"--{name} is missing: one or more, separated by commas")
    if config.engine not in ENGINES:
        raise UserError(f"--engine {config.engine}: expected one of {', '.join(ENGINES)}")
    for name in ("seeds", "jobs", "final_episodes"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UserError(f"--{name.replace('_', '-')} {value}: expected at least 1")
    for path in config.agent:
        if not path.exists():
            raise UserError(f"--agent {path}: no such file or folder")
    if config.eval_freq == 0:
        raise UserError("--eval-freq 0: a comparison needs evaluations; expected at least 1")
    if config.address is not None and config.engine != "ray":
        raise UserError(f"--address {config.address}: is for --engine ray")


def listed(text: str | None) -> list[str]:
    """Names separated by commas, but for those within parentheses; each once."""
    text = text or ""
    return list(dict.fromkeys(name.strip() for name in split_outside(text, ",") if name.strip()))


def make_cells(config: CompareConfig, console: Console) -> list[Cell]:
    """Every (algorithm, environment, normalizer), checked before anything is trained."""
    common: dict[str, Any] = {f.name: getattr(config, f.name) for f in fields(SharedOptions)}
    common |= {"out": config.out.absolute(), "quiet": True, "engine": "auto"}
    seeds = [config.seed + i for i in range(config.seeds)]
    cells: list[Cell] = []
    for algo in listed(config.algo):
        for env in listed(config.env):
            for norm in listed(config.norms):
                one = TrainConfig(**{**common, "algo": algo, "env": env, "norm": norm})
                cell = make_cell(one, seeds, config.engine)
                if cell.keys not in [each.keys for each in cells]:  # one thing has several names
                    cells.append(cell)
    reasons = dict.fromkeys(cell.reason for cell in cells if cell.reason)
    for reason in reasons:
        say(console, f"one process for each seed where {reason}")
    return cells
