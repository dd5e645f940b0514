"""Tables as Markdown."""

from __future__ import annotations

import re


def markdown_table(columns: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table; columns that hold mostly numbers are aligned to the right.

    Args:
        columns: headers.
        rows: cells of each row, as many as there are columns.
    """
    cells = list(zip(*rows, strict=True)) or [()] * len(columns)
    numbers = [sum(bool(re.match(r"[+-]?\d", text)) for text in column) for column in cells]
    marks = ["---:" if 2 * count > len(rows) else "---" for count in numbers]
    lines = [columns, marks, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
