"""Statistics of all sites side by side: observed one by one, committed in one call."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rn_rl.normalization import dispatch, functional
from rn_rl.probe.measures import baseline, dead_share, dormant_share, effective_rank

MOST_ROWS = 1024
"""Rows of one layer's output that update the statistics; images have one for each position."""


@dataclass
class Slot:
    """Columns of one site in the stacked state, ordered by network, time step and neuron."""

    first: int
    stack: int
    """Number of networks under ``vmap``; 1 outside it."""
    steps: int
    """Number of time steps that have columns."""
    features: int
    neurons: int | None = None
    """First column of the codes of neurons; None if they are not measured."""
    seen: int = 1
    """Number of time steps that have occurred."""

    @property
    def groups(self) -> int:
        """Number of codes of the layer: one for each network and time step."""
        return self.stack * self.steps


@dataclass
class Extras:
    """Sums of one phase that the code does not need, by site."""

    alive: dict[str, Tensor] = field(default_factory=dict)
    """True for units that were above 0, ``(networks, steps, features)``."""
    size: dict[str, Tensor] = field(default_factory=dict)
    """Mean absolute activity of units, summed over forwards, of the same shape."""
    rank: dict[str, Tensor] = field(default_factory=dict)
    """Participation ratio of the first batch of the phase, ``(networks, steps)``."""


