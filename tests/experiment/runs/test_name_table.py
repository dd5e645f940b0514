"""Tables for a terminal: names are whole, and columns of figures are left out for them."""

import io

import pytest
from rich.console import Console

from rn_rl.experiment.runs.name_table import name_table

NAMES = [
    f"ln+rn(half_life={k}) dqn MiniGrid-RedBlueDoors-{n}x{n}-v0"
    for k in (500, 2000)
    for n in (6, 8)
]
COLUMNS = ["name", "seeds", "last return, IQM", "share"]


def printed(columns, rows, width, **options):
    """Return the lines of a table, and the texts of its column of names by row."""
    console = Console(file=io.StringIO(), width=width)
    table = name_table(columns, rows, width, **options)
    console.print(table)
    column = table.columns[0]
    lines = console.file.getvalue().splitlines()
    cells = [line[: column.width].strip() for line in lines]
    return lines, "".join(cells).replace(" ", ""), [c.header for c in table.columns]


@pytest.mark.parametrize("width", [120, 80, 60, 40, 25, 12])
def test_names_and_figures_are_whole_at_every_width(width):
    rows = [[name, "10", f"{i}.12 [-1,000, 2,000]", "50%"] for i, name in enumerate(NAMES)]
    lines, names, headers = printed(COLUMNS, rows, width)
    assert all(name.replace(" ", "") in names for name in NAMES)
    assert max(map(len, lines)) <= width
    text = "\n".join(lines)
    assert "…" not in text
    assert [h for h in COLUMNS if h in headers] == headers
    if "last return, IQM" in headers:
        assert all(f"{i}.12 [-1,000, 2,000]" in text for i in range(4))


def test_expendable_columns_are_left_out_first():
    rows = [[name, "10", "1.00 [-1,000, 2,000]", "50%"] for name in NAMES]
    shown = [printed(COLUMNS, rows, w, expendable=["seeds"])[2] for w in (80, 62, 58, 40)]
    assert shown == [COLUMNS, COLUMNS[:1] + COLUMNS[2:], ["name", "last return, IQM"], ["name"]]


def test_brackets_are_no_markup():
    lines, _, _ = printed(["name"], [["mine[bold](a=[red])"]], 80)
    assert lines[1].strip() == "mine[bold](a=[red])"
