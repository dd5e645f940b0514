"""Tables for a terminal in which the name of a row is always whole."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich.cells import cell_len
from rich.table import Table
from rich.text import Text

GAP = 2
"""Spaces between two columns."""

NAME_WIDTH = 30
"""Width that a column of names gets, or that of the longest name; columns of figures make room for it."""


def name_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str]],
    width: int,
    *,
    expendable: Sequence[str] = (),
    styles: Sequence[str | None] = (),
    **options: Any,
) -> Table:
    """Return a table whose first column is names, which are folded over lines and never cut.

    By itself, rich shortens what does not fit to an ellipsis, by which rows that differ in the end of
    their names look the same. Here figures are whole too: columns that leave the names less than
    :data:`NAME_WIDTH` are left out.

    Args:
        columns: headers; the first is that of the names.
        rows: texts, one for each column, which are not read as markup.
        width: width of the terminal in characters.
        expendable: headers of columns that are left out first, in this order; then the last one goes.
        styles: style of each row; default: none has one.
        options: arguments of :class:`rich.table.Table`, such as ``title``.
    """
    shown = list(range(1, len(columns)))
    widths = [widest(columns[i], [row[i] for row in rows]) for i in range(len(columns))]
    names = max((cell_len(row[0]) for row in rows), default=0)
    names = max(names, max(map(cell_len, columns[0].split()), default=0))
    order = [columns.index(each) for each in expendable if each in columns]
    order += [i for i in reversed(shown) if i not in order]
    while shown and room(widths, shown, width) < min(names, NAME_WIDTH):
        shown.remove(next(i for i in order if i in shown))
    table = Table(**{"box": None, "padding": (0, GAP, 0, 0), "title_justify": "left", **options})
    first = max(min(names, room(widths, shown, width)), 1)
    table.add_column(columns[0], overflow="fold", width=first)
    for i in shown:
        table.add_column(columns[i], justify="right", width=widths[i], overflow="fold")
    for place, row in enumerate(rows):
        style = styles[place] if styles else None
        table.add_row(*(Text(row[i]) for i in (0, *shown)), style=style)
    return table


def widest(header: str, cells: Sequence[str]) -> int:
    """Return the width of a column of figures: of its longest cell, or of a word of its header."""
    return max(map(cell_len, (*header.split(), *cells)), default=0)


def room(widths: Sequence[int], shown: Sequence[int], width: int) -> int:
    """Return what columns of figures leave of the width for the names."""
    return width - sum(widths[i] + GAP for i in shown) - GAP