class CodeStates:
    """Code-length states of every site of a network, in one tensor.

    Args:
        decay: factor of a phase on counts and code mass.
        measures: names of :data:`rn_rl.probe.core.MEASURES` that decide what is summed.

    Attributes:
        state: ``(6, columns)``, see :mod:`rn_rl.normalization.functional`.
        pending: ``(4, columns)``, sums of the current phase.
        slots: columns of each site, by name.
    """

    def __init__(self, decay: float, measures: frozenset[str]) -> None:
        self.decay, self.measures = decay, measures
        self.slots: dict[str, Slot] = {}
        self.state = functional.initial_state(0)
        self.pending = torch.zeros(4, 0, dtype=self.state.dtype)
        self.extras = Extras()

    def slot(self, name: str, x: Tensor, steps: int) -> Slot:
        """Return the columns of a site, which its first observation makes.

        Args:
            name: name of the site.
            x: ``(networks, any, rows, features)``.
            steps: number of time steps that get columns.
        """
        found = self.slots.get(name)
        if found is None:
            device = x.device
            if not self.slots and device.type != "cpu":
                self.state, self.pending = self.state.to(device), self.pending.to(device)
                if device.type == "mps":
                    self.state, self.pending = self.state.float(), self.pending.float()
            groups = x.shape[0] * steps
            found = Slot(self.state.shape[1], x.shape[0], steps, x.shape[3])
            if "neurons" in self.measures:
                found.neurons = found.first + groups
                groups += groups * x.shape[3]
            new = functional.initial_state(groups).to(self.state)
            self.state = torch.cat((self.state, new), 1)
            self.pending = torch.cat((self.pending, torch.zeros_like(new[:4])), 1)
            self.slots[name] = found
        return found

    @torch.no_grad()
    def observe(self, name: str, x: Tensor, first_step: int = 0, steps: int = 1) -> None:
        """Add an output to the sums of the phase.

        Args:
            name: name of the site.
            x: ``(networks, time steps, rows, features)``, without gradient.
            first_step: time step of the first on axis 1.
            steps: number of time steps that get columns; later ones share the last column.
        """
        if not x.numel():
            return
        x = functional.wide(x)
        stride = max(1, -(-x.shape[2] // MOST_ROWS))
        x = x[:, :, ::stride].to(self.state.device)
        slot = self.slot(name, x, steps)
        if (slot.stack, slot.features) != (x.shape[0], x.shape[3]):
            return  # a layer that is called with another size elsewhere has no common statistics
        count = x.shape[1]
        together = count in (1, steps) or slot.stack == 1
        if first_step + count > steps or not together:
            for t in range(x.shape[1]):
                self._add(name, slot, x[:, t : t + 1], min(first_step + t, steps - 1))
        else:
            self._add(name, slot, x, first_step)
        slot.seen = min(max(slot.seen, first_step + x.shape[1]), steps)

    def _add(self, name: str, slot: Slot, x: Tensor, step: int) -> None:
        """Add time steps from ``step`` on; several only where they are all that the site has."""
        networks, count, rows, features = x.shape
        # columns that follow each other: those of one network, or all of them
        joined = networks == 1 or count == slot.steps
        first = slot.first + step
        if joined:
            by_step = slice(first, first + networks * count)
        else:
            by_step = slice(first, slot.first + slot.groups, slot.steps)
        if networks * count == 1:
            self._accumulate(by_step, x.reshape(rows, features))
        else:
            self._accumulate(by_step, x.reshape(networks * count, -1).T)
        if slot.neurons is not None:
            columns = x.permute(2, 0, 1, 3).reshape(rows, -1)
            if joined:
                first = slot.neurons + step * features
                self._accumulate(slice(first, first + columns.shape[1]), columns)
            else:
                for s in range(networks):
                    first = slot.neurons + (s * slot.steps + step) * features
                    mine = columns[:, s * features : (s + 1) * features]
                    self._accumulate(slice(first, first + features), mine)
        where = slice(step, step + count)
        if "dead" in self.measures:
            alive = self._extra(self.extras.alive, name, slot, torch.bool)
            size = self._extra(self.extras.size, name, slot, x.dtype)
            arrays = dispatch.as_arrays(x, alive, size)
            if arrays is None:
                alive[:, where] |= x.amax(2) > 0
                size[:, where] += x.abs().mean(2)
            else:
                small, living, sizes = arrays
                living[:, where] |= small.max(2) > 0
                sizes[:, where] += np.abs(small).mean(2)
        if "rank" in self.measures:
            ranks = self.extras.rank.get(name)
            if ranks is None:
                ranks = torch.full((slot.stack, slot.steps), math.nan, device=x.device)
                self.extras.rank[name] = ranks
                missing = True
            else:
                missing = slot.steps > 1 and bool(torch.isnan(ranks[0, step]))
            if missing:
                ranks[:, where] = effective_rank(x).to(ranks.dtype)

    def _extra(self, kept: dict[str, Tensor], name: str, slot: Slot, dtype: torch.dtype) -> Tensor:
        found = kept.get(name)
        if found is None:
            shape = (slot.stack, slot.steps, slot.features)
            found = torch.zeros(shape, dtype=dtype, device=self.state.device)
            kept[name] = found
        return found

    def _accumulate(self, columns: slice, x: Tensor) -> None:
        dispatch.accumulate(self.pending[:, columns], x, self.state[:, columns])

    def state_of(self, network: int) -> tuple[np.ndarray, dict[str, list[Any]]]:
        """Return one network's part of the state between two phases, and the fields of its slots."""
        state = self.state.cpu().numpy()
        parts: list[np.ndarray] = []
        slots: dict[str, list[Any]] = {}
        width = 0
        for name, slot in self.slots.items():
            row = min(network, slot.stack - 1)
            codes = state[:, slot.first : slot.first + slot.groups]
            parts.append(codes.reshape(6, slot.stack, slot.steps)[:, row])
            first, width, neurons = width, width + slot.steps, None
            if slot.neurons is not None:
                size = slot.groups * slot.features
                each = state[:, slot.neurons : slot.neurons + size]
                parts.append(each.reshape(6, slot.stack, -1)[:, row])
                neurons, width = width, width + slot.steps * slot.features
            slots[name] = [first, 1, slot.steps, slot.features, neurons, slot.seen]
        return np.concatenate([np.empty((6, 0)), *parts], 1), slots

    def restore(self, states: list[np.ndarray], slots: dict[str, list[Any]]) -> None:
        """Continue from the :meth:`state_of` each network."""
        parts: list[np.ndarray] = []
        self.slots, width = {}, 0
        for name, fields in slots.items():
            old = Slot(*fields)
            new = Slot(width, len(states), old.steps, old.features, None, old.seen)
            codes = [state[:, old.first : old.first + old.steps] for state in states]
            parts += codes
            width += new.groups
            if old.neurons is not None:
                size = old.steps * old.features
                new.neurons = width
                parts += [state[:, old.neurons : old.neurons + size] for state in states]
                width += len(states) * size
            self.slots[name] = new
        whole = np.concatenate([np.empty((6, 0)), *parts], 1)
        self.state = torch.from_numpy(whole).to(self.state.device)
        self.pending = torch.zeros(4, width, dtype=self.state.dtype, device=self.state.device)

    @torch.no_grad()
    def commit(self) -> Phase:
        """End the phase: one commit of all sites, whose sums begin anew."""
        before, pending, extras = self.state, self.pending, self.extras
        self.state = dispatch.commit(before, pending, self.decay, 1e-5)
        self.pending, self.extras = torch.zeros_like(pending), Extras()
        return Phase(before, pending, self.state, extras)


@dataclass
class Phase:
    """States before and after a commit, and the sums between them."""

    before: Tensor
    pending: Tensor
    after: Tensor
    extras: Extras

    def measured(self, states: CodeStates, names: list[str]) -> dict[str, np.ndarray]:
        """Compute the measures of the phase.

        Args:
            states: the states that were committed.
            names: sites, in the order of the columns.

        Returns:
            ``(networks, columns)`` by name of the measure; NaN where there is nothing to measure.
        """
        before, pending, after = (t.cpu().numpy() for t in (self.before, self.pending, self.after))
        slots = [states.slots[name] for name in names]
        networks = max((slot.stack for slot in slots), default=1)

        def spread(rows: list[np.ndarray]) -> np.ndarray:
            whole = [np.broadcast_to(row, (networks, row.shape[1])) for row in rows]
            return np.concatenate(whole, 1) if whole else np.empty((networks, 0))

        def codes(values: np.ndarray) -> np.ndarray:
            return spread(
                [
                    values[slot.first : slot.first + slot.groups].reshape(slot.stack, -1)[
                        :, : slot.seen
                    ]
                    for slot in slots
                ]
            )

        with np.errstate(all="ignore"):
            elements = pending[functional.ELEMENTS]
            observed = elements > 0
            shift = pending[functional.SUM] / elements
            square = pending[functional.SUM_SQUARES] / elements
            variance = np.maximum(square - shift**2, 0)
            code = np.where(observed, after[functional.GAIN], np.nan)
            commits, of = np.unique(after[functional.PHASES], return_inverse=True)
            base = np.array([baseline(int(n), states.decay) for n in commits])[of]
            known = observed & (before[functional.PHASES] > 0)
            old = before[functional.VAR]
            found = {"code": code, "residual": code - base}
            if "moments" in states.measures:
                found["mean"] = before[functional.MEAN] + shift
                found["sd"] = np.sqrt(variance)
                found["shift"] = np.where(known, shift / np.sqrt(old), np.nan)
                found["ratio"] = np.where(known, variance / old, np.nan)
            result = {name: codes(values) for name, values in found.items()}
            if "neurons" in states.measures:
                result.update(self._neurons(slots, code, spread))
            if "dead" in states.measures:
                result["dead"] = spread(
                    [self._units(n, s, dead_share) for n, s in zip(names, slots, strict=True)]
                )
                result["dormant"] = spread(
                    [self._units(n, s, dormant_share) for n, s in zip(names, slots, strict=True)]
                )
            if "rank" in states.measures:
                result["rank"] = spread(
                    [
                        self.extras.rank[n].cpu().numpy()[:, : s.seen]
                        if n in self.extras.rank
                        else np.full((s.stack, s.seen), np.nan)
                        for n, s in zip(names, slots, strict=True)
                    ]
                )
        return result

    def _neurons(self, slots: list[Slot], code: np.ndarray, spread: Any) -> dict[str, np.ndarray]:
        """Quantiles over the neurons of a layer of their own code lengths."""
        rows: list[np.ndarray] = []
        for slot in slots:
            assert slot.neurons is not None
            last = slot.neurons + slot.groups * slot.features
            each = code[slot.neurons : last].reshape(slot.stack, slot.steps, slot.features)
            rows.append(np.quantile(each[:, : slot.seen], (0.1, 0.5, 0.9), axis=2))
        named = zip(("neuron_low", "neuron_median", "neuron_high"), range(3), strict=True)
        return {name: spread([row[i] for row in rows]) for name, i in named}

    def _units(self, name: str, slot: Slot, share: Any) -> np.ndarray:
        if name not in self.extras.alive:
            return np.full((slot.stack, slot.seen), np.nan)
        alive, size = self.extras.alive[name], self.extras.size[name]
        found: np.ndarray = share(alive[:, : slot.seen].cpu().numpy(), size[:, : slot.seen])
        return found
