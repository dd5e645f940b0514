"""What ``benchmark.py seeds`` measured, as a table: on a terminal, and in a README."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rn_rl.analysis.tables import markdown_table
from rn_rl.errors import UserError
from rn_rl.experiment.runs.io import replace_block

COLUMNS = ["case", "seeds", "steps/s", "to SB3, one seed", "to none"]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """What ``--json`` printed.

    Raises:
        UserError: it is something else.
    """
    try:
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        if all(line["benchmark"] == "seeds" for line in lines):
            [_] = {line["device"] for line in lines}  # one table is of one device
            return lines
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(f"--table {path}: expected a file of what 'benchmark.py seeds --json' printed")


def table_rows(lines: list[dict[str, Any]]) -> list[list[str]]:
    """One row for each case of each run, with its ratios."""
    cells: dict[tuple[str, int, int], dict[str, dict[str, Any]]] = {}
    for line in lines:
        key = f"{line['case']} {line.get('options', '')}".strip(), line["seeds"], 0
        while line["ratio_to"] in cells.get(key, ()):  # the same in another run
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


def show(
    lines: list[dict[str, Any]], shares: dict[str, dict[str, float]], readme: Path | None
) -> None:
    """Print the table, and put it into a README.

    Args:
        lines: all measured on one device.
        shares: by case, where its time goes.
        readme: a document with seeds marks, of a GPU: seeds-gpu.
    """
    rows = table_rows(lines)
    [device] = {line["device"] for line in lines}
    if readme is not None:
        block = "seeds" if device == "cpu" else "seeds-gpu"
        replace_block(readme, block, markdown_table(COLUMNS, rows))
    where = "one core for each process" if device == "cpu" else f"one process on one {device}"
    table = Table(title=f"many seeds, {where}: median of interleaved rounds")
    for column in COLUMNS:
        left = column == "case"
        table.add_column(column, justify="left" if left else "right", overflow="fold")
    for row in rows:
        table.add_row(*row)
    Console().print(table)
    for case, parts in shares.items():
        told = ", ".join(
            f"{name} {share:.0%}" for name, share in sorted(parts.items(), key=lambda p: -p[1])
        )
        Console().print(f"{case}: {told}", highlight=False)
