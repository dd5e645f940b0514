"""``rn-rl probe``: what the layers of runs did while they learned, as a page and in the terminal."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions
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
    is_online_layer,
    missing,
    read_arms,
)
from rn_rl.analysis.report import check_page
from rn_rl.analysis.tables import Estimate, counted
from rn_rl.errors import UserError
from rn_rl.experiment.evaluation.config import ProbeConfig
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.name_table import GAP, name_table
from rn_rl.experiment.runs.records import CURVE_POINTS, Gains, read_gains, read_probe
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.probe import ProbeRecord

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Fractions of the training at which gains are printed."""

BARS = "▁▂▃▄▅▆▇█"
BAR_COUNT = 12
WATCH_COUNT = 40
"""Bars of a live curve, if the terminal is wide enough; else at least :data:`BAR_COUNT`."""

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
    shown = shown_columns(arm.columns)
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
    title = Text(f"{arm.name}, {counted(len(arm.runs), 'seed')}: means of the last tenth")
    left_out = ("explained", "rank", "dead", "its course")
    return name_table(columns, rows, width, expendable=left_out, title=title)


def shown_columns(columns: list[str]) -> list[str]:
    """Return the columns of online layers that are no normalizers; all columns if there are none."""
    online = [c for c in columns if is_online_layer(c, columns)]
    return [c for c in online if not is_of_normalizer(c, columns)] or columns


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
    length, title = None, str(path)
    if run is not None:
        spec = run.read_spec()
        length, title = spec.timesteps, titled(spec)
        if not spec.probe and not path.is_file():
            raise UserError(f"run {run.folder} has no probe.npz{missing(spec)}")
    console = Console()
    with Live(console=console, auto_refresh=False) as live:
        while True:
            reached = 0.0
            ended = run is None or run.divergence is not None or run.final_file.is_file()
            record = read_probe(path) if path.is_file() else None
            if record is not None and (ended or len(record.timesteps)):
                reached = float(checked_length(path, record).timesteps[-1])
                live.update(watch_table(title, record, console.size), refresh=True)
            if ended or length is None or reached >= 0.99 * length:
                return
            time.sleep(seconds)


def watch_table(title: str, record: ProbeRecord, size: ConsoleDimensions) -> Table:
    """Make a table of the residuals so far, of the layers of the page's table, as many as fit."""
    residual = record.values["residual"]
    known = [
        (name, residual[:, record.columns.index(name)]) for name in shown_columns(record.columns)
    ]
    known = [(name, line) for name, line in known if np.isfinite(line).any()]
    fit = min(MOST_ROWS, max(size.height - 6, 4))  # without title, header and the prompt
    now = ["-" if np.isnan(line[-1]) else f"{line[-1]:.2f}" for _, line in known[:fit]]
    names = max((cell_len(name) for name, _ in known[:fit]), default=0)
    taken = names + max(map(len, ["now", *now])) + 3 * GAP
    bars_shown = min(max(size.width - taken, BAR_COUNT), WATCH_COUNT)
    rows = [
        [name, value, course(line, bars_shown)]
        for (name, line), value in zip(known, now, strict=False)
    ]
    if len(known) > fit:
        rows.append([f"and {len(known) - fit} more", "", ""])
    title = f"{title}, timestep {record.timesteps[-1]:,.0f}: residual in nats"
    return name_table(["layer", "now", "course"], rows, size.width, title=Text(title))


def titled(spec: RunSpec) -> str:
    """Return the title of a run's table."""
    return f"{spec.norm} {spec.algo} {spec.env}, seed {spec.seed}"


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
            f"run {run.folder} has neither gains of its normalizer '{spec.norm}' on record, as those "
            f"with state have, nor a probe.npz{missing(spec)}"
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
    console.print(as_table(found, titled(spec), console.width))
    say(console, f"gains of the normalizers alone: the run has no probe.npz{missing(spec)}")


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
