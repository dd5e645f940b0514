"""Records of a probe over a training: at most 2,000 rows of all measures, as arrays of an npz."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rn_rl.probe.readings import Readings, compute

MOST_ROWS = 2000
"""Largest number of rows of a record."""

MOST_WAITING = 64
"""Rows that are computed together: one call for all of them costs little more than for one."""

FORMAT = 1
"""Version of the arrays."""

SEEN = ("code", "residual")
"""Measures that every record has."""


class ProbeLog:
    """Rows of measures, one for each observed phase; every second one is dropped when there are too many.

    Args:
        most_rows: largest number of rows.

    Example:
        >>> log = ProbeLog()
        >>> log.append(0, Readings(["0"], {"code": np.ones((1, 1)), "residual": np.zeros((1, 1))}))
        >>> log.arrays()["code"].tolist()
        [[1.0]]
    """

    def __init__(self, most_rows: int = MOST_ROWS) -> None:
        self.most_rows = most_rows
        self.timesteps: list[int] = []
        self.columns: list[str] = []
        self._rows: list[dict[str, np.ndarray]] = []
        self._waiting: list[tuple[Readings, ...]] = []
        self._named: list[tuple[list[str], list[int]]] = []
        self._stride = 1
        self._given = 0
        self._decay: float | None = None

    def __len__(self) -> int:
        return len(self.timesteps)

    def append(self, timestep: int, *readings: Readings) -> None:
        """Add a row.

        Args:
            timestep: number of timesteps or gradient steps so far, larger than the last.
            readings: measures of one phase, of one probe or of several with different columns.
        """
        readings = tuple(each for each in readings if each.names)
        self._given += 1
        if not readings or (self._given - 1) % self._stride:
            return
        for each in readings:
            self._places(each.names)
            self._decay = each.decay if each.decay is not None else self._decay
        self.timesteps.append(int(timestep))
        self._waiting.append(readings)
        if len(self._waiting) >= MOST_WAITING:
            self._compute()
        if len(self) > self.most_rows:
            self._compute()
            self.timesteps, self._rows = self.timesteps[::2], self._rows[::2]
            self._stride *= 2

    def _places(self, names: list[str]) -> list[int]:
        """Return the columns of some names; new ones are added."""
        for known, places in self._named:
            if known == names:
                return places
        at = {name: i for i, name in enumerate(self.columns)}
        for name in names:
            if name not in at:
                at[name] = len(self.columns)
                self.columns.append(name)
        places = [at[name] for name in names]
        self._named = [*self._named[-7:], (list(names), places)]
        return places

    def _compute(self) -> None:
        """Compute the rows whose readings wait for that, all in one call."""
        waiting, self._waiting = self._waiting, []
        compute(each for readings in waiting for each in readings)
        tables: dict[str, np.ndarray] = {}
        # of readings with the same columns, a measure is written in one go
        groups: dict[tuple[int, ...], list[tuple[int, Readings]]] = {}
        for i, readings in enumerate(waiting):
            for each in readings:
                groups.setdefault(tuple(self._places(each.names)), []).append((i, each))
        for places, group in groups.items():
            for measure in dict.fromkeys(name for _, each in group for name in each.values):
                known = [(i, each.values[measure]) for i, each in group if measure in each.values]
                values = np.array([one for _, one in known])
                if measure not in tables:
                    shape = len(waiting), values.shape[1], len(self.columns)
                    tables[measure] = np.full(shape, np.nan, np.float32)
                rows = np.array([i for i, _ in known])
                with np.errstate(over="ignore"):
                    tables[measure][rows[:, None], :, np.array(places)] = values.swapaxes(1, 2)
        for i in range(len(waiting)):
            self._rows.append({name: table[i] for name, table in tables.items()})

    def arrays(self, network: int = 0) -> dict[str, Any]:
        """Return the arrays of one network's ``probe.npz``.

        Args:
            network: number of the network, if the readings are of several.

        Returns:
            ``columns`` (names), ``timesteps``, ``format``, ``stride`` (observed phases from a row to the
            next), ``decay`` (factor of a phase on the code mass, if it is known), and one array
            ``(rows, columns)`` in float32 for each measure, NaN where nothing was measured. ``code``
            and ``residual`` are there without a row too.
        """
        self._compute()
        measures = dict.fromkeys([*SEEN, *(name for row in self._rows for name in row)])
        found: dict[str, Any] = {
            "format": np.array(FORMAT),
            "columns": np.array(self.columns, dtype=str),
            "timesteps": np.array(self.timesteps, dtype=np.int64),
            "stride": np.array(self._stride),
        }
        if self._decay is not None:
            found["decay"] = np.array(self._decay)
        for name in measures:
            table = np.full((len(self), len(self.columns)), np.nan, np.float32)
            for i, row in enumerate(self._rows):
                if name in row:
                    values = row[name]
                    table[i, : values.shape[1]] = values[min(network, len(values) - 1)]
            found[name] = table
        return found

    def state(self, network: int = 0) -> dict[str, Any]:
        """Return what :meth:`restore` needs: the :meth:`arrays` of a network and the phases so far."""
        return {**self.arrays(network), "given": np.array(self._given)}

    def restore(self, *stored: Mapping[str, Any]) -> None:
        """Continue from the :meth:`state` of every network."""
        first = stored[0]
        self._waiting, self._named = [], []
        self.columns = [str(name) for name in first["columns"]]
        self.timesteps = [int(t) for t in first["timesteps"]]
        self._stride, self._given = int(first["stride"]), int(first["given"])
        self._decay = float(first["decay"]) if "decay" in first else None
        measures = [name for name in first if np.ndim(first[name]) == 2]
        self._rows = [
            {name: np.stack([each[name][i] for each in stored]) for name in measures}
            for i in range(len(self.timesteps))
        ]


@dataclass
class ProbeRecord:
    """Record of one training.

    Attributes:
        columns: names of the columns, such as ``"q_net.0"`` or ``"lstm_actor@3"``.
        timesteps: ``(rows,)``, rising.
        values: ``(rows, columns)`` by measure; NaN where nothing was measured.
        decay: factor of a phase on the code mass; 1 if the record does not say.
        stride: observed phases from a row to the next; 1 if the record does not say.
    """

    columns: list[str]
    timesteps: np.ndarray
    values: dict[str, np.ndarray]
    decay: float = 1.0
    stride: int = 1


def checked_record(arrays: Mapping[str, np.ndarray]) -> ProbeRecord:
    """Return the record of arrays from a file.

    Raises:
        ValueError: they are not those of :meth:`ProbeLog.arrays`.
    """
    # older records without rows have no measures
    empty = "timesteps" in arrays and np.size(arrays["timesteps"]) == 0
    for name in ("format", "columns", "timesteps", *(() if empty else SEEN)):
        if name not in arrays:
            raise ValueError(f"it has no array {name!r}")
    if int(arrays["format"]) != FORMAT:
        raise ValueError(f"its format is {int(arrays['format'])}, expected {FORMAT}")
    names, steps = arrays["columns"], np.asarray(arrays["timesteps"])
    if names.ndim != 1 or names.dtype.kind not in "U" or len(set(names.tolist())) < len(names):
        raise ValueError("its columns are not different names")
    if steps.ndim != 1 or steps.dtype.kind not in "iuf":
        raise ValueError(
            f"its timesteps are {steps.dtype} {steps.shape}, expected a row of numbers"
        )
    steps = steps.astype(float)
    if not np.isfinite(steps).all() or (np.diff(steps, prepend=-1) <= 0).any() or (steps < 0).any():
        raise ValueError("its timesteps do not rise from 0 or above")
    decay = np.asarray(arrays.get("decay", 1.0))
    if decay.shape != () or decay.dtype.kind != "f" or not 0 < decay <= 1:
        raise ValueError(f"its decay is {decay}, expected a factor above 0 and at most 1")
    stride = np.asarray(arrays.get("stride", 1))
    if stride.shape != () or stride.dtype.kind not in "iu" or stride < 1:
        raise ValueError(f"its stride is {stride}, expected a whole number of at least 1")
    values = {}
    for name, table in arrays.items():
        if name in ("format", "columns", "timesteps", "decay", "stride", "given"):
            continue
        if table.shape != (len(steps), len(names)):
            raise ValueError(f"{name} has shape {table.shape}, expected {(len(steps), len(names))}")
        if table.dtype.kind != "f":
            raise ValueError(f"{name} is of {table.dtype}, expected floating-point numbers")
        # an infinity is of a layer that diverged: no measure of it means anything
        values[name] = np.where(np.isfinite(table), table, np.nan).astype(float)
    printable = ["".join(c if c.isprintable() else "?" for c in str(name))[:120] for name in names]
    return ProbeRecord(printable, steps, values, float(decay), int(stride))
