"""Figures with their intervals as text, and tables as Markdown."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """Figure and its 95% interval; the bounds are NaN where there is none."""

    value: float
    low: float = math.nan
    high: float = math.nan

    def __str__(self) -> str:
        if math.isnan(self.value):
            return "-"
        if math.isnan(self.low) or math.isnan(self.high):
            return number(self.value)
        return f"{number(self.value)} [{number(self.low)}, {number(self.high)}]"


def counted(number: int, noun: str) -> str:
    """Return a number with its noun in the singular or plural."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def signed(found: Estimate) -> str:
    """Format a difference with its sign, ``+2.10 [-0.30, 4.50]``."""
    text = str(found)
    return f"+{text}" if found.value > 0 else text


def number(value: float) -> str:
    """Format a return or a number of timesteps; infinity is ``never``."""
    if math.isinf(value):
        return "never"
    return f"{value:,.{decimals(value)}f}"


def decimals(value: float) -> int:
    """Return the number of decimals with which a return or a number of timesteps is shown."""
    size = abs(value)
    return 0 if size >= 1000 else 1 if size >= 20 else 2


def markdown_table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a table in Markdown.

    Args:
        columns: headers.
        rows: one cell for each column. A column is aligned right if most of its cells begin with a
            number, else left.
    """
    cells = list(zip(*rows, strict=True)) or [()] * len(columns)
    numbers = [sum(bool(re.match(r"[+-]?\d", text)) for text in column) for column in cells]
    marks = ["---:" if 2 * count > len(rows) else "---" for count in numbers]
    lines = [columns, marks, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
