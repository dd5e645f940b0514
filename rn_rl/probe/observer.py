"""Observe calls of layers: choose rows and time steps, and add them to the statistics of a probe."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rn_rl.errors import UserError
from rn_rl.probe import gates
from rn_rl.probe.sites import (
    POSITIVE,
    Site,
    features_last,
    first_tensor,
    packed_steps,
    physical,
    rows_of,
    steps_of,
)
from rn_rl.probe.states import CodeStates

MOST_SAMPLES = 64
"""Samples of a batch that are observed."""


@dataclass
class Produced:
    """Output of a layer, and of the normalizers that follow it, until it is used.

    Attributes:
        names: columns of the layer and of the normalizers after it.
        output: the output.
        module: the last of them whose class tells which axis the features are on.
        rows: copy of what was observed of the output.
    """

    names: list[str]
    output: Any
    module: nn.Module
    rows: np.ndarray | None


class Observer:
    """Put the outputs of layers into the statistics of their columns.

    Time steps are counted from 0 at each :meth:`restart`, and at each call of a recurrent layer with
    several steps unless :attr:`one_pass`; calls of a layer at each :meth:`end_phase`.

    Args:
        states: statistics of all columns.
        batches: number of forwards of a layer in a phase that are observed; None for all.
        max_steps: number of time steps that get a column; later ones share the last.
        recompute_gates: gates of each LSTM are observed too, once a phase.

    Attributes:
        order: names of the sites seen so far.
        mask: ``(batch, steps)``, true for steps that are not padding; None if all are real.
        one_pass: all calls of a recurrent layer until the next :meth:`restart` are of one pass, whose
            steps are counted on.
        time_first: outputs of as many steps as sequences have time on axis 0.
    """

    def __init__(
        self, states: CodeStates, batches: int | None, max_steps: int, recompute_gates: bool
    ) -> None:
        self.states, self.batches, self.max_steps = states, batches, max_steps
        self.recompute_gates = recompute_gates
        self.order: list[str] = []
        self.mask: Tensor | None = None
        self.one_pass = self.time_first = False
        self._counts_units = "dead" in states.measures
        self._calls: dict[str, int] = {}
        self._counts: dict[str, int] = {}
        self._produced: Produced | None = None
        self._gated: set[str] = set()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "mask": None, "_produced": None}

    def restart(self) -> None:
        """Count time steps from 0 again, at the start of a forward."""
        self._calls.clear()
        self._produced = None

    def end_phase(self) -> None:
        """Count calls from 0 again."""
        self.restart()
        self._counts.clear()
        self._gated.clear()

    def see(
        self, site: Site, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any
    ) -> None:
        """Observe a call of a layer."""
        transformed = torch._C._functorch.peek_interpreter_stack() is not None
        if transformed or torch.is_inference_mode_enabled():
            with outside_transforms():
                self._look(site, inputs, keywords, output)
        else:
            self._look(site, inputs, keywords, output)

    def _is_counted(self, site: Site, first: int) -> bool:
        """Return True for the first forwards of a layer in a phase, if not all of them are observed.

        They are counted by layer: of an actor and a critic, one may be evaluated more often. A later
        time step is part of the same forward.
        """
        if self.batches is None:
            return True
        if first == 0:
            self._counts[site.name] = self._counts.get(site.name, 0) + 1
        return self._counts[site.name] <= self.batches

    def _look(
        self, site: Site, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any
    ) -> None:
        """Observe a call of a layer that is observed in this phase."""
        before, self._produced = self._produced, None
        source = inputs[0] if inputs else next(iter(keywords.values()), None)
        # a part with weights of its own may return what the last of its children computed
        passed = before if before is not None and before.output is output is not source else None
        if before is not None and before.output is not source:
            before = None
        if not site.has_columns:
            if before is not None:
                self._see_units(before, site.module, output)
        elif site.is_sequence:
            self._see_sequence(site, inputs, keywords, output)
        elif site.is_cell:
            self._see_cell(site, output)
        elif self._is_counted(site, 0):
            names = [site.output_name] if passed is None else [*passed.names, site.output_name]
            if site.is_normalizer:
                rows = None if before is None else before.rows
                if rows is None or not self.states.put_again(site.input_name, rows):
                    self._see_rows(site.input_name, site.module, source)
                if before is not None:
                    names = [*before.names, *names]
            # an activation function keeps the axes of the layer before it
            layout = before.module if before is not None and site.is_activation else site.module
            rows = self._see_rows(site.output_name, layout, output)
            # a layer is followed by normalizers, and they by its activation function
            self._produced = Produced(names, output, layout, rows)
            if site.is_activation and self._counts_units:
                for each in (self._produced, before):
                    if each is not None:
                        self._see_units(each, site.module, output)

    def _see_units(self, produced: Produced, function: nn.Module, output: Any) -> None:
        """Note the dead and dormant units of layers whose activation function was called."""
        rows = self._rows(produced.module, output)
        if rows is None:
            return
        positive = isinstance(function, POSITIVE)
        if rows.dim() == 2 and self.states.put_units(produced.names, rows, positive):
            return
        x = rows if rows.dim() == 4 else rows[None, None]
        for name in produced.names:
            self.states.observe_units(name, x, positive=positive)

    def _see_rows(self, name: str, module: nn.Module, output: Any) -> np.ndarray | None:
        """Observe an output, and return the rows that were copied for that, if any were."""
        rows = self._rows(module, output)
        if rows is None:
            return None
        if rows.dim() == 2:
            copied = self.states.put_rows(name, rows)
            if copied is not None:
                return copied
            rows = rows[None, None]
        self._put(name, rows)
        return None

    def _rows(self, module: nn.Module, output: Any) -> Tensor | None:
        """Return what is observed of an output: ``(rows, features)``, or as :func:`rows_of` does."""
        found = first_tensor(output)
        if found is None:
            return None
        x, stack = physical(found)
        if self.mask is not None and not stack:
            if x.shape[0] == self.mask.numel():
                x = x[self.mask.reshape(-1).to(x.device)]
            elif x.dim() > 2:
                real = self._without_padding(x, module)
                if real is not None:
                    return real
        # subsampling before any copy; images are reduced further when they are observed
        axis = 1 if stack else 0
        if x.dim() > axis + 1 and x.shape[axis] > MOST_SAMPLES:
            step = -(-x.shape[axis] // MOST_SAMPLES)
            x = x[:, ::step] if stack else x[::step]
        return x if x.dim() == 2 and not stack else rows_of(x, module, stack)

    def _without_padding(self, x: Tensor, module: nn.Module) -> Tensor | None:
        """Rows of an output ``(batch, steps, ...)`` or ``(steps, batch, ...)``; None for other shapes."""
        assert self.mask is not None
        x = features_last(x[None], module)[0]
        mask = self.mask.to(x.device)
        for real in (mask.T, mask) if self.time_first else (mask, mask.T):
            if x.shape[:2] == real.shape:
                return x[real].reshape(-1, x.shape[-1])
        return None

    def _see_cell(self, site: Site, output: Any) -> None:
        t = self._calls.get(site.name, 0)
        if not self._is_counted(site, t):
            return
        self._calls[site.name] = t + 1
        parts = {site.name: output}
        if isinstance(output, tuple):
            parts = {site.name: output[0], f"{site.name}.c": output[1]}
        for name, part in parts.items():
            x, stack = physical(part)
            if x.numel():
                x = rows_of(x, site.module, stack)
                self.see_steps(name, x, t, units=name == site.name)

    def _see_sequence(
        self, site: Site, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any
    ) -> None:
        module: Any = site.module
        if isinstance(output[0], PackedSequence):
            steps = packed_steps(output[0])
            first = self._first_step(site, len(steps))
            if not self._is_counted(site, first):
                return
            self._calls[site.name] = first + len(steps)
            for t, rows in enumerate(steps):
                self.see_steps(site.name, rows[None, None], first + t, padded=False)
            return
        x, stack = physical(output[0])
        if not x.numel():
            return
        x = steps_of(x, module, stack)
        first = self._first_step(site, x.shape[1])
        if not self._is_counted(site, first):
            return
        if self.mask is not None and not stack:
            self._check_mask(site, first, x.shape[1], x.shape[2])
        self._calls[site.name] = first + x.shape[1]
        self.see_steps(site.name, x, first)
        if self.recompute_gates and site.name not in self._gated and not stack:
            for part, values in gates.recomputed(module, inputs, keywords, output).items():
                self._gated.add(site.name)
                name = f"{site.name}.{part}"
                self.see_steps(name, values[None], first, units=part != "c")

    def _first_step(self, site: Site, steps: int) -> int:
        """Number of the first time step of a call of a recurrent layer.

        A call with one step continues the calls before it. One with several begins anew, except within
        one pass, and there too where it would go beyond the mask.
        """
        first = self._calls.get(site.name, 0)
        if steps > 1 and not self.one_pass:
            return 0
        return 0 if self.mask is not None and first + steps > self.mask.shape[1] else first

    def _check_mask(self, site: Site, first: int, steps: int, sequences: int) -> None:
        """Raise :class:`UserError` for a mask that does not fit the sequences of a recurrent layer."""
        assert self.mask is not None
        shape = tuple(self.mask.shape)
        if shape[0] != sequences or shape[1] < first + steps:
            raise UserError(
                f"mask of shape {shape}: expected (batch, steps), and {site.name} was called with "
                f"{sequences} sequences of {first + steps} steps; give sequences(mask) a mask of shape "
                f"{(sequences, first + steps)}, or transpose it"
            )

    def see_steps(
        self, name: str, x: Tensor, first: int, *, units: bool = True, padded: bool = True
    ) -> None:
        """Observe ``(networks, steps, batch, features)``, without the steps that are padding.

        Outputs and gates of a recurrent layer are activations, so their units are counted; a cell state
        is none. Packed sequences are not padded.
        """
        mask = self.mask if padded else None

        def observe(part: Tensor, t: int) -> None:
            part = part[:, :, :: max(1, -(-part.shape[2] // MOST_SAMPLES))]
            self._put(name, part, t, self.max_steps)
            if units and self._counts_units:
                self.states.observe_units(name, part, t, self.max_steps)

        if mask is None or x.shape[0] != 1 or mask.shape[0] != x.shape[2]:
            observe(x, first)
            return
        for t in range(x.shape[1]):
            if first + t < mask.shape[1]:
                observe(x[:, t : t + 1][:, :, mask[:, first + t].to(x.device)], first + t)

    def _put(self, name: str, x: Tensor, first: int = 0, steps: int = 1) -> None:
        """Observe an output, and note the order of the sites: they get columns when they have rows."""
        new = name not in self.states.slots
        self.states.observe(name, x, first, steps)
        if new and name in self.states.slots:
            self.order.append(name)


@contextlib.contextmanager
def outside_transforms() -> Iterator[None]:
    """Leave inference mode and the transforms of ``torch.func`` inside this context.

    A tensor made in inference mode could not be updated outside it, and transforms refuse updates of
    tensors that they were not given.
    """
    with contextlib.ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
        if torch._C._functorch.peek_interpreter_stack() is not None:
            from torch._functorch.pyfunctorch import temporarily_clear_interpreter_stack

            stack.enter_context(temporarily_clear_interpreter_stack())
        yield
