"""``rn-rl norms``: the table of normalizers, from the registry and the measured costs."""

from __future__ import annotations

from collections.abc import Iterable

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rn_rl.commands.config import NormsConfig
from rn_rl.normalization import REGISTRY, costs
from rn_rl.normalization.registry import NormalizerSpec, available_rows

NORM_COLUMNS = ["name", "what", "arguments", "state", "phase rule", "cost", "source"]


def norm_rows(rows: Iterable[NormalizerSpec] = REGISTRY.values()) -> list[list[str]]:
    """Return rows of the table as text, with the measured cost of each normalizer."""
    measured = costs.recorded()
    return [
        [
            row.name,
            row.summary,
            ", ".join(row.arguments or ()) or "-",
            "yes" if row.stateful else "-",
            phase_rule_holds(row),
            f"{measured[row.name]:.2f}" if row.name in measured else "-",
            row.source,
        ]
        for row in rows
    ]


def phase_rule_holds(row: NormalizerSpec) -> str:
    """Return the algorithms in which the state changes only between phases, as a cell."""
    if not row.stateful:
        return "no state"
    return "everywhere" if row.phase_rule else "nowhere"


def run_norms(config: NormsConfig) -> None:
    """Print the normalizers of the library, those that were registered, and those of packages."""
    rows = norm_rows(available_rows())
    title = "normalizers: combine them with +, as in ln+rn(half_life=2000)"
    caption = (
        "phase rule: where the state changes only between phases (nowhere: as published)\n"
        "cost: time of a training forward and backward pass, relative to that of ln"
    )
    table = Table(title=title, caption=caption, caption_justify="left", box=SIMPLE_HEAD)
    table.padding, table.pad_edge = (0, 1, 0, 0), False
    for column in NORM_COLUMNS[:-1]:  # the source goes below what it is: six columns in 80
        folds = column in ("what", "arguments")
        most = 9 if column == "arguments" else None
        table.add_column(column, no_wrap=not folds, max_width=most, overflow="fold")
    for name, what, *others, source in rows:
        table.add_row(name, f"{what}\n[dim]{source}[/dim]", *others)
    Console().print(table)
