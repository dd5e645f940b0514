"""Time of a normalizer by itself, as a ratio to LayerNorm's, in interleaved rounds."""

from __future__ import annotations

import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.against import SpeedOutput, compare_checkouts
from benchmarks.docs_blocks import around_block, replace_block
from benchmarks.harness import ResultTable, emit, interleave
from rn_rl.analysis.tables import markdown_table
from rn_rl.errors import UserError, first_line
from rn_rl.experiment.runs.io import write_json, write_npz
from rn_rl.normalization import REGISTRY, make_normalizers, parse_spec
from rn_rl.normalization.costs import RECORD_FILE
from rn_rl.normalization.recording import RECORDING

REFERENCE = "ln"
LINEAR = "linear"
"""Name of the bare linear layer, whose time is subtracted for normalizers that change its weights."""

SHOWN = ("rn", "rln", "rsn"), ((50, 64), (256, 256), (1024, 1024))
"""Normalizers and sizes of the table that ``--readme`` writes."""

WARM_PHASES = 3
"""Number of phases before the measurement; after them every gain differs from its first value."""


@dataclass
class LayerCostConfig(SpeedOutput):
    """Time the forward and backward pass of every normalizer: CPU, one thread, training mode.

    For a normalizer that changes the weights of a linear layer, the layer's own time is subtracted.
    Commits are left out, since there is one a phase. CPU time of this process, which other processes
    disturb little.
    """

    norms: tuple[str, ...] = ()
    """Normalizers; default: the whole registry."""
    batch: int = 256
    """Rows of the input."""
    features: int = 256
    """Columns of the input."""
    rounds: int = 50
    """Rounds; a ratio is the median of the rounds' ratios."""
    repeats: int = 10
    """Passes of each normalizer in a round."""
    compile: bool = False
    """Compile every module with torch.compile."""
    record: bool = False
    """Also write the ratios that 'rn-rl norms' shows; only for the whole registry."""
    readme: Path | None = None
    """Write the table of rn, rln and rsn at three sizes, eager and compiled, into this document."""


def reparametrizes(norm: str) -> bool:
    """Return True if a spec changes the weights of the layer before it."""
    if norm in REGISTRY:  # a bare name may lack required arguments
        return REGISTRY[norm].reparametrize is not None
    return any(term.row.reparametrize is not None for term in parse_spec(norm))


def with_recording(norm: str, folder: Path) -> str:
    """Return a spec that can be built from a bare name; one that replays a recording is given one."""
    if norm not in REGISTRY or REGISTRY[norm].recording is None:
        return norm
    write_npz(folder / RECORDING, gains=np.linspace(1, 2, 8)[:, None], timesteps=np.arange(8))
    return f"{norm}({folder})"


def one_pass(norm: str, batch: int, features: int, compile: bool = False) -> Callable[[], None]:
    """Return a function that runs one forward and backward pass of a module past its first phases."""
    layer = nn.Linear(features, features)
    modules = [] if norm == LINEAR else make_normalizers(norm, features, layer=layer)
    inside = norm == LINEAR or reparametrizes(norm)
    module = nn.Sequential(*([layer] if inside else []), *modules)
    x = torch.randn(batch, features, requires_grad=True)
    gradient = torch.randn(batch, features)
    for _ in range(WARM_PHASES):
        module.train()(x)
        module.eval()
    module.train()
    forward: Callable[..., torch.Tensor] = torch.compile(module) if compile else module
    if compile:
        try:
            forward(x)  # compiles
        except Exception as error:  # of the compiler, of any type
            raise UserError(
                f"torch.compile failed ({first_line(error)[:200]}): leave out --compile and --readme, or "
                "install a C++ compiler (g++), with torch in a folder without a space"
            ) from None

    def run() -> None:
        x.grad = None
        module.zero_grad()
        forward(x).backward(gradient)

    return run


