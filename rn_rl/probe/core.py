"""Code lengths of the layers of any network, with or without normalizers."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rn_rl.errors import UserError
from rn_rl.normalization import PhaseNorm
from rn_rl.normalization.phase import decay_per_phase
from rn_rl.probe import gates
from rn_rl.probe.arguments import checked_network, checked_reference, chosen, whole
from rn_rl.probe.hooks import Hooks
from rn_rl.probe.network import Weights, churn_of, evaluated, mean_gain
from rn_rl.probe.notices import Notices
from rn_rl.probe.observer import Observer, outside_transforms
from rn_rl.probe.phases import Ended, Layout
from rn_rl.probe.readings import Readings
from rn_rl.probe.sites import (
    Layers,
    Site,
    find_activations,
    find_sites,
    first_tensor,
    layer_of,
    physical,
)
from rn_rl.probe.states import CodeStates

MEASURES = {
    "code": "code length in nats, and the residual: what it exceeds that of stationary data by",
    "moments": "mean, sd, shift of the mean in sd of the history, ratio of the variances",
    "dead": "share of units whose activation is never above 0 in a phase, and of dormant units",
    "rank": "effective rank of the activity, as a participation ratio",
    "neurons": "10%, 50% and 90% quantiles of the code lengths of a layer's neurons",
    "step": "size of the weights' change since the last phase, relative to the weights",
}
"""Names of the measures of a probe; the gain of a normalizer is always recorded too."""

MODES = ("train", "eval")


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
    ``cell.c@t``). At most 64 samples of a batch are observed. Dead and dormant units are those of the
    activation function that follows a layer or its normalizers, as a module that gets their output, and
    for recurrent layers and gates those of their own outputs. Output layers have none.

    A layer with weights is a module without children that has parameters, or a part of the network that
    has parameters of its own beside children. What is observed is the result of calling it, if that is a
    tensor of floating-point numbers, or the first item of a tuple or list that is one: a module that
    returns a dictionary or ``(None, x)`` is not observed. Features are on axis 1 of outputs of
    convolutions, pooling, group, batch and instance normalizers and those of this library, and of other
    images, except ``nn.Linear``, ``nn.LayerNorm`` and the like; else on the last axis. A standard
    deviation below a millionth of the mean is rounding, and counts as 0.003.

    Each call of ``nn.LSTM``, ``GRU`` and ``RNN`` with several steps begins at step 0; calls with one
    step are counted on until the network is called again. See :meth:`sequences` for other ways.

    Effect on the network: none. Neither its outputs, its random numbers nor its modes change. Copies
    and pickles of it are not observed. They have hooks that do nothing: such a pickle is only read where
    this library is installed, and ``torch.jit.script`` refuses such a copy. A copy that is made inside
    :meth:`paused` has none. Under ``torch.compile`` each observed layer is a graph break; attach the
    probe before the compiled network is first called, since later its hooks are not seen. A phase in
    which the weights change and nothing is observed is warned of, once, and so is a layer that is
    replaced by another module: the probe does not follow it. Under ``torch.func.vmap`` all networks are
    observed at once, and measures get an axis of networks.

    Args:
        module: any network.
        half_life: number of observed phases after which an observation counts half; None never forgets.
        layers: names of layers to observe; ``"all"`` for every layer without children or with weights of
            its own, activation functions included; or a function ``(name, module) -> bool`` that chooses
            among those.
        every: number of phases of which one is observed: the first, and each ``every``-th after it. The
            others cost next to nothing.
        batches: number of forwards of a layer in a phase that are observed, the first ones; None for
            all. 64 rows give the mean of a neuron to an eighth of its standard deviation.
        modes: modes of layers in which they are observed: ``"train"``, ``"eval"`` or both.
        measures: names of :data:`MEASURES`.
        max_steps: number of time steps that get a column; later ones share the last.
        recompute_gates: also measure the gates (``.i``, ``.f``, ``.g``, ``.o``) and the cell state
            (``.c``) of each ``nn.LSTM`` of one layer and direction, except of packed sequences. Hooks do
            not see them, so they are computed again from input and weights, for the first batch of each
            observed phase.
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
        self.measures = chosen("measures", measures, MEASURES)
        self.modes = chosen("modes", modes, MODES)
        if not self.modes:
            raise UserError(f"modes={modes!r}: expected at least one of {', '.join(MODES)}")
        self.every, self.max_steps = whole("every", every), whole("max_steps", max_steps)
        self.prefix, self.follow_copies = prefix, follow_copies
        self.reference = checked_reference(reference)
        self.phases = 0
        """Number of phases that have ended, observed or not."""
        self._states = CodeStates(self.decay, self.measures)
        self._observer = Observer(
            self._states,
            None if batches is None else whole("batches", batches),
            self.max_steps,
            recompute_gates,
        )
        self._last: Ended | None = None
        self._readings: Readings | None = None
        self.touched = False
        """True if a layer was called in an observed mode since the last phase ended."""
        self._layout: tuple[int, Layout] | None = None
        self._outputs: dict[str, Tensor] | None = None
        self._before: dict[str, Tensor] = {}
        self._weights: Weights | None = None
        self._paused = False
        self._attach(checked_network(module), layers)

    # attaching and detaching

    def _attach(self, module: nn.Module, layers: Layers) -> None:
        self._module: nn.Module | None = module
        sites = find_sites(module, layers)
        self._sites = [replace(site, name=f"{self.prefix}{site.name}") for site in sites]
        self._places = {site.name: i for i, site in enumerate(self._sites)}
        self._notices: Notices | None = Notices(module, self._sites, self.modes)
        self._observer.time_first = any(
            isinstance(site.module, nn.RNNBase) and not site.module.batch_first for site in sites
        )
        self._gained: list[tuple[Site, PhaseNorm]] = [
            (site, site.module) for site in self._sites if isinstance(site.module, PhaseNorm)
        ]
        if self._observer.recompute_gates:
            gates.check([(site.name, site.module) for site in self._sites])
        if "step" in self.measures:
            self._weights = Weights([(site.name, site.module) for site in self._sites])
        watched = list(self._sites)
        if "dead" in self.measures:
            watched += find_activations(module, sites)
        self._hooks = Hooks(self._see, self._forward, watched, module, self.follow_copies)

    def _switch(self) -> None:
        """Attach the hooks in phases that are observed, unless the probe is paused."""
        on = self.observing and not self._paused
        self._hooks.attach(on)
        if on and self._notices is not None:
            self._notices.begin()

    def close(self) -> None:
        """Remove the hooks from the network; what was measured stays."""
        self._hooks.remove()
        self._module, self._weights, self.reference = None, None, None
        self._notices = None

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
        self._states.flush()
        state = dict(self.__dict__)
        state.update(_hooks=Hooks.none(), _module=None, _sites=[], _gained=[], _last=None)
        state.update(_weights=None, reference=None, _notices=None)
        state.update(_outputs=None, _readings=self.readings() if self._last else None)
        return state

    # observing

    @property
    def sites(self) -> list[Site]:
        """Layers that are observed."""
        return list(self._sites)

    @property
    def observing(self) -> bool:
        """True in phases that are observed: the first, and each ``every``-th after it."""
        return self.phases % self.every == 0

    @contextlib.contextmanager
    def paused(self) -> Iterator[None]:
        """Observe nothing inside this context."""
        before = self._paused
        self.pause()
        try:
            yield
        finally:
            self._paused = before
            self._switch()

    def pause(self) -> None:
        """Observe nothing until :meth:`resume`."""
        self._paused = True
        self._switch()

    def resume(self) -> None:
        """Observe again, after :meth:`pause`."""
        self._paused = False
        self._switch()

    @contextlib.contextmanager
    def resumed(self) -> Iterator[None]:
        """Observe inside this context, after :meth:`pause`."""
        self.resume()
        try:
            yield
        finally:
            self.pause()

    def stay_attached(self) -> None:
        """Keep the hooks attached in all phases, so that :attr:`touched` is known in all of them."""
        self._hooks.pinned = True

    @contextlib.contextmanager
    def sequences(self, mask: Tensor | None = None) -> Iterator[None]:
        """Observe one pass over sequences inside this context: time steps are counted from 0.

        Needed only where a recurrent layer gets a sequence in parts of several steps, where cells are
        used by another method than the call of the network, or where sequences are padded. Padding is
        left out of all layers whose outputs are ``(batch, steps, ...)``, ``(steps, batch, ...)`` or
        ``(batch * steps, features)``. If there are as many steps as sequences, it is the first of these,
        or the second if a recurrent layer has ``batch_first=False``.

        Args:
            mask: ``(batch, steps)``, true for steps that are not padding; None if all are real.

        Raises:
            UserError: the mask does not fit the sequences that a recurrent layer is called with; it is
                raised by that call.
        """
        self.begin_sequences(mask)
        try:
            yield
        finally:
            self._observer.mask = None
            self._observer.one_pass = False

    def begin_sequences(self, mask: Tensor | None = None) -> None:
        """Do as :meth:`sequences`, for all that follows until the next call."""
        self._observer.restart()
        self._observer.one_pass = True
        self._observer.mask = None if mask is None else mask.detach().to(torch.bool)

    def observe_steps(self, name: str, values: Tensor) -> None:
        """Observe values that no hook sees, by time step.

        Args:
            name: name of the column, without the step.
            values: ``(networks, steps, batch, features)``.
        """
        self._observer.see_steps(name, values.detach(), 0)

    def _forward(self, network: nn.Module) -> None:
        """Note that a forward of the whole network begins."""
        if ("train" if network.training else "eval") in self.modes:
            self._observer.restart()

    def _see(
        self, site: Site, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any
    ) -> None:
        """Observe a call of a layer."""
        if self._outputs is not None:
            found = first_tensor(output) if site.has_columns else None
            if found is not None:
                with outside_transforms():
                    self._outputs.setdefault(site.name, physical(found)[0].clone())
            return
        if self._paused or ("train" if site.module.training else "eval") not in self.modes:
            return
        self.touched = True
        if not self.observing or torch.jit.is_tracing():
            return
        self._observer.see(site, inputs, keywords, output)

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
            if self._notices is not None:
                self._notices.end(self.touched or self._paused)
            self._last, self._readings = self._ended(), None
            self._observer.end_phase()
        self.phases += 1
        self.touched = False
        if observed or self.observing:
            self._switch()
        return observed

    def _ended(self) -> Ended:
        """End the sums of the phase, and measure the network itself."""
        lost = set() if self._notices is None else self._notices.lost
        gains = {
            site.output_name: mean_gain(n) for site, n in self._gained if site.name not in lost
        }
        change = None if self._weights is None else self._weights.measure(lost)
        churn = None
        if self.reference is not None and self._module is not None:
            churn = self._measure_churn()
        return Ended(self._states.commit(), self._laid_out(), gains, change, churn)

    def _measure_churn(self) -> dict[str, float]:
        """Evaluate the network on the reference and compare its outputs with those of before."""
        assert self._module is not None
        with self.taking() as now, evaluated(self._module):
            call = self.reference
            _ = self._module(call) if isinstance(call, Tensor) else call() if call else None
        before, self._before = self._before, now
        return {
            name: churn_of(before[name], value) for name, value in now.items() if name in before
        }

    @contextlib.contextmanager
    def taking(self) -> Iterator[dict[str, Tensor]]:
        """Copy the outputs of layers inside this context, in place of observing them.

        Yields:
            The first output of each layer, by name; ``(networks, ...)`` under ``torch.func.vmap``.
        """
        self._outputs = {}
        self._hooks.attach(True)
        try:
            yield self._outputs
        finally:
            self._outputs = None
            self._switch()

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

    def _read(self, ended: Ended) -> Readings:
        names = list(ended.layout.names)
        layers = [layer_of(name, self._places) for name in names]
        networks = len(ended.layout.index)
        more: dict[str, np.ndarray] = {}

        def by_layer(found: dict[str, float]) -> np.ndarray:
            row = np.array([found.get(layer, np.nan) for layer in layers], float)
            return np.broadcast_to(row, (networks, len(names)))

        if ended.gains and networks == 1:
            gains = {name: gain.item() for name, gain in ended.gains.items()}
            more["gain"] = np.array([[gains.get(name, np.nan) for name in names]])
        if ended.change is not None:
            more["step"] = by_layer(ended.change.by_layer())
        if ended.churn is not None:
            more["churn"] = by_layer(ended.churn)
        return Readings.of_phase(ended.phase, self._states, ended.layout, more)

    def _laid_out(self) -> Layout:
        """Return the columns of a phase."""
        if self._layout is None or self._layout[0] != self._states.version:
            sites = self._in_order()
            columns = [self._columns(name) for name in sites]
            self._layout = self._states.version, self._states.layout(sites, columns)
        return self._layout[1]

    def _in_order(self) -> list[str]:
        """Names of the sites seen so far, in the order of the network's layers."""
        last = len(self._places)

        def place(name: str) -> int:
            return self._places.get(layer_of(name, self._places), last)

        return sorted(self._observer.order, key=place)

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
        order = list(self._observer.order)
        return {"state": state, "phases": self.phases, "order": order, "slots": slots}

    def restore(self, *stored: dict[str, Any]) -> None:
        """Continue from the :meth:`state` of each network."""
        first = stored[0]
        self._states.restore([np.asarray(each["state"]) for each in stored], first["slots"])
        self.phases, self._observer.order = int(first["phases"]), list(first["order"])
        self._switch()
