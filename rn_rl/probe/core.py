"""Code lengths of the layers of any network, with or without normalizers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence

from rn_rl.errors import UserError, unknown
from rn_rl.normalization import PhaseNorm
from rn_rl.normalization.phase import decay_per_phase
from rn_rl.probe import gates
from rn_rl.probe.hooks import Hooks
from rn_rl.probe.network import Weights, churn_of, evaluated
from rn_rl.probe.sites import (
    Layers,
    Site,
    find_sites,
    first_tensor,
    is_fake,
    packed_steps,
    physical,
    rows_of,
    steps_of,
)
from rn_rl.probe.states import CodeStates, Phase

MEASURES = {
    "code": "code length in nats, and the residual: what it exceeds that of stationary data by",
    "moments": "mean, sd, shift of the mean in sd of the history, ratio of the variances",
    "dead": "share of units that are never above 0 in a phase, and of dormant units",
    "rank": "effective rank of the activity, as a participation ratio",
    "neurons": "10%, 50% and 90% quantiles of the code lengths of a layer's neurons",
    "step": "size of the weights' change since the last phase, relative to the weights",
}
"""Names of the measures of a probe; the gain of a normalizer is always recorded too."""

MODES = ("train", "eval")


@dataclass
class Readings:
    """Measures of one phase.

    Attributes:
        names: columns, one for each site or time step of a site, such as ``"lstm@3"``.
        values: ``(networks, columns)`` by measure; NaN where there is nothing to measure. There is one
            network, except under ``torch.func.vmap``.
    """

    names: list[str]
    values: dict[str, np.ndarray]


class CodeLengthProbe:
    """Measure what the layers of a network do while it learns; the network computes what it did before.

    Forward hooks observe outputs as ``rn`` does, and :meth:`commit` ends a phase. With S the mean
    density of the phase under the history of the layer and M the code mass, the code length is
    ``L = log M - log S`` in nats, see :func:`rn_rl.normalization.functional.commit`. On stationary
    activity it is ``log(t + e - 1)`` after t phases, whatever the layer computes; the *residual* is L
    minus that. For Gaussian activity it follows from two numbers, which are recorded beside it: the
    shift m of the mean in standard deviations of the history and the ratio v of the variances, by
    ``-log S ~ log(1 + v) / 2 + m^2 / (2 (1 + v))``. So it is a scalar summary of the drift of mean and
    scale, and is blind to changes that move neither, such as a swap of two labels.

    Observed are the outputs of layers with weights, inputs (``.in``) and outputs (``.out``) of
    normalizers, outputs of attention, and recurrent layers by time step (``lstm@0``, ``lstm@1``, ...):
    ``nn.LSTM``, ``GRU`` and ``RNN`` by the axis of time of their output sequence, cells by the order of
    their calls within one forward of the network (``cell@t``, and the cell state of ``nn.LSTMCell`` as
    ``cell.c@t``). At most 64 samples of a batch are observed.

    Effect on the network: none. Neither its outputs, its random numbers nor its modes change. Copies
    and pickles of it are not observed. Under ``torch.compile`` each observed layer is a graph break.
    Under ``torch.func.vmap`` all networks are observed at once, and measures get an axis of networks.

    Args:
        module: any network.
        half_life: number of phases after which an observation counts half; None never forgets.
        layers: names of layers to observe; ``"all"`` for every layer without children, activation
            functions included; or a function ``(name, module) -> bool`` that chooses among those.
        every: number of phases of which one is observed: the first, and each ``every``-th after it. The
            others cost next to nothing.
        batches: number of forwards of a phase that are observed, the first ones; None for all. 64 rows
            give the mean of a neuron to an eighth of its standard deviation.
        modes: modes of layers in which they are observed: ``"train"``, ``"eval"`` or both.
        measures: names of :data:`MEASURES`.
        max_steps: number of time steps that get a column; later ones share the last.
        recompute_gates: also measure the gates (``.i``, ``.f``, ``.g``, ``.o``) and the cell state
            (``.c``) of each ``nn.LSTM`` of one layer and direction. Hooks do not see them, so they are
            computed again from input and weights, for the first batch of each observed phase.
        reference: inputs on which the churn is measured at each observed commit: the change of each
            output on them since the last one, relative to its spread. A tensor, which the network is
            called with, or a function without arguments that calls it. The call is in evaluation mode,
            without gradient, and changes no state.
        prefix: text before the names of layers, such as ``"q_net_target."``.
        follow_copies: deep copies of the network are observed too, as if they were the network.

    Raises:
        UserError: an argument is out of range, names a layer or measure that does not exist, or the
            network has no layer to observe.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with CodeLengthProbe(net) as probe:
        ...     for _ in range(3):
        ...         _ = net(torch.randn(32, 4))
        ...         lengths = probe.commit()
        >>> sorted(lengths)
        ['0', '2']
    """

    def __init__(
        self,
        module: nn.Module,
        half_life: float | None = None,
        *,
        layers: Layers = None,
        every: int = 1,
        batches: int | None = None,
        modes: Sequence[str] = ("train",),
        measures: Iterable[str] = ("code", "moments", "dead", "rank"),
        max_steps: int = 32,
        recompute_gates: bool = False,
        reference: Tensor | Callable[[], Any] | None = None,
        prefix: str = "",
        follow_copies: bool = False,
    ) -> None:
        self.decay = decay_per_phase(half_life)
        self.measures = frozenset([measures] if isinstance(measures, str) else measures)
        for name in sorted(self.measures):
            if name not in MEASURES:
                raise unknown("measure", name, MEASURES)
        self.modes = frozenset([modes] if isinstance(modes, str) else modes)
        for mode in sorted(self.modes):
            if mode not in MODES:
                raise unknown("mode", mode, MODES)
        for label, value in (("every", every), ("batches", batches), ("max_steps", max_steps)):
            if value is not None and value < 1:
                raise UserError(f"{label}={value}: expected at least 1")
        self.every, self.batches, self.max_steps = every, batches, max_steps
        self.prefix, self.follow_copies = prefix, follow_copies
        self.recompute_gates = recompute_gates
        self.reference = reference
        self.phases = 0
        """Number of phases that have ended, observed or not."""
        self._states = CodeStates(self.decay, self.measures)
        self._order: list[str] = []
        self._last: Phase | None = None
        self._readings: Readings | None = None
        self.touched = False
        """True if a layer was called in an observed mode since the last phase ended."""
        self._calls: dict[str, int] = {}
        self._batch = 0
        self._first: str | None = None
        self._mask: Tensor | None = None
        self._outputs: dict[str, Tensor] | None = None
        self._churn: dict[str, float] = {}
        self._before: dict[str, Tensor] = {}
        self._weights: Weights | None = None
        self._gates_due = True
        self._paused = False
        self._attach(module, layers)

    # attaching and detaching

    def _attach(self, module: nn.Module, layers: Layers) -> None:
        self._module: nn.Module | None = module
        sites = find_sites(module, layers)
        self._sites = [replace(site, name=f"{self.prefix}{site.name}") for site in sites]
        if self.recompute_gates:
            gates.check([(site.name, site.module) for site in self._sites])
        if "step" in self.measures:
            self._weights = Weights([(site.name, site.module) for site in self._sites])
        self._hooks = Hooks(self._see, self._forward, self._sites, module, self.follow_copies)

    def close(self) -> None:
        """Remove the hooks from the network; what was measured stays."""
        self._hooks.remove()
        self._module, self._weights, self.reference = None, None, None

    def __enter__(self) -> CodeLengthProbe:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        """A copy has the measures and is detached, since its network would be another one."""
        state = dict(self.__dict__)
        state.update(_hooks=Hooks.none(), _module=None, _sites=[], _weights=None, reference=None)
        state.update(_outputs=None, _mask=None, _readings=self.readings() if self._last else None)
        return state

    # observing

    @property
    def observing(self) -> bool:
        """True in phases that are observed: the first, and each ``every``-th after it."""
        return self.phases % self.every == 0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Observe nothing inside this context."""
        before, self._paused = self._paused, True
        try:
            yield
        finally:
            self._paused = before

    def pause(self) -> None:
        """Observe nothing until :meth:`resumed`."""
        self._paused = True

    @contextlib.contextmanager
    def resumed(self) -> Iterator[None]:
        """Observe inside this context, after :meth:`pause`."""
        self._paused = False
        try:
            yield
        finally:
            self._paused = True

    @contextlib.contextmanager
    def sequences(self, mask: Tensor | None = None) -> Iterator[None]:
        """Observe one pass over sequences inside this context: time steps are counted from 0.

        Needed only where the network is used by another method than its call, or where sequences are
        padded.

        Args:
            mask: ``(batch, steps)``, true for steps that are not padding; None if all are real.
        """
        self.begin_sequences(mask)
        try:
            yield
        finally:
            self._mask = None

    def begin_sequences(self, mask: Tensor | None = None) -> None:
        """Do as :meth:`sequences`, for all that follows until the next call."""
        self._restart()
        self._mask = None if mask is None else mask.detach().to(torch.bool)

    def observe_steps(self, name: str, values: Tensor) -> None:
        """Observe values that no hook sees, by time step.

        Args:
            name: name of the column, without the step.
            values: ``(networks, steps, batch, features)``.
        """
        self._see_steps(name, values.detach(), 0)

    def _forward(self, network: nn.Module) -> None:
        """Note that a forward of the whole network begins."""
        if ("train" if network.training else "eval") in self.modes:
            self._restart()

    def _restart(self) -> None:
        """Count time steps from 0 again, at the start of a forward."""
        self._calls.clear()
        self._batch += 1
        self._first = ""

    def _is_counted(self, site: Site) -> bool:
        """Return True for the first forwards of a phase, if not all of them are observed.

        Where the network is not called itself, a forward begins with the layer that was first.
        """
        if self._first is None:
            self._first, self._batch = site.name, 0
        self._batch += self._first == site.name
        return self.batches is None or self._batch <= self.batches

    def _see(self, site: Site, inputs: tuple[Any, ...], output: Any) -> None:
        """Observe a call of a layer."""
        if self._outputs is not None:
            found = first_tensor(output)
            if found is not None:
                self._outputs.setdefault(site.name, physical(found)[0].clone())
            return
        if self._paused or ("train" if site.module.training else "eval") not in self.modes:
            return
        self.touched = True
        if not self.observing or torch.jit.is_tracing() or not self._is_counted(site):
            return
        with outside_transforms():
            if site.is_sequence:
                self._see_sequence(site, inputs, output)
            elif site.is_cell:
                self._see_cell(site, output)
            else:
                if site.is_normalizer:
                    self._see_rows(f"{site.name}.in", site.module, inputs)
                name = f"{site.name}.out" if site.is_normalizer else site.name
                self._see_rows(name, site.module, output)

    def _see_rows(self, name: str, module: nn.Module, output: Any) -> None:
        found = first_tensor(output)
        if found is None:
            return
        x, stack = physical(found)
        if is_fake(x):
            return
        if self._mask is not None and not stack and x.shape[0] == self._mask.numel():
            x = x[self._mask.reshape(-1).to(x.device)]
        # subsampling before any copy; images are reduced further when they are observed
        axis = 1 if stack else 0
        if x.dim() > axis + 1:
            step = max(1, -(-x.shape[axis] // 64))
            x = x[:, ::step] if stack else x[::step]
        self._states.observe(self._known(name), rows_of(x, module, stack))

    def _see_cell(self, site: Site, output: Any) -> None:
        t = self._calls.get(site.name, 0)
        self._calls[site.name] = t + 1
        parts = {site.name: output}
        if isinstance(output, tuple):
            parts = {site.name: output[0], f"{site.name}.c": output[1]}
        for name, part in parts.items():
            x, stack = physical(part)
            self._see_steps(name, rows_of(x, site.module, stack), t)

    def _see_sequence(self, site: Site, inputs: tuple[Any, ...], output: Any) -> None:
        module: Any = site.module
        first = self._calls.get(site.name, 0)
        if isinstance(output[0], PackedSequence):
            steps = packed_steps(output[0])
            self._calls[site.name] = first + len(steps)
            for t, rows in enumerate(steps):
                self._see_steps(site.name, rows[None, None], first + t)
            return
        x, stack = physical(output[0])
        x = steps_of(x, module, stack)
        self._calls[site.name] = first + x.shape[1]
        self._see_steps(site.name, x, first)
        if self.recompute_gates and self._gates_due and not stack:
            self._gates_due = False
            for part, values in gates.recomputed(module, inputs, output).items():
                self._see_steps(f"{site.name}.{part}", values[None], first)

    def _see_steps(self, name: str, x: Tensor, first: int) -> None:
        """Observe ``(networks, steps, batch, features)``, without the steps that are padding."""
        self._known(name)
        mask = self._mask
        if mask is None or x.shape[0] != 1 or mask.shape[0] != x.shape[2]:
            x = x[:, :, :: max(1, -(-x.shape[2] // 64))]
            self._states.observe(name, x, first, self.max_steps)
            return
        for t in range(x.shape[1]):
            if first + t < mask.shape[1]:
                real = x[:, t : t + 1][:, :, mask[:, first + t].to(x.device)]
                real = real[:, :, :: max(1, -(-real.shape[2] // 64))]
                self._states.observe(name, real, first + t, self.max_steps)

    def _known(self, name: str) -> str:
        if name not in self._states.slots:
            self._order.append(name)
        return name

    # phases

    def commit(self) -> dict[str, Any]:
        """End a phase, and return :meth:`code_lengths`."""
        self.end_phase()
        return self.code_lengths()

    def end_phase(self) -> bool:
        """End a phase, as :meth:`commit` does, without converting anything to numbers.

        Returns:
            True if the phase was observed, so that :meth:`readings` are new.
        """
        observed = self.observing
        if observed:
            if self._weights is not None:
                self._weights.measure()
            if self.reference is not None and self._module is not None:
                self._measure_churn()
            self._last, self._readings = self._states.commit(), None
        self.phases += 1
        self._gates_due, self.touched = True, False
        self._calls.clear()
        self._batch, self._first = 0, None
        return observed

    def _measure_churn(self) -> None:
        """Evaluate the network on the reference and compare its outputs with those of before."""
        assert self._module is not None
        self._outputs = {}
        try:
            with evaluated(self._module):
                call = self.reference
                _ = self._module(call) if isinstance(call, Tensor) else call() if call else None
            now = self._outputs
        finally:
            self._outputs = None
        self._churn = {
            name: churn_of(self._before[name], value)
            for name, value in now.items()
            if name in self._before
        }
        self._before = now

    def code_lengths(self) -> dict[str, Any]:
        """Code length in nats of the last observed phase, by name of the column.

        It is 1 for the first two phases of a layer, and before the first. Under ``torch.func.vmap`` a
        value is an array ``(networks,)``.
        """
        state = self._states.state[-1].cpu().numpy()
        found: dict[str, Any] = {}
        for name in self._in_order():
            slot = self._states.slots[name]
            codes = state[slot.first : slot.first + slot.groups].reshape(slot.stack, slot.steps)
            for t, column in enumerate(self._columns(name)):
                found[column] = codes[:, t].copy() if slot.stack > 1 else float(codes[0, t])
        return found or {name: 1.0 for name in self._static_names()}

    def readings(self) -> Readings:
        """Return all measures of the last observed phase; a reading without columns before the first."""
        if self._readings is None:
            if self._last is None:
                return Readings([], {})
            self._readings = self._read(self._last)
        return self._readings

    def _read(self, phase: Phase) -> Readings:
        sites = self._in_order()
        # a slot that was made since has columns that the phase lacks
        width = phase.after.shape[1]
        sites = [name for name in sites if self._states.slots[name].first < width]
        names = [column for name in sites for column in self._columns(name)]
        values = phase.measured(self._states, sites)
        networks = next(iter(values.values())).shape[0] if values else 1

        def by_layer(found: dict[str, float]) -> np.ndarray:
            row = [found.get(layer_of(name), np.nan) for name in names]
            return np.broadcast_to(np.array(row, float), (networks, len(names)))

        gains = {
            f"{site.name}.out": float(site.module.gain.mean())
            for site in self._sites
            if isinstance(site.module, PhaseNorm) and networks == 1
        }
        if gains:
            values["gain"] = np.broadcast_to(
                np.array([gains.get(name, np.nan) for name in names]), (networks, len(names))
            )
        if self._weights is not None:
            values["step"] = by_layer(self._weights.changes())
        if self.reference is not None:
            values["churn"] = by_layer(self._churn)
        return Readings(names, values)

    def _in_order(self) -> list[str]:
        """Names of the sites seen so far, in the order of the network's layers."""
        places = {site.name: i for i, site in enumerate(self._sites)}
        last = len(places)

        def place(name: str) -> int:
            return places.get(name, places.get(name.rpartition(".")[0], last))

        return sorted(self._order, key=place)

    def _columns(self, name: str) -> list[str]:
        slot = self._states.slots[name]
        return [name] if slot.steps == 1 else [f"{name}@{t}" for t in range(slot.seen)]

    def _static_names(self) -> list[str]:
        """Columns that are known before any forward."""
        names = []
        for site in self._sites:
            if site.is_normalizer:
                names += [f"{site.name}.in", f"{site.name}.out"]
            elif not site.is_sequence and not site.is_cell:
                names.append(site.name)
        return names

    # exact continuation

    def state(self, network: int = 0) -> dict[str, Any]:
        """Return what a later probe of the same network needs to continue, between two phases.

        The first row afterwards has no ``step`` and no ``churn``, which compare with the row before.

        Args:
            network: number of the network, if several are observed under ``torch.func.vmap``.

        Returns:
            The array ``state``, and plain values.
        """
        state, slots = self._states.state_of(network)
        return {"state": state, "phases": self.phases, "order": list(self._order), "slots": slots}

    def restore(self, *stored: dict[str, Any]) -> None:
        """Continue from the :meth:`state` of each network."""
        first = stored[0]
        self._states.restore([np.asarray(each["state"]) for each in stored], first["slots"])
        self.phases, self._order = int(first["phases"]), list(first["order"])


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


def layer_of(column: str) -> str:
    """Return the name of the layer of a column: without time step, ``.in``, ``.out`` or a gate."""
    name = column.partition("@")[0]
    head, _, tail = name.rpartition(".")
    return head if tail in ("in", "out", *gates.PARTS) and head else name
