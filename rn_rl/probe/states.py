"""Statistics of all sites side by side: observed one by one, committed in one call.

Rows of small layers are only copied where they are observed. Their sums are computed later, for several
phases in a row: between the operations of a training the same code takes twice as long, since nothing of
it is in the processor's caches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rn_rl.normalization import _numpy, dispatch, functional
from rn_rl.normalization.functional import MEAN, VAR
from rn_rl.probe.measures import effective_rank, rank_of
from rn_rl.probe.phases import Extras, Layout, Phase

MOST_ROWS = 1024
"""Rows of one layer's output that update the statistics; images have one for each position."""

MOST_NUMPY = 8192
"""Elements up to which NumPy observes rows; from 10,000 on it starts threads, which cost more."""

MOST_QUEUED_PHASES = 16
"""Phases whose rows are kept until their sums are computed."""

MOST_QUEUED_BYTES = 4_000_000
"""Size of the rows that are kept."""

LEAST_VARIANCE = 1e-5
"""Variance that is taken for a history without spread, as normalizers do."""

ROUNDING = 1e-6
"""Share of the mean below which a standard deviation is rounding, in float32."""

SMALLEST_VARIANCE = 1e-30
"""Variance below which float32 has few digits left, whatever the mean."""

NEAR = 1e15
"""Sum of squares below which no product of a Gram matrix can overflow."""


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


