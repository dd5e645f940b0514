"""Readings of a probe, whose numbers are computed when they are asked for."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from rn_rl.probe.phases import Layout, Phase, measured
from rn_rl.probe.states import CodeStates


class Readings:
    """Measures of one phase.

    Args:
        names: columns, one for each site or time step of a site, such as ``"lstm@3"``.
        values: ``(networks, columns)`` by measure; NaN where there is nothing to measure. There is one
            network, except under ``torch.func.vmap``.
    """

    def __init__(self, names: Sequence[str], values: dict[str, np.ndarray]) -> None:
        self.names = list(names)
        self.decay: float | None = None
        """Factor of a phase on counts and code mass, of a probe's readings."""
        self._values = values
        self._later: tuple[Phase, CodeStates, Layout] | None = None

    @classmethod
    def of_phase(
        cls, phase: Phase, states: CodeStates, layout: Layout, more: dict[str, np.ndarray]
    ) -> Readings:
        """Return the readings of a phase, which are computed later.

        Args:
            phase: the phase.
            states: the states that were committed.
            layout: columns.
            more: measures that are known already.
        """
        found = cls(layout.names, more)
        found._later, found.decay = (phase, states, layout), states.decay
        return found

    @property
    def values(self) -> dict[str, np.ndarray]:
        """``(networks, columns)`` by measure."""
        if self._later is not None:
            compute([self])
        return self._values

    def add(self, measure: str, values: np.ndarray) -> None:
        """Add a measure ``(networks, columns)``."""
        self._values = {**self._values, measure: values}

    def __getstate__(self) -> dict[str, Any]:
        state = {"names": self.names, "decay": self.decay}
        return {**state, "_values": self.values, "_later": None}


def compute(readings: Iterable[Readings]) -> None:
    """Compute the numbers of many readings, those of the same columns together."""
    groups: dict[tuple[int, int], list[Readings]] = {}
    for each in readings:
        if each._later is not None:
            _, states, layout = each._later
            groups.setdefault((id(states), id(layout)), []).append(each)
    for group in groups.values():
        found: list[tuple[Phase, CodeStates, Layout]] = [
            each._later for each in group if each._later
        ]
        _, states, layout = found[0]
        states.flush()
        phases = [phase for phase, _, _ in found]
        tables = measured(phases, layout, states.measures, states.decay)
        for i, each in enumerate(group):
            own = {name: table[i] for name, table in tables.items()}
            each._values = {**own, **each._values}
            each._later = None
