"""Parts that all benchmarks share: interleaved rounds, resumable results, and output."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from benchmarks.docs_blocks import replace_block
from rn_rl.analysis.tables import markdown_table

Line = dict[str, Any]
"""One measurement, as a line of JSON: at least ``benchmark``, ``case``, ``value`` and ``unit``."""


@dataclass
class Output:
    """Options that say where the results go."""

    readme: Path | None = None
    """Also write the table into this document, between the marks of this benchmark."""
    json: bool = False
    """Print one JSON object a line."""


@dataclass
class ResultTable:
    """Table of results as text.

    Attributes:
        title: headline; not part of a document's block.
        columns: headers.
        rows: one cell for each column.
    """

    title: str
    columns: list[str]
    rows: list[list[str]] = field(default_factory=list)

    def print(self, console: Console) -> None:
        """Print to a terminal; the first column is aligned left, numbers right."""
        table = Table(title=self.title)
        marks = markdown_table(self.columns, self.rows).splitlines()[1].strip("| ").split(" | ")
        for column, mark in zip(self.columns, marks, strict=True):
            justify = "right" if mark.endswith(":") else "left"
            table.add_column(column, justify=justify, overflow="fold")  # type: ignore[arg-type]
        for row in self.rows:
            table.add_row(*row)
        console.print(table)

    def markdown(self) -> str:
        """Return the table in Markdown."""
        return markdown_table(self.columns, self.rows)


def interleave(
    measurements: Mapping[str, Callable[[], float]], rounds: int
) -> dict[str, np.ndarray]:
    """Measure everything once in each round, in a random order.

    The measurements of a round share the machine's noise, so that their ratios are steadier than
    their values.

    Args:
        measurements: functions by name; each returns one value.
        rounds: number of rounds. The order within a round depends on its number alone.

    Returns:
        The values by name, ``(rounds,)``.
    """
    values = {name: np.empty(rounds) for name in measurements}
    for round_ in range(rounds):
        order = list(measurements)
        np.random.default_rng(round_).shuffle(order)
        for name in order:
            values[name][round_] = measurements[name]()
    return values


def read_lines(path: Path) -> list[Line]:
    """Return the lines of a results file; none if there is no such file."""
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def append_line(path: Path, line: Line) -> None:
    """Add a line to a results file at once, so that a benchmark that is stopped can continue."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as stream:
        stream.write(json.dumps(line) + "\n")


def emit(
    output: Output,
    lines: Iterable[Line],
    *tables: ResultTable,
    block: str | None = None,
    text: str | None = None,
) -> None:
    """Write results to a document, and print them as JSON lines or as tables.

    Args:
        output: options of the benchmark.
        lines: results for ``--json``.
        tables: the same for a terminal.
        block: marks in the document of ``--readme``.
        text: text of the block; default: the first table in Markdown.

    Raises:
        UserError: the document lacks the marks.
    """
    if output.readme is not None and block is not None:
        replace_block(output.readme, block, tables[0].markdown() if text is None else text)
    if output.json:
        for line in lines:
            print(json.dumps(line))
        return
    for table in tables:
        table.print(Console())