class CodeStates:
    """Code-length states of every site of a network, in one tensor.

    Args:
        decay: factor of a phase on counts and code mass.
        measures: names of :data:`rn_rl.probe.core.MEASURES` that decide what is summed.

    Attributes:
        slots: columns of each site, by name.
    """

    def __init__(self, decay: float, measures: frozenset[str]) -> None:
        self.decay, self.measures = decay, measures
        self.slots: dict[str, Slot] = {}
        self.version = 0
        """Number that changes with the columns."""
        self._extras = Extras()
        self._queue: list[tuple[str | tuple[str, ...] | None, Any, Any]] = []
        self._bytes = self._phases = 0
        self._set(functional.initial_state(0))

    def _set(self, state: Tensor, pending: Tensor | None = None) -> None:
        """Set the state and the sums, 0 by default, and the arrays that share their memory."""
        self._state = state
        self._pending = torch.zeros_like(state[:4]) if pending is None else pending
        on_cpu = state.device.type == "cpu"
        self._arrays = (self._pending.numpy(), state.numpy()) if on_cpu else None

    @property
    def state(self) -> Tensor:
        """``(6, columns)``, see :mod:`rn_rl.normalization.functional`."""
        self.flush()
        return self._state

    @property
    def pending(self) -> Tensor:
        """``(4, columns)``, sums of the current phase."""
        self.flush()
        return self._pending

    def slot(self, name: str, x: Tensor, steps: int) -> Slot:
        """Return the columns of a site, which its first observation makes.

        Args:
            name: name of the site.
            x: ``(networks, any, rows, features)``.
            steps: number of time steps that get columns.
        """
        found = self.slots.get(name)
        if found is None:
            state, device = self._state, x.device
            if not self.slots and device.type != "cpu":
                state = state.to(device)
                state = state.float() if device.type == "mps" else state
            groups = x.shape[0] * steps
            found = Slot(state.shape[1], x.shape[0], steps, x.shape[3])
            if "neurons" in self.measures:
                found.neurons = found.first + groups
                groups += groups * x.shape[3]
            new = functional.initial_state(groups).to(state)
            pending = torch.cat((self._pending.to(state), torch.zeros_like(new[:4])), 1)
            self._set(torch.cat((state, new), 1), pending)
            self.slots[name] = found
            self.version += 1
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
        self.flush()
        x = functional.wide(x)
        stride = max(1, -(-x.shape[2] // MOST_ROWS))
        x = x[:, :, ::stride].to(self._state.device)
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
        seen = min(max(slot.seen, first_step + x.shape[1]), steps)
        if seen != slot.seen:
            slot.seen = seen
            self.version += 1

    def put_rows(self, name: str, x: Tensor) -> np.ndarray | None:
        """Copy the output of a layer of one network, to :meth:`observe` it later.

        Args:
            name: name of the site.
            x: ``(rows, features)``, without gradient.

        Returns:
            The copy; None if these are not rows that NumPy is faster for, or the first of the site.
        """
        slot = self.slots.get(name)
        if slot is None or self._arrays is None or not 0 < x.numel() <= MOST_NUMPY:
            return None
        if (slot.stack, slot.steps, slot.features, slot.neurons) != (1, 1, x.shape[1], None):
            return None
        if not x.is_cpu or x.dtype not in functional.WIDE:
            return None
        rows = x.numpy().copy()
        self._bytes += rows.nbytes
        self._queue.append((name, rows, None))
        return rows

    def put_again(self, name: str, rows: np.ndarray) -> bool:
        """Observe the rows of the last :meth:`put_rows` at another site too, later.

        So the input of a normalizer costs next to nothing where it is the output of the layer before.

        Returns:
            False if the site has not been observed, or has another size.
        """
        slot = self.slots.get(name)
        if slot is None or (slot.stack, slot.steps, slot.features) != (1, 1, rows.shape[1]):
            return False
        self._queue.append((name, rows, None))
        return True

    def put_units(self, names: list[str], x: Tensor, positive: bool) -> bool:
        """Copy activations, for :meth:`observe_units` of some sites later.

        Args:
            names: names of the sites.
            x: ``(rows, features)``, without gradient.
            positive: see :meth:`observe_units`.

        Returns:
            False if these are not rows that NumPy is faster for.
        """
        if self._arrays is None or not 0 < x.numel() <= MOST_NUMPY or not x.is_cpu:
            return False
        if x.dtype not in functional.WIDE:
            return False
        rows = x.numpy().copy()
        self._bytes += rows.nbytes
        self._queue.append((tuple(names), rows, positive))
        return True

    def flush(self) -> None:
        """Compute the sums of all rows that were put, and the commits of the phases that ended."""
        if not self._queue:
            return
        queue, self._queue = self._queue, []
        self._bytes = self._phases = 0
        last: np.ndarray | None = None
        of, sums = "", np.empty(0)
        # a tensor made in inference mode could not be updated outside it
        with torch.inference_mode(False), torch.no_grad(), np.errstate(all="ignore"):
            for name, rows, more in queue:
                if name is None:
                    self._commit(rows)
                elif isinstance(name, tuple):
                    for each in name:
                        self._units(each, rows[None, None], 0, bool(more))
                elif rows is last and self._same_history(name, of):
                    self._arrays_of(name)[0][...] += sums
                    if of in self._extras.rank:
                        self._extras.rank.setdefault(name, self._extras.rank[of])
                else:
                    last, of, sums = rows, name, self._rows(name, rows)

    def _arrays_of(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Pending sums ``(4, 1)`` and state ``(6, 1)`` of a site with one code, as views."""
        assert self._arrays is not None
        first = self.slots[name].first
        return self._arrays[0][:, first : first + 1], self._arrays[1][:, first : first + 1]

    def _same_history(self, name: str, of: str) -> bool:
        """Return True if two sites observe equal rows alike: mean and variance are the same."""
        one, other = self._arrays_of(name)[1], self._arrays_of(of)[1]
        return all(one.item(row) == other.item(row) for row in (MEAN, VAR))

    def _rows(self, name: str, rows: np.ndarray) -> np.ndarray:
        """Add rows ``(rows, features)`` to the sums of a site with one code; return what was added."""
        pending, state = self._arrays_of(name)
        sums: np.ndarray = _numpy.observe(rows, state)
        pending += sums
        if "rank" in self.measures and name not in self._extras.rank:
            near = 0 < sums.item(functional.SUM_SQUARES) < NEAR
            found = (
                rank_of(rows) if near else effective_rank(torch.from_numpy(rows)[None, None]).item()
            )
            self._extras.rank[name] = np.array([[found]])
        return sums

    def observe_units(
        self, name: str, x: Tensor, first_step: int = 0, steps: int = 1, positive: bool = False
    ) -> None:
        """Note which units of a layer are above 0, and how large they are.

        Args:
            name: name of the site, which has been observed.
            x: activations, ``(networks, time steps, rows, features)``, without gradient.
            first_step: see :meth:`observe`.
            steps: see :meth:`observe`.
            positive: the activations are at least 0, by the function that they are of.
        """
        if x.numel():
            self.flush()
            x = functional.wide(x)
            x = x[:, :, :: max(1, -(-x.shape[2] // MOST_ROWS))]
            arrays = dispatch.as_arrays(x) if self._arrays is not None else None
            given: Any = x.to(self._state.device) if arrays is None else arrays[0]
            with np.errstate(all="ignore"):
                self._units(name, given, first_step, positive)

    def _units(self, name: str, x: Any, first_step: int, positive: bool) -> None:
        """Add activations, an array or a tensor, to what is known of a site's units."""
        slot = self.slots.get(name)
        if slot is None or (slot.stack, slot.features) != (x.shape[0], x.shape[3]):
            return
        total = (x if positive else abs(x)).sum(2)
        alive = total > 0 if positive else (x > 0).any(2)
        size = total / x.shape[2]
        # a batch with a NaN or an infinity is left out, as it is of the code
        known = total.sum(-1) < math.inf
        if isinstance(x, Tensor) or not known.all():
            alive = alive & known[..., None]
            size = functional.array_module(x).where(known[..., None], size, 0.0)
        extras = self._extras
        for sums, values in ((extras.alive, alive), (extras.size, size), (extras.counted, known)):
            if slot.steps == x.shape[1] == 1 and name not in sums:
                sums[name] = values
                continue
            kept = self._zeros(sums, name, slot, values)
            for t in range(x.shape[1]):
                kept[:, min(first_step + t, slot.steps - 1)] += values[:, t]

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
        if "rank" in self.measures:
            ranks = self._extras.rank.get(name)
            if ranks is None:
                ranks = np.full((slot.stack, slot.steps), math.nan)
                if self._arrays is None:
                    ranks = torch.from_numpy(ranks).to(x)
                self._extras.rank[name] = ranks
                missing = True
            else:
                missing = slot.steps > 1 and math.isnan(ranks[0, step])
            if missing:
                found: Any = effective_rank(x)
                ranks[:, step : step + count] = found if self._arrays is None else found.numpy()

    def _zeros(self, kept: dict[str, Any], name: str, slot: Slot, like: Any) -> Any:
        found = kept.get(name)
        if found is None:
            shape = (slot.stack, slot.steps, *like.shape[2:])
            if isinstance(like, Tensor):
                found = torch.zeros(shape, dtype=like.dtype, device=like.device)
            else:
                found = np.zeros(shape, like.dtype)
            kept[name] = found
        return found

    def _accumulate(self, columns: slice, x: Tensor) -> None:
        with np.errstate(all="ignore"):  # far from a history of little spread
            dispatch.accumulate(self._pending[:, columns], x, self._state[:, columns])

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
        self.version += 1
        self._queue.clear()
        self._extras = Extras()
        self._set(torch.from_numpy(whole).to(self._state.device))

    def layout(self, sites: Sequence[str], columns: Sequence[Sequence[str]]) -> Layout:
        """Return where the columns of some sites are.

        Args:
            sites: their names, in the order of the columns.
            columns: names of the columns of each.
        """
        slots = [self.slots[name] for name in sites]
        networks = max((slot.stack for slot in slots), default=1)
        parts, at, neurons, width = [np.empty((networks, 0), int)], {}, {}, 0
        for name, slot in zip(sites, slots, strict=True):
            own = slot.first + np.arange(slot.groups).reshape(slot.stack, -1)[:, : slot.seen]
            parts.append(np.broadcast_to(own, (networks, slot.seen)))
            at[name] = slice(width, width + slot.seen)
            width += slot.seen
            if slot.neurons is not None:
                each = slot.neurons + np.arange(slot.groups * slot.features)
                neurons[name] = each.reshape(slot.stack, slot.steps, slot.features)
        names = tuple(name for each in columns for name in each)
        return Layout(tuple(sites), names, np.concatenate(parts, 1), at, neurons)

    def commit(self) -> Phase:
        """End the phase: one commit of all sites, whose sums begin anew.

        Returns:
            The phase, which is known after :meth:`flush`.
        """
        phase = Phase()
        self._queue.append((None, phase, None))
        self._phases += 1
        if self._phases >= MOST_QUEUED_PHASES or self._bytes > MOST_QUEUED_BYTES:
            self.flush()
        return phase

    def _commit(self, phase: Phase) -> None:
        phase.extras, self._extras = self._extras, Extras()
        if self._arrays is None:
            phase.before, phase.pending = self._state, self._pending
            self._set(committed(self._state, self._pending, self.decay))
            phase.after = self._state
            return
        pending, before = phase.pending, phase.before = self._arrays
        # columns with nothing pending divide by 0 here and keep their state
        after = phase.after = committed(before, pending, self.decay)
        self._arrays = np.zeros_like(pending), after
        self._pending, self._state = map(torch.from_numpy, self._arrays)


def committed(state: Any, pending: Any, decay: float) -> Any:
    """:func:`rn_rl.normalization.functional.commit`, in which small activations keep their scale.

    Normalizers keep the variance above 1e-5, which would be most of that of a layer with a standard
    deviation below 0.003. Here only a spread that is rounding, at most a millionth of the mean, counts
    as no spread; then the variance is at least 1e-5 too.
    """
    found = functional.commit(state, pending, decay, 0.0)
    variance = found[VAR]
    if isinstance(found, np.ndarray) and variance.min(initial=1.0) >= LEAST_VARIANCE:
        return found
    is_rounding = variance <= (ROUNDING * found[MEAN]) ** 2 + SMALLEST_VARIANCE
    where = functional.array_module(found).where
    found[VAR] = where(is_rounding, variance.clip(LEAST_VARIANCE), variance)
    return found
