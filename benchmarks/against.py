"""Speed of this checkout against another one, measured in turns: ``--against PATH``."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy import stats

from benchmarks.harness import Line, Output, ResultTable, emit
from rn_rl.errors import UserError

HERE = Path(__file__).parents[1]
"""This checkout."""


@dataclass
class SpeedOutput(Output):
    """Options of a benchmark that can be compared with another checkout."""

    against: Path | None = None
    """Another checkout (a git worktree): run both in turns, and print ratios of speed."""
    pairs: int = 10
    """Turns of --against: each runs the benchmark in both checkouts, in new processes."""


def compare_checkouts(name: str, config: SpeedOutput) -> None:
    """Run a benchmark in this checkout and in ``config.against`` in turns, and print the ratios.

    Each of ``config.pairs`` turns runs ``scripts/benchmark.py NAME ... --json`` once in both, in a
    random order. A ratio is the median over turns of new speed / old speed, above 1 where this
    checkout is faster, with the exact 95% interval of a median (none below 6 turns).

    Raises:
        UserError: ``config.against`` is no checkout, or the benchmark fails there.
    """
    assert config.against is not None
    if config.pairs < 1:
        raise UserError(f"--pairs {config.pairs}: expected at least 1")
    if config.readme is not None:
        raise UserError("--against --readme: expected one of them")
    there = config.against.resolve()
    for checkout in (HERE, there):
        check_checkout(checkout)
    arguments = [name, *flags_of(config), "--json"]
    console = Console(stderr=True)
    runs: dict[Path, list[dict[str, Line]]] = {HERE: [], there: []}
    for turn in range(config.pairs):
        order = [HERE, there]
        np.random.default_rng(turn).shuffle(order)
        for checkout in order:
            runs[checkout].append(run_benchmark(checkout, arguments))
        console.print(f"turn {turn + 1} of {config.pairs}", highlight=False)
    lines = summarize_pairs(name, runs[HERE], runs[there], str(config.against))
    if not lines:
        raise UserError(f"--against {config.against}: the two checkouts have no case in common")
    columns = ["case", "unit", "here", "there", "speed, here to there [95%]"]
    title = f"{name}: this checkout to {config.against}, median of {config.pairs} turns"
    emit(config, lines, ResultTable(title, columns, [pair_row(line) for line in lines]))


def check_checkout(checkout: Path) -> None:
    """Check that Python imports ``rn_rl`` from a checkout when it is on PYTHONPATH.

    Raises:
        UserError: it does not.
    """
    if not (checkout / "scripts" / "benchmark.py").is_file():
        raise UserError(
            f"--against {checkout}: expected a checkout of rn-rl, with scripts/benchmark.py in it"
        )
    found = python(checkout, "-c", "import rn_rl; print(rn_rl.__file__)").stdout.strip()
    if Path(found).parents[1].resolve() != checkout:
        raise UserError(f"--against {checkout}: Python imports rn_rl from {found}, not from there")


def flags_of(config: SpeedOutput) -> list[str]:
    """Return the options of a benchmark as flags, all of them: defaults may differ elsewhere."""
    flags: list[str] = []
    for each in fields(config):
        value: Any = getattr(config, each.name)
        if each.name in ("against", "pairs", "readme", "json") or value in (None, False, ()):
            continue
        flags.append(f"--{each.name.replace('_', '-')}")
        if value is not True:
            flags += map(str, value) if isinstance(value, tuple) else [str(value)]
    return flags


def python(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run this interpreter in a checkout, which comes first on its path."""
    return subprocess.run(
        [sys.executable, *arguments],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": str(checkout)},
        capture_output=True,
        text=True,
    )


def run_benchmark(checkout: Path, arguments: Sequence[str]) -> dict[str, Line]:
    """Run a benchmark in a checkout: its lines by case.

    Raises:
        UserError: it failed.
    """
    done = python(checkout, "scripts/benchmark.py", *arguments)
    if done.returncode:
        told = done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
        raise UserError(f"{checkout}: benchmark.py {' '.join(arguments)} failed: {told[-1]}")
    lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
    return {line["case"]: line for line in lines}


def summarize_pairs(
    name: str, here: list[dict[str, Line]], there: list[dict[str, Line]], path: str
) -> list[Line]:
    """Return one line for each case that both checkouts measured in every turn."""
    cases = [case for case in here[0] if all(case in turn for turn in (*here, *there))]
    lines = []
    for case in cases:
        new, old = (np.array([turn[case]["value"] for turn in runs]) for runs in (here, there))
        unit = here[0][case]["unit"]
        ratios = new / old if unit.endswith("/s") else old / new  # else a time
        low, high = median_interval(ratios)
        lines.append(
            {
                "benchmark": name,
                "case": case,
                "value": float(np.median(new)),
                "value_there": float(np.median(old)),
                "unit": unit,
                "ratio": float(np.median(ratios)),
                "low": low,
                "high": high,
                "ratio_to": path,
                "each": ratios.tolist(),
            }
        )
    return lines


def median_interval(values: np.ndarray) -> tuple[float | None, float | None]:
    """Return the exact 95% interval of a median by order statistics; below 6 values there is none."""
    if len(values) < 6:
        return None, None
    found = stats.quantile_test(values, p=0.5).confidence_interval(0.95)
    return float(found.low), float(found.high)


def pair_row(line: Line) -> list[str]:
    """Return a line of :func:`summarize_pairs` as text."""
    interval = "" if line["low"] is None else f" [{line['low']:.3f}, {line['high']:.3f}]"
    values = [f"{line[key]:,.0f}" for key in ("value", "value_there")]
    return [line["case"], line["unit"], *values, f"{line['ratio']:.3f}{interval}"]