def measure(config: LayerCostConfig, norms: list[str]) -> dict[str, np.ndarray]:
    """Measure the microseconds of a pass, ``(rounds,)`` for each normalizer."""
    inside = [norm for norm in norms if reparametrizes(norm)]
    with tempfile.TemporaryDirectory() as folder:
        passes = {
            name: one_pass(
                with_recording(name, Path(folder)), config.batch, config.features, config.compile
            )
            for name in dict.fromkeys([REFERENCE, *norms, *([LINEAR] if inside else [])])
        }

    def microseconds(run: Callable[[], None]) -> float:
        begin = time.process_time()
        for _ in range(config.repeats):
            run()
        return 1e6 * (time.process_time() - begin) / config.repeats

    measurements = {name: partial(microseconds, run) for name, run in passes.items()}
    interleave(measurements, 1)  # warm up
    times = interleave(measurements, config.rounds)
    for name in inside:
        times[name] = times[name] - times[LINEAR]
    return times


def cost_lines(config: LayerCostConfig, norms: list[str]) -> list[dict[str, Any]]:
    """Measure, and return one line for each normalizer."""
    times = measure(config, norms)
    return [
        {
            "benchmark": "layer",
            "case": f"{norm}/{config.batch}x{config.features}",
            "value": float(np.median(times[norm])),
            "unit": "us",
            "ratio": float(np.median(times[norm] / times[REFERENCE])),
            "ratio_to": REFERENCE,
        }
        for norm in norms
    ]


def sizes_table(config: LayerCostConfig) -> str:
    """Measure ratios at several sizes, eager and compiled, and return them as a Markdown table.

    The rounds of one column are interleaved.
    """
    norms, sizes = SHOWN
    cells: dict[str, list[str]] = {norm: [] for norm in norms}
    for compile in (False, True):
        for batch, features in sizes:
            one = replace(config, batch=batch, features=features, compile=compile)
            for norm, line in zip(norms, cost_lines(one, list(norms)), strict=True):
                cells[norm].append(f"{line['ratio']:.2f}")
    names = [f"{batch}x{features}" for batch, features in sizes]
    columns = ["normalizer", *names, *(f"{name}, compiled" for name in names)]
    return markdown_table(columns, [[norm, *cells[norm]] for norm in norms])


def run_layer_cost(config: LayerCostConfig) -> None:
    """Measure and print; with ``--record`` also write the ratios.

    Raises:
        UserError: an option is out of range, or excludes another one.
    """
    for name in ("batch", "features", "rounds", "repeats"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name} {getattr(config, name)}: expected at least 1")
    if config.record and config.compile:
        raise UserError("--record --compile: what is recorded is the cost without a compiler")
    if config.record and config.norms:
        raise UserError(
            f"--record --norms {' '.join(config.norms)}: expected the whole registry, so that all "
            "ratios are of one run; leave out --norms"
        )
    if config.against is not None:
        if config.record:
            raise UserError("--against --record: expected one of them")
        compare_checkouts("layer", config)
        return
    if config.readme is not None:
        around_block(config.readme, "layers")  # raises before the measurement
        with one_thread():
            replace_block(config.readme, "layers", sizes_table(config))
        return
    norms = list(config.norms) or [n for n, row in REGISTRY.items() if not row.is_identity]
    with one_thread():
        lines = cost_lines(config, norms)
    if config.record:
        record(lines, norms)
    rows = []
    for norm, line in zip(norms, lines, strict=True):
        name = f"{norm} (added to a linear layer)" if reparametrizes(norm) else norm
        size = line["case"].rpartition("/")[2]
        rows.append([name, size, f"{line['value']:.0f}", f"{line['ratio']:.2f}"])
    kind = "compiled" if config.compile else "eager"
    title = f"forward and backward of a training pass, CPU, one thread, {kind}"
    emit(config, lines, ResultTable(title, ["normalizer", "size", "us", f"to {REFERENCE}"], rows))


def record(lines: list[dict[str, Any]], norms: list[str]) -> None:
    """Write the ratios to :data:`RECORD_FILE`, with the command that made them."""
    ratios = {n: round(line["ratio"], 2) for n, line in zip(norms, lines, strict=True)}
    command = shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]])
    write_json(
        Path(str(RECORD_FILE)),
        {
            "what": "time of a training forward and backward as a ratio to LayerNorm's; CPU, one "
            "thread, eager; of a change of weights (wn, spectral): what it adds to a linear layer",
            "command": command,
            "torch": str(torch.__version__),
            "ratios": ratios,
        },
    )


@contextmanager
def one_thread() -> Iterator[None]:
    """Set torch to one thread in this context, and restore the number afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
