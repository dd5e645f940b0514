"""``rn-rl probe``: print the gain of every layer of a run while it learned."""

from __future__ import annotations

import json

import numpy as np
from rich.console import Console
from rich.table import Table

from rn_rl.errors import UserError
from rn_rl.experiment.evaluation.config import ProbeConfig
from rn_rl.experiment.runs.folder import find_run
from rn_rl.experiment.runs.records import Gains, read_gains

SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Of a training, at which a gain is told."""

BARS = "▁▂▃▄▅▆▇█"
BAR_COUNT = 12


def run_probe(config: ProbeConfig) -> None:
    """Read what the run recorded and print it.

    Raises:
        UserError: no such run, or one that recorded no gains, or a damaged record.
    """
    run, _ = find_run(config.run)
    spec = run.read_spec()
    notes: list[str] = []
    found = read_gains(run, notes)
    if notes:
        raise UserError(
            f"run {run.folder}: {'; '.join(notes)}; expected a run as training leaves it"
        )
    if found is None:
        raise UserError(
            f"run {run.folder} has no code lengths: expected one with a normalizer that keeps state, and "
            f"it has '{spec.norm}'; rn_rl.CodeLengthProbe(module) measures any network while it learns"
        )
    if config.json:
        for layer, gains in zip(found.layers, found.values.T, strict=True):
            row = {"layer": layer, "timesteps": found.timesteps.tolist(), "gain": gains.tolist()}
            print(json.dumps(row))
        return
    Console().print(as_table(found, f"{spec.norm} {spec.algo} {spec.env}, seed {spec.seed}"))


def as_table(found: Gains, about: str) -> Table:
    """A row a layer: the gain at parts of the training, and its course."""
    last = found.timesteps[-1]
    table = Table(
        title=f"{about}: gain of each layer, by timestep",
        caption=f"of rn and its kin: the code length in nats; bars from {found.values.min():.3g} to "
        f"{found.values.max():.3g}",
    )
    table.add_column("layer")
    for share in SHARES:
        table.add_column(f"{share * last:,.0f}", justify="right")
    table.add_column("course", no_wrap=True)
    for layer, gains in zip(found.layers, found.values.T, strict=True):
        at = np.interp([share * last for share in SHARES], found.timesteps, gains)
        course = np.interp(np.linspace(0, last, BAR_COUNT), found.timesteps, gains)
        drawn = bars(course, found.values.min(), found.values.max())
        table.add_row(layer, *(f"{gain:.2f}" for gain in at), drawn)
    return table


def bars(values: np.ndarray, low: float, high: float) -> str:
    """One bar a value, on a scale that all rows share."""
    heights = (values - low) / max(high - low, 1e-12) * (len(BARS) - 1)
    return "".join(BARS[round(height)] for height in heights)
