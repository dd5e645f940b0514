"""Page of ``rn-rl probe``: curves, stages, figures and correlations of runs with a probe."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from rn_rl.analysis import drawing
from rn_rl.analysis.export import csv_file
from rn_rl.analysis.probe_plots import FIGURES, left_out, page_figure, write_figures
from rn_rl.analysis.probes import CORRELATED, ProbedArm
from rn_rl.analysis.report import template
from rn_rl.analysis.tables import Estimate, counted
from rn_rl.errors import UserError
from rn_rl.experiment.runs.io import write_rows, write_text
from rn_rl.experiment.runs.spec import file_name

SHOWN = ("code", "residual", "shift", "ratio", "dead", "dormant", "rank", "step", "churn", "gain")
"""Measures of the table."""

MOST_ROWS = 40
"""Rows of a table on the page; the CSV file has all."""


@dataclass
class ProbeSection:
    """Part of the page about one arm."""

    arm: ProbedArm
    anchor: str
    seeds: str
    """Number of seeds, as text."""
    rows: str
    """Numbers of rows of the records."""
    sentences: list[str]
    figures: list[tuple[str, str]]
    """SVG and caption of each plot."""
    columns: list[str]
    table: list[list[str]]
    measures: list[str]
    correlations: list[list[str]]
    table_note: str
    """Says that the table is cut, if it is."""
    correlations_note: str


def write_page(arms: Sequence[ProbedArm], out: Path, formats: Sequence[str]) -> list[Path]:
    """Write the page, a CSV file with all of its figures, and each plot as files.

    Args:
        arms: the arms.
        out: path of the HTML page.
        formats: formats of separate files of the plots.

    Returns:
        The files written beside the page.

    Raises:
        UserError: a file cannot be written.
    """
    try:
        written = [csv_file(out, "figures")]
        sections = []
        for i, arm in enumerate(arms):
            drawings = []
            for name, (_, caption) in FIGURES.items():
                drawn = page_figure(name, arm)
                if drawn is None:
                    continue
                drawings.append((drawn, caption + left_out(arm, name)))
                stem = f"{out.stem}-{name}-{file_name(arm.name)}".replace(" ", "-")
                written += write_figures(name, arm, out.with_name(stem), formats)
            sections.append(section(arm, f"arm-{i + 1}", drawings))
        content: dict[str, Any] = {
            "title": f"Probe of {', '.join(arm.name for arm in arms)}",
            "sections": sections,
            "palette": Markup(drawing.page_css()),
        }
        write_text(out, template("probe.html.jinja", escape=True).render(content))
        write_rows(written[0], ["arm", "column", "figure", "value", "low", "high"], all_rows(arms))
    except OSError as error:
        raise UserError(
            f"--out {out}: cannot be written ({error.strerror or error}); choose another file"
        ) from None
    return written


def section(arm: ProbedArm, anchor: str, figures: list[tuple[str, str]]) -> ProbeSection:
    """Return the part of the page about one arm."""
    shown = [name for name in SHOWN if arm.has(name)]
    table = [
        [
            column,
            *(short(arm.last(name, column)) for name in shown),
            short(arm.explained(column), share=True),
        ]
        for column in arm.columns[:MOST_ROWS]
    ]
    measures = [name for name in CORRELATED if arm.has(name)]
    online = [column for column in arm.layers if "_target." not in column]
    found = [
        [column, *(short(arm.correlation(name, column)) for name in measures)]
        for column in online[:MOST_ROWS]
    ]
    known = any(cell != "-" for row in found for cell in row[1:])
    lengths = sorted({len(run.record.timesteps) for run in arm.runs})
    rows = str(lengths[0]) if len(lengths) == 1 else f"{lengths[0]} to {lengths[-1]}"
    return ProbeSection(
        arm,
        anchor,
        counted(len(arm.runs), "seed"),
        rows,
        [*arm.sentences(), *arm.notes],
        figures,
        ["layer", *shown, "explained"],
        table,
        ["layer", *measures],
        found if known else [],
        cut(len(arm.columns)),
        cut(len(online)),
    )


def cut(rows: int) -> str:
    """Return a sentence that says that a table is cut; "" if it is not."""
    if rows <= MOST_ROWS:
        return ""
    return f"The first {MOST_ROWS} of {rows} rows are shown; the CSV file has all."


def short(found: Estimate, *, share: bool = False) -> str:
    """Format a figure and its interval with three digits; a share as a percentage."""
    if math.isnan(found.value):
        return "-"

    def one(value: float) -> str:
        return f"{value:.0%}" if share else f"{round(value, 9) + 0:.3g}"  # without rounding, and -0

    if math.isnan(found.low) or found.low == found.high:
        return one(found.value)
    return f"{one(found.value)} [{one(found.low)}, {one(found.high)}]"


def all_rows(arms: Sequence[ProbedArm]) -> list[list[Any]]:
    """Return all figures of the page, with full precision."""
    rows: list[list[Any]] = []

    def add(arm: str, column: str, name: str, found: Estimate) -> None:
        if not math.isnan(found.value):
            rows.append([arm, column, name, found.value, found.low, found.high])

    for arm in arms:
        for column in arm.columns:
            for name in SHOWN:
                if arm.has(name):
                    add(arm.name, column, f"{name}, last tenth", arm.last(name, column))
            add(arm.name, column, "residual explained by m and v", arm.explained(column))
            for name in CORRELATED:
                if arm.has(name):
                    found = arm.correlation(name, column)
                    add(arm.name, column, f"correlation of {name} with return", found)
        for what, stages in (("residual", arm.stages), ("return", arm.return_stages)):
            for stage in stages:
                name = f"stage of the {what}, share of the training"
                add(arm.name, f"{stage.seeds} of {stage.of} seeds", name, Estimate(stage.position))
    return rows
