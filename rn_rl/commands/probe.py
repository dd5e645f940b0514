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
from rich.text import Text

from rn_rl.analysis.probe_page import short, write_page
from rn_rl.analysis.probe_plots import check_formats
from rn_rl.analysis.probes import (
    HOW,
    ProbedArm,
    checked_length,
    find_probed,
    is_of_normalizer,
    read_arms,
)
from rn_rl.analysis.report import check_page
from rn_rl.analysis.tables import Estimate
from rn_rl.errors import UserError
from rn_rl.experiment.evaluation.config import ProbeConfig
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.name_table import name_table
from rn_rl.experiment.runs.records import CURVE_POINTS, Gains, read_gains, read_probe
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
    if config.watch and config.json:
        raise UserError("--watch --json: --watch draws in the terminal; expected one of the two")
    of_page = options_of_page(config)
    for option, what in (("watch", "draws in the terminal"), ("json", "prints")):
        if getattr(config, option) and of_page:
            raise UserError(
                f"--{option} {of_page}: --{option} {what} and writes no page; leave out one of the two"
            )
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
        console.print(Padding(probe_table(arm, console.width), (1, 0)))
        for sentence in (*arm.sentences(), *arm.notes):
            say(console, f"  {sentence}")
    note = (
        "residual: code length in nats beyond that of stationary data, and its course; explained: "
    )
    say(
        console,
        f"{note}share of its variance that follows from shift and ratio; below 0: worse than a constant",
    )
    table, *files = [path.name for path in written]
    more = f", and {len(files)} files of figures such as {files[0]}" if files else ""
    say(console, f"page: {config.out}; {table}{more} beside it")


def options_of_page(config: ProbeConfig) -> str:
    """Return the options that were given and tell how the page is written; "" without any."""
    told = [f"--figures {config.figures}"] if config.figures else []
    told += [f"--out {config.out}"] if config.out != ProbeConfig.out else []
    return " ".join(told)


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


def probe_table(arm: ProbedArm, width: int) -> Table:
    """Make a table of an arm for a terminal of so many columns.

    It has a row for each online layer that is no normalizer, whose name is folded rather than cut; the
    page has intervals, and all columns and measures.
    """
    names = [n for n in ("residual", "shift", "ratio", "dead", "rank") if arm.has(n)]
    rows = []
    online = [c for c in arm.columns if "_target." not in c]
    shown = [c for c in online if not is_of_normalizer(c, arm.columns)]
    shown = shown or arm.columns
    for column in shown[:MOST_ROWS]:
        _, values = arm.curve("residual", column)
        line = values.mean(0)  # NaN where a run has no value
        cells = [short(Estimate(arm.last(name, column).value)) for name in names]
        cells.append(short(Estimate(arm.explained(column).value), share=True))
        rows.append([column, *cells, course(line, BAR_COUNT)])
    left = len(shown) - MOST_ROWS
    columns = ["layer", *names, "explained", "its course"]
    if left > 0:
        rows.append([f"and {left} more", *[""] * (len(columns) - 1)])
    title = Text(f"{arm.name}, {len(arm.runs)} seeds: means of the last tenth")
    left_out = ("explained", "rank", "dead", "its course")
    return name_table(columns, rows, width, expendable=left_out, title=title)


def course(line: np.ndarray, count: int) -> str:
    """Draw a series in so many bars, on a scale of its own; blank before and after its numbers."""
    [known] = np.isfinite(line).nonzero()
    if not len(known):
        return ""
    at = np.linspace(0, len(line) - 1, count)
    values = np.interp(at, known, line[known])
    values[(at < known[0]) | (at > known[-1])] = np.nan
    return bars(values, line[known].min(), line[known].max())


def watch(run: Run | None, path: Path, seconds: float = 1.0) -> None:
    """Draw the residuals of a run in the terminal until it has all of its timesteps, or Ctrl-C.

    A record without rows is waited for.

    Args:
        run: the run; None for a file by itself, which is drawn once.
        path: its record.
        seconds: time between two looks at the record.

    Raises:
        UserError: the run records no probe, or ended without a row.
    """
    length = None
    if run is not None:
        spec = run.read_spec()
        length = spec.timesteps
        if not spec.probe and not path.is_file():
            raise UserError(f"run {run.folder} has no probe.npz: {HOW}")
    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            reached = 0.0
            ended = run is None or run.divergence is not None or run.final_file.is_file()
            record = read_probe(path) if path.is_file() else None
            if record is not None and (ended or len(record.timesteps)):
                reached = float(checked_length(path, record).timesteps[-1])
                live.update(watch_table(str(path), record, console.width), refresh=True)
            if ended or length is None or reached >= 0.99 * length:
                return
            time.sleep(seconds)


def watch_table(title: str, record: ProbeRecord, width: int) -> Table:
    """Make a table of the residuals so far, for a terminal of so many columns."""
    rows = []
    for i, column in enumerate(record.columns[:MOST_ROWS]):
        line = record.values["residual"][:, i]
        now = "-" if np.isnan(line[-1]) else f"{line[-1]:.2f}"
        if np.isfinite(line).any():
            rows.append([column, now, course(line, WATCH_COUNT)])
    left = len(record.columns) - MOST_ROWS
    if left > 0:
        rows.append([f"and {left} more", "", ""])
    title = f"{title}, timestep {record.timesteps[-1]:,.0f}: residual in nats"
    return name_table(["layer", "now", "course"], rows, width, title=Text(title))


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
    if of_page := options_of_page(config):
        raise UserError(
            f"{of_page}: run {run.folder} has no probe.npz, so its gains are printed, not a page; leave "
            f"it out, or {HOW}"
        )
    if config.json:
        for layer, gains in zip(found.layers, found.values.T, strict=True):
            row = {"layer": layer, "timesteps": found.timesteps.tolist(), "gain": gains.tolist()}
            print(json.dumps(row))
        return
    console = Console()
    about = f"{spec.norm} {spec.algo} {spec.env}, seed {spec.seed}"
    console.print(as_table(found, about, console.width))
    say(console, f"gains of the normalizers alone; for the code lengths of all layers, {HOW}")


def as_table(found: Gains, about: str, width: int) -> Table:
    """Make a table with a row for each layer: gains at :data:`SHARES` of the training, and bars."""
    last = found.timesteps[-1]
    columns = ["layer", *(f"{share * last:,.0f}" for share in SHARES), "course"]
    rows = []
    for layer, gains in zip(found.layers, found.values.T, strict=True):
        at = np.interp([share * last for share in SHARES], found.timesteps, gains)
        places = np.linspace(0, last, BAR_COUNT)
        drawn = bars(
            np.interp(places, found.timesteps, gains), found.values.min(), found.values.max()
        )
        rows.append([layer, *(f"{gain:.2f}" for gain in at), drawn])
    title = Text(f"{about}: gain of each layer, by timestep")
    left_out = columns[2:4]  # the bars show the course too
    table = name_table(columns, rows, width, expendable=left_out, title=title)
    table.caption = "for regularity normalizers, the code length in nats; bars from "
    table.caption += f"{found.values.min():.3g} to {found.values.max():.3g}"
    table.caption_justify = "left"
    return table


def bars(values: np.ndarray, low: float, high: float) -> str:
    """Draw each value as a block character, on a scale from ``low`` to ``high``; NaN as a blank."""
    heights = (values - low) / max(high - low, 1e-12) * (len(BARS) - 1)
    return "".join(" " if np.isnan(height) else BARS[round(height)] for height in heights)
