"""``rn-rl compare``: train every algorithm with every normalizer on every environment, then report."""

from __future__ import annotations

from pathlib import Path

from rich.console import Console

from rn_rl.analysis.references import evaluate_agent
from rn_rl.analysis.report import (
    check_baseline,
    check_decision,
    check_page,
    print_summary,
    write_report,
)
from rn_rl.analysis.summary import Summary, summarize_for
from rn_rl.errors import TrainingStopped, UserError
from rn_rl.experiment.grid.cells import Cell
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.grid.disk import find_cell_runs, is_readable, run_folders
from rn_rl.experiment.grid.grid import new_grid
from rn_rl.experiment.grid.jobs import failures
from rn_rl.experiment.grid.scheduler import run_grid
from rn_rl.experiment.runs.console import StatusLines, command_line
from rn_rl.experiment.runs.records import read_records
from rn_rl.normalization import split_names


def run_compare(config: CompareConfig) -> Summary:
    """Train what is missing, then write and print the report.

    Returns:
        The content of the report: the runs of this grid alone, whatever else is in its folder.

    Raises:
        UserError: anything that the user can fix; after the report, that trainings failed.
        TrainingStopped: Ctrl-C; the same command goes on.
    """
    console = Console(quiet=config.quiet)
    page = config.report or config.out / "report.html"
    check_page(page, "--report")
    check_decision(config)
    grid = new_grid(config, console)
    baseline = check_baseline(config.baseline, (cell.specs[0].norm for cell in grid.cells))
    algos = list(dict.fromkeys(cell.specs[0].algo for cell in grid.cells))
    with StatusLines(console, "evaluating agents"):
        references = [
            evaluate_agent(
                path, algos, split_names(config.env), config.final_episodes, trust=config.trust
            )
            for path in config.agent
        ]
    stopped = run_grid(grid)
    folders = [run for cell in grid.cells for run in folders_of(cell, config)]
    records, problems = read_records(folders)
    summary = summarize_for(config, records, problems, baseline)
    if records:
        summary.add_references(references, zoo=config.zoo)
        for key, reason in grid.failed.items():
            where = failures(config.out) / f"{key}.txt"
            name = grid.name_of(key)
            summary.notes.append(f"{name} failed, by itself too ({reason}); see {where}.")
        for key, reason in grid.retried.items():
            name = grid.name_of(key)
            summary.notes.append(f"{name} and those with it: tried again after {reason}.")
        with StatusLines(console, "writing the report"):
            write_report(summary, page, commands=[command_line()])
        print_summary(summary, page, console)
    if stopped:
        raise TrainingStopped("stopped; the same command goes on where it stopped")
    if grid.failed:
        key, reason = next(iter(grid.failed.items()))
        raise UserError(
            f"{len(grid.failed)} of {grid.size} trainings failed, and again by themselves, such as "
            f"{grid.name_of(key)}: {reason}; more is in {failures(config.out)}, and the same command "
            "tries them again"
        )
    return summary


def folders_of(cell: Cell, config: CompareConfig) -> list[Path]:
    """Run folders of a cell's seeds, and those that cannot be read, which the report then names."""
    spec = cell.specs[0]
    found = find_cell_runs(config.out, spec)
    readable = [found[key].run.folder for key in cell.keys if key in found]
    broken = [folder for folder in run_folders(config.out, spec) if not is_readable(folder)]
    return readable + broken
