"""``rn-rl probe``: what the layers of runs did while they learned, as a page and in the terminal."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.padding import Padding
from rich.table import Table

from rn_rl.analysis.probe_page import short, write_page
from rn_rl.analysis.probe_plots import check_formats
from rn_rl.analysis.probes import HOW, ProbedArm, find_probed, read_arms, read_run
from rn_rl.analysis.report import check_page
from rn_rl.analysis.tables import Estimate
from rn_rl.errors import UserError
from rn_rl.experiment.evaluation.config import ProbeConfig
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.records import CURVE_POINTS, Gains, read_gains
from rn_rl.probe import ProbeRecord

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Fractions of the training at which gains are printed."""

BARS = "▁▂▃▄▅▆▇█"
BAR_COUNT = 12
WATCH_COUNT = 40

MOST_ROWS = 24
"""Rows of a table in the terminal."""


def run_probe(config: ProbeConfig) -> None:
    """Write the page of runs with a probe, or print the gains of a run without one.

    Raises:
        UserError: there is no such run, it recorded nothing, or the record is damaged.
    """
    formats = check_formats(config.figures)
    check_page(config.out, "--out")
    if not config.runs:
        raise UserError("RUN is missing: expected a run folder, or a folder that holds runs")
    places = find_probed(config.runs)
    if config.watch:
        if len(places) != 1:
            raise UserError(f"--watch follows one run: expected one, got {len(places)}")
        watch(*places[0])
        return
    [(run, path), *others] = places
    if run is not None and not others and not path.is_file():
        print_gains(run, config)
        return
    arms = read_arms(config.runs)
    if config.json:
        for arm in arms:
            for each in arm.runs:
                print_record(each.name, each.record)
        return
    console = Console()
    written = write_page(arms, config.out, formats)
    for arm in arms:
        console.print(Padding(probe_table(arm), (1, 0)))
        for sentence in (*arm.sentences(), *arm.notes):
            say(console, f"  {sentence}")
    note = (
        "residual: code length in nats beyond that of stationary data, and its course; explained: "
    )
    say(console, f"{note}share of it that follows from shift and ratio")
    say(console, f"page: {config.out}; {', '.join(path.name for path in written)} beside it")


def print_record(name: str, record: ProbeRecord) -> None:
    """Print one JSON object for each column, with at most 100 evenly spaced rows."""
    pick = np.linspace(0, len(record.timesteps) - 1, min(CURVE_POINTS, len(record.timesteps)))
    rows = pick.astype(int)
    for i, column in enumerate(record.columns):
        values = {
            measure: [None if np.isnan(x) else float(x) for x in table[rows, i]]
            for measure, table in record.values.items()
        }
        steps = record.timesteps[rows].tolist()
        print(json.dumps({"run": name, "layer": column, "timesteps": steps, **values}))


