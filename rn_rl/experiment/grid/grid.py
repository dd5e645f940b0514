"""``rn-rl compare``: train every algorithm with every normalizer on every environment, then report."""

from __future__ import annotations

import uuid
from dataclasses import fields
from pathlib import Path
from typing import Any

from rich.console import Console

from rn_rl.errors import UserError
from rn_rl.analysis.comparison import summarize
from rn_rl.experiment.training.config import CompareConfig, TrainConfig
from rn_rl.experiment.grid.jobs import (
    Cell,
    failures,
    find,
    is_readable,
    make_cell,
    run_folders,
)
from rn_rl.experiment.grid.scheduler import Grid, run_grid
from rn_rl.experiment.training.progress import say
from rn_rl.experiment.runs.records import read_records
from rn_rl.analysis.references import evaluate_agent
from rn_rl.analysis.report import (
    check_baseline,
    check_page,
    check_threshold,
    print_summary,
    write_report,
)
from rn_rl.experiment.runs.folder import command_line
from rn_rl.experiment.training.single import TrainingStopped
from rn_rl.normalization import split_outside

ENGINES = ("auto", "process", "batch", "ray")


def run_compare(config: CompareConfig) -> None:
    """Train what is missing, then write and print the report.

    Raises:
        UserError: anything that the user can fix; after the report, that trainings failed.
        TrainingStopped: Ctrl-C; the same command goes on.
    """
    console = Console(quiet=config.quiet)
    page = config.report or config.out / "report.html"
    check_page(page, "--report")
    check_threshold(config.threshold)
    grid = new_grid(config, console)
    baseline = check_baseline(config.baseline, (cell.specs[0].norm for cell in grid.cells))
    algos = list(dict.fromkeys(cell.specs[0].algo for cell in grid.cells))
    references = [
        evaluate_agent(path, algos, listed(config.env), config.final_episodes, trust=config.trust)
        for path in config.agent
    ]
    stopped = run_grid(grid)
    folders = [run for cell in grid.cells for run in folders_of(cell, config)]
    records, problems = read_records(folders)
    if records:
        summary = summarize(records, problems, baseline=baseline, threshold=config.threshold)
        summary.add_references(references, zoo=config.zoo)
        for key, reason in grid.failed.items():
            where = failures(config.out) / f"{key}.txt"
            summary.notes.append(f"{key} failed, by itself too ({reason}); see {where}.")
        for key, reason in grid.retried.items():
            summary.notes.append(f"{key} and those with it: tried again after {reason}.")
        write_report(summary, page, commands=[command_line()])
        print_summary(summary, page, console)
    if stopped:
        raise TrainingStopped("stopped; the same command goes on where it stopped")
    if grid.failed:
        key, reason = next(iter(grid.failed.items()))
        raise UserError(
            f"{len(grid.failed)} of {sum(len(cell.specs) for cell in grid.cells)} trainings failed, and "
            f"again by themselves, such as {key}: {reason}; more is in {failures(config.out)}, and the "
            "same command tries them again"
        )


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
    shared = {f.name for f in fields(TrainConfig)} & {f.name for f in fields(CompareConfig)}
    common: dict[str, Any] = {name: getattr(config, name) for name in shared}
    common |= {"out": config.out.absolute(), "seeds": 1, "quiet": True, "engine": "auto"}
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


def folders_of(cell: Cell, config: CompareConfig) -> list[Path]:
    """Run folders of a cell's seeds, and those that cannot be read, which the report then names."""
    spec = cell.specs[0]
    found = find(config.out, spec)
    readable = [found[key].run.folder for key in cell.keys if key in found]
    broken = [folder for folder in run_folders(config.out, spec) if not is_readable(folder)]
    return readable + broken
