"""Time and memory of a report on many runs with made-up returns."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.harness import Line, Output, ResultTable, emit
from rn_rl.errors import UserError

ARMS, ENVS = 10, ("CartPole-v1", "LunarLander-v3")


@dataclass
class ReportSpeedConfig(Output):
    """Report on runs with made-up returns, in a process of its own: seconds and peak memory."""

    runs: int = 1000
    """Number of runs, of ten normalizers on two environments."""
    evaluations: int = 50
    """Evaluations of each run."""


def run_report_speed(config: ReportSpeedConfig) -> None:
    """Write runs, report on them in another process, and print time, peak memory and page size."""
    import resource  # not on Windows, where the other benchmarks still work

    seeds = config.runs // (ARMS * len(ENVS))
    if seeds < 1 or config.evaluations < 1:
        raise UserError(
            f"--runs {config.runs} --evaluations {config.evaluations}: expected at least "
            f"{ARMS * len(ENVS)} and 1"
        )
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write_made_up_runs(root, seeds, config.evaluations)
        command = [sys.executable, "-m", "rn_rl", "report", str(root), "--out", f"{root}/page.html"]
        begin = time.perf_counter()
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        seconds = time.perf_counter() - begin
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        gigabytes = peak / (1e9 if sys.platform == "darwin" else 1e9 / 1024)  # bytes on macOS
        size = (root / "page.html").stat().st_size / 1e6
    case = f"{seeds * ARMS * len(ENVS)} runs x {config.evaluations} evaluations"
    values = {"s": seconds, "GB": gigabytes, "MB page": size}
    lines: list[Line] = [
        {"benchmark": "report", "case": case, "value": value, "unit": unit}
        for unit, value in values.items()
    ]
    row = [f"{seconds:.1f}", f"{gigabytes:.2f}", f"{size:.1f}"]
    emit(config, lines, ResultTable(case, ["seconds", "peak GB", "page MB"], [row]), block="report")


def write_made_up_runs(root: Path, seeds: int, evaluations: int) -> None:
    """Write run folders of every normalizer and environment, with random returns."""
    from tests.factories import made_up_run  # the tests' folder: no other benchmark needs it

    rng = np.random.default_rng(0)
    for env in ENVS:
        for arm in range(ARMS):
            for seed in range(seeds):
                returns = rng.normal(100 + arm, 20, (evaluations, 5)).cumsum(0) / 10
                norm = "none" if arm == 0 else f"gain({arm})"
                made_up_run(root, norm, seed, returns, env=env)
