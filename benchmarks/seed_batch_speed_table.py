"""Table of what ``python -m benchmarks seeds`` measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from benchmarks.harness import Line, Output, ResultTable, emit, read_lines
from rn_rl.errors import UserError

SEED_SPEED_COLUMNS = ["case", "seeds", "steps/s", "to SB3, one seed", "to none"]


def read_speeds(path: Path) -> list[Line]:
    """Return the lines that ``seeds --json`` printed.

    Raises:
        UserError: the file has other lines, or those of several devices.
    """
    try:
        lines = read_lines(path)
        if all(line["benchmark"] == "seeds" for line in lines):
            [_] = {line["device"] for line in lines}  # one table shows one device
            return lines
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(f"--table {path}: expected a file of what 'benchmark.py seeds --json' printed")


def seed_speed_rows(lines: list[Line]) -> list[list[str]]:
    """Return one row for each case of each run of the benchmark, with its ratios."""
    cells: dict[tuple[str, int, int], dict[str, Line]] = {}
    for line in lines:
        key = f"{line['case']} {line.get('options', '')}".strip(), line["seeds"], 0
        while line["ratio_to"] in cells.get(key, ()):  # the same case in another run
            key = *key[:2], key[2] + 1
        cells.setdefault(key, {})[line["ratio_to"]] = line
    rows = []
    for (case, *_), by_reference in cells.items():
        first = next(iter(by_reference.values()))
        ratios = [
            f"{by_reference[r]['ratio']:.2f}" if r in by_reference else ""
            for r in ("sb3/none", "none")
        ]
        rows.append([case, str(first["seeds"]), f"{first['value']:,.0f}", *ratios])
    return rows


def emit_speeds(
    output: Output,
    lines: list[Line],
    shares: Mapping[str, Mapping[str, float]] | None = None,
    block: str | None = None,
) -> None:
    """Print the speeds, and write them to a document with ``seeds`` (GPU: ``seeds-gpu``) marks.

    Args:
        output: options of the benchmark.
        lines: all measured on one device.
        shares: shares of the time by case and part of the training.
        block: other marks.
    """
    [device] = {line["device"] for line in lines}
    where = "one core for each process" if device == "cpu" else f"one process on one {device}"
    title = f"many seeds, {where}: median of interleaved rounds"
    table = ResultTable(title, SEED_SPEED_COLUMNS, seed_speed_rows(lines))
    emit(output, lines, table, block=block or ("seeds" if device == "cpu" else "seeds-gpu"))
    for case, parts in (shares or {}).items():
        ordered = sorted(parts.items(), key=lambda part: -part[1])
        told = ", ".join(f"{name} {share:.0%}" for name, share in ordered)
        Console(stderr=output.json).print(f"{case}: {told}", highlight=False)