def probe_table(arm: ProbedArm) -> Table:
    """Make a table of an arm for a terminal of 80 columns.

    It has a row for each online layer with weights, whose name is folded rather than cut; the page has
    intervals, and all columns and measures.
    """
    names = [n for n in ("residual", "dead", "rank") if arm.has(n)]
    table = Table(
        title=f"{arm.name}, {len(arm.runs)} seeds: means of the last tenth",
        title_justify="left",
        box=None,
        padding=(0, 2, 0, 0),
    )
    table.add_column("layer", overflow="fold")
    for name in (*names, "explained"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("course", no_wrap=True)
    shown = [c for c in arm.columns if "_target." not in c and not c.endswith((".in", ".out"))]
    shown = shown or arm.columns
    for column in shown[:MOST_ROWS]:
        _, rows = arm.curve("residual", column)
        with np.errstate(all="ignore"):
            line = rows[:, np.isfinite(rows).all(0)].mean(0)
        table.add_row(
            column,
            *(short(Estimate(arm.last(name, column).value)) for name in names),
            short(Estimate(arm.explained(column).value), share=True),
            course(line, BAR_COUNT),
        )
    left = len(shown) - MOST_ROWS
    if left > 0:
        table.add_row(f"and {left} more")
    return table


def course(line: np.ndarray, count: int) -> str:
    """Draw a series in so many bars, on a scale of its own."""
    if not len(line):
        return ""
    at = np.linspace(0, len(line) - 1, count)
    return bars(np.interp(at, np.arange(len(line)), line), line.min(), line.max())


def watch(run: Run | None, path: Path, seconds: float = 1.0) -> None:
    """Draw the residuals of a run in the terminal until it has all of its timesteps, or Ctrl-C.

    Args:
        run: the run; None for a file by itself, which is drawn once.
        path: its record.
        seconds: time between two looks at the record.

    Raises:
        UserError: the run records no probe.
    """
    length = None
    if run is not None:
        spec = run.read_spec()
        length = spec.timesteps
        if not spec.probe and not path.is_file():
            raise UserError(f"run {run.folder} has no probe.npz: {HOW}")
    with Live(console=Console(), auto_refresh=False) as live:
        while True:
            reached = 0.0
            if path.is_file():
                record = read_run(run, path).record
                reached = float(record.timesteps[-1])
                live.update(watch_table(str(path), record), refresh=True)
            ended = run is None or run.divergence is not None or run.final_file.is_file()
            if ended or length is None or reached >= 0.99 * length:
                return
            time.sleep(seconds)


def watch_table(title: str, record: ProbeRecord) -> Table:
    """Make a table of the residuals so far."""
    table = Table(title=f"{title}, timestep {record.timesteps[-1]:,.0f}: residual in nats")
    table.add_column("layer", overflow="fold")
    table.add_column("now", justify="right", no_wrap=True)
    table.add_column("course", no_wrap=True)
    for i, column in enumerate(record.columns[:MOST_ROWS]):
        line = record.values["residual"][:, i]
        line = line[np.isfinite(line)]
        if len(line):
            table.add_row(column, f"{line[-1]:.2f}", course(line, WATCH_COUNT))
    left = len(record.columns) - MOST_ROWS
    if left > 0:
        table.add_row(f"and {left} more")
    return table


def print_gains(run: Run, config: ProbeConfig) -> None:
    """Print the gains of a run that has no probe.

    Raises:
        UserError: there are none, or the record is damaged.
    """
    spec = run.read_spec()
    notes: list[str] = []
    found = read_gains(run, notes)
    if notes:
        raise UserError(
            f"run {run.folder}: {'; '.join(notes)}; expected a run as training leaves it"
        )
    if found is None:
        raise UserError(
            f"run {run.folder} has no code lengths: it has neither a probe.npz ({HOW}) nor a normalizer "
            f"that keeps state, and it has '{spec.norm}'; rn_rl.CodeLengthProbe(module) measures any "
            "network while it learns"
        )
    if config.json:
        for layer, gains in zip(found.layers, found.values.T, strict=True):
            row = {"layer": layer, "timesteps": found.timesteps.tolist(), "gain": gains.tolist()}
            print(json.dumps(row))
        return
    console = Console()
    console.print(as_table(found, f"{spec.norm} {spec.algo} {spec.env}, seed {spec.seed}"))
    say(console, f"gains of the normalizers alone; for the code lengths of all layers, {HOW}")


def as_table(found: Gains, about: str) -> Table:
    """Make a table with a row for each layer: gains at :data:`SHARES` of the training, and bars."""
    last = found.timesteps[-1]
    table = Table(
        title=f"{about}: gain of each layer, by timestep",
        caption="for regularity normalizers, the code length in nats; bars from "
        f"{found.values.min():.3g} to {found.values.max():.3g}",
    )
    table.add_column("layer", overflow="fold")
    for share in SHARES:
        table.add_column(f"{share * last:,.0f}", justify="right", no_wrap=True)
    table.add_column("course", no_wrap=True)
    for layer, gains in zip(found.layers, found.values.T, strict=True):
        at = np.interp([share * last for share in SHARES], found.timesteps, gains)
        places = np.linspace(0, last, BAR_COUNT)
        drawn = bars(
            np.interp(places, found.timesteps, gains), found.values.min(), found.values.max()
        )
        table.add_row(layer, *(f"{gain:.2f}" for gain in at), drawn)
    return table


def bars(values: np.ndarray, low: float, high: float) -> str:
    """Draw each value as a block character, on a scale from ``low`` to ``high``."""
    heights = (values - low) / max(high - low, 1e-12) * (len(BARS) - 1)
    return "".join(BARS[round(height)] for height in heights)
