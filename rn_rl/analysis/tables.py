"""Tables as Markdown."""

from __future__ import annotations

import re


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
