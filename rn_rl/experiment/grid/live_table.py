"""Display of a grid while it runs: a live table on a terminal, lines elsewhere."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from rich.live import Live
from rich.table import Table

from rn_rl.experiment.grid import leases
from rn_rl.experiment.grid.state import Grid
from rn_rl.experiment.runs.console import StatusLines, clock, say
from rn_rl.experiment.runs.name_table import name_table


@contextmanager
def displayed(grid: Grid) -> Iterator[None]:
    """Show the progress of a grid while the block runs."""
    for sentence in grid.kept_options():
        say(grid.console, sentence)
    if grid.console.is_terminal:
        with live_table(grid):
            yield
        return
    done = sum(state.done for state in grid.states())
    say(grid.console, f"{grid.size} trainings, {done} of them done")
    with StatusLines(grid.console, lambda: status(grid)):
        yield


def status(grid: Grid) -> str:
    """Return the progress of a grid as one line."""
    states = grid.states()
    done, running = sum(s.done for s in states), sum(len(s.running) for s in states)
    behind, total = sum(s.behind for s in states), sum(s.total for s in states)
    parts = [f"{done} of {grid.size} trained", f"{running} running"]
    parts += [f"{100 * behind / total:.0f}%" if total else "", grid.time_left(states)]
    return ", ".join(part for part in parts if part)


@contextmanager
def live_table(grid: Grid) -> Iterator[None]:
    """Show :func:`make_table` on the terminal, redrawn by a thread, while the block runs."""
    end = threading.Event()
    with Live(make_table(grid), console=grid.console, auto_refresh=False) as live:

        def refresh() -> None:
            while not end.wait(leases.BEAT):
                live.update(make_table(grid), refresh=True)

        thread = threading.Thread(target=refresh, daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join()
            grid.forget_done()
            live.update(make_table(grid), refresh=True)


def make_table(grid: Grid) -> Table:
    """Return the table of a grid: for each cell its seeds done, running and failed, and a share."""
    states = grid.states()
    rows: list[list[str]] = []
    styles: list[str | None] = []
    for state in states:
        seeds = len(state.cell.specs)
        counts = (seeds, state.done, len(state.running), state.failed)
        share = f"{100 * state.behind / state.total:.0f}%" if state.total else ""
        rows.append([state.cell.name, *(f"{n}" if n else "" for n in counts), share])
        styles.append("red" if state.failed else "green" if state.done == seeds else None)
    columns = ("training", "seeds", "done", "running", "failed", "")
    table = name_table(columns, rows, grid.console.width, expendable=("seeds",), styles=styles)
    if sum(state.behind for state in states) >= sum(state.total for state in states):
        table.caption = f"done in {clock(grid.passed)}"
    else:
        left = grid.time_left(states)
        table.caption = f"{clock(grid.passed)} passed" + (f", {left}" if left else "")
    table.caption_justify = "left"
    return table
