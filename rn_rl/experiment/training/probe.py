"""Probes of runs: ``probe.npz`` while a run is trained, and what its checkpoint keeps of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np

from rn_rl.agents import ProbeCallback, SeedBatchProbe
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.io import write_npz
from rn_rl.probe import CodeLengthProbe

SECONDS = 5.0
"""Shortest time between two writings of ``probe.npz``, which ``rn-rl probe --watch`` reads."""


class RunProbe(ProbeCallback):
    """Probe of a run, whose record is written as it grows.

    Args:
        run: the run.
    """

    def __init__(self, run: Run) -> None:
        super().__init__()
        self.run = run
        self._written = 0.0

    def _on_rollout_start(self) -> None:
        before = len(self.log)
        super()._on_rollout_start()
        if len(self.log) != before and time.monotonic() - self._written > SECONDS:
            self.write()

    def write(self) -> None:
        """Write ``probe.npz``."""
        write_npz(self.run.probe_file, **self.log.arrays())
        self._written = time.monotonic()


def write_seed(run: Run, seed: int, probe: SeedBatchProbe) -> None:
    """Write ``probe.npz`` of one seed of a batch."""
    write_npz(run.probe_file, **probe.log.arrays(seed))


def put_states(
    arrays: dict[str, Any], probes: Sequence[CodeLengthProbe], network: int = 0
) -> list[dict[str, Any]]:
    """Store the arrays of one network's probes in ``arrays``; return their plain values."""
    plain = []
    for i, probe in enumerate(probes):
        state = probe.state(network)
        arrays[f"probe/{i}"] = state.pop("state")
        plain.append(state)
    return plain


def take_states(arrays: Any, plain: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the states of probes that :func:`put_states` stored."""
    return [{**state, "state": arrays[f"probe/{i}"]} for i, state in enumerate(plain)]


def put_log(arrays: dict[str, Any], state: dict[str, Any]) -> None:
    """Store a record's :meth:`~rn_rl.probe.ProbeLog.state` in ``arrays``."""
    arrays.update({f"probe/log/{name}": value for name, value in state.items()})


def take_log(arrays: Any) -> dict[str, np.ndarray]:
    """Return what :func:`put_log` stored."""
    names = [name for name in arrays if name.startswith("probe/log/")]
    return {name.removeprefix("probe/log/"): arrays[name] for name in names}


def put_probe(arrays: dict[str, Any], probe: ProbeCallback) -> list[dict[str, Any]]:
    """Store the states and the record of a single run's probe; return the plain values."""
    put_log(arrays, probe.log.state())
    return put_states(arrays, probe.probes)


def take_probe(arrays: Any, plain: Sequence[dict[str, Any]], probe: ProbeCallback) -> None:
    """Restore what :func:`put_probe` stored."""
    probe.log.restore(take_log(arrays))
    probe.continue_from(take_states(arrays, plain))
