"""Measures of phases, computed for many of them at once from the sums that :class:`CodeStates` kept."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import Tensor

from rn_rl.normalization.functional import ELEMENTS, GAIN, MEAN, PHASES, SUM, SUM_SQUARES, VAR
from rn_rl.probe.measures import baselines, dead_share, dormant_share
from rn_rl.probe.network import Change


@dataclass
class Extras:
    """Sums of one phase that the code does not need, by site; NumPy arrays on the CPU."""

    alive: dict[str, Any] = field(default_factory=dict)
    """True for units that were above 0, ``(networks, steps, features)``."""
    size: dict[str, Any] = field(default_factory=dict)
    """Mean absolute activity of units, summed over forwards, of the same shape."""
    counted: dict[str, Any] = field(default_factory=dict)
    """True where activations of units were counted, ``(networks, steps)``."""
    rank: dict[str, Any] = field(default_factory=dict)
    """Participation ratio of the first batch of the phase, ``(networks, steps)``."""


@dataclass(frozen=True)
class Layout:
    """Columns of the readings.

    Attributes:
        sites: names of the sites, in the order of the columns.
        names: names of the columns.
        index: column of the state of each network's column, ``(networks, columns)``.
        at: columns of each site.
        neurons: columns of the state of each site's neurons, ``(networks, steps, features)``.
    """

    sites: tuple[str, ...]
    names: tuple[str, ...]
    index: np.ndarray
    at: dict[str, slice]
    neurons: dict[str, np.ndarray]


@dataclass
class Phase:
    """States before and after a commit, and the sums between them; None until these are computed."""

    before: Tensor | np.ndarray | None = None
    pending: Tensor | np.ndarray | None = None
    after: Tensor | np.ndarray | None = None
    extras: Extras = field(default_factory=Extras)


@dataclass(frozen=True)
class Ended:
    """Results of a phase as tensors; ``CodeLengthProbe.readings()`` converts them to numbers.

    Attributes:
        phase: sums of the phase.
        layout: columns.
        gains: mean gain of each normalizer, by column.
        change: change of the weights; None if it is not measured.
        churn: churn by layer; None if it is not measured.
    """

    phase: Phase
    layout: Layout
    gains: dict[str, Tensor]
    change: Change | None
    churn: dict[str, float] | None


def measured(
    phases: Sequence[Phase], layout: Layout, measures: Iterable[str], decay: float
) -> dict[str, np.ndarray]:
    """Compute the measures of phases that have the same columns.

    One call for many phases costs little more than for one.

    Args:
        phases: the phases.
        layout: their columns.
        measures: names of :data:`rn_rl.probe.core.MEASURES`.
        decay: factor of a phase on counts and code mass.

    Returns:
        ``(phases, networks, columns)`` by name of the measure; NaN where there is nothing to measure.
    """
    afters = np.stack([as_array(phase.after) for phase in phases], 1)
    sums = np.stack([as_array(phase.pending) for phase in phases], 1)
    after, pending = afters[:, :, layout.index], sums[:, :, layout.index]
    before = np.stack([as_array(phase.before)[:, : afters.shape[2]] for phase in phases], 1)
    before = before[:, :, layout.index]
    elements = pending[ELEMENTS]
    with np.errstate(all="ignore"):
        observed = elements > 0
        code = np.where(observed, after[GAIN], np.nan)
        result = {"code": code, "residual": code - baselines(after[PHASES], decay)}
        if "moments" in measures:
            shift = pending[SUM] / elements
            variance = np.maximum(pending[SUM_SQUARES] / elements - shift * shift, 0)
            known = observed & (before[PHASES] > 0)
            old = np.where(known, before[VAR], np.nan)
            result["mean"] = before[MEAN] + shift
            result["sd"] = np.sqrt(variance)
            result["shift"] = shift / np.sqrt(old)
            result["ratio"] = variance / old
        if "neurons" in measures:
            each = np.where(sums[ELEMENTS] > 0, afters[GAIN], np.nan)
            names = ("neuron_low", "neuron_median", "neuron_high")
            result.update(zip(names, _quantiles(each, layout), strict=True))
        if "dead" in measures:
            alive = [phase.extras.alive for phase in phases]
            size = [phase.extras.size for phase in phases]
            counted = _by_column([phase.extras.counted for phase in phases], layout) > 0
            for name, shares in (
                ("dead", _by_column(alive, layout, dead_share)),
                ("dormant", _by_column(size, layout, dormant_share)),
            ):
                result[name] = np.where(counted, shares, np.nan)
        if "rank" in measures:
            result["rank"] = _by_column([phase.extras.rank for phase in phases], layout)
    return result


def _quantiles(code: np.ndarray, layout: Layout) -> np.ndarray:
    """Quantiles over the neurons of a layer of their own code lengths, ``(3, phases, ...)``."""
    found = np.full((3, len(code), *layout.index.shape), np.nan)
    for name, at in layout.at.items():
        each = code[:, layout.neurons[name]][:, :, : at.stop - at.start]
        found[:, :, :, at] = np.quantile(each, (0.1, 0.5, 0.9), axis=3)
    return found


def _by_column(
    kept: Sequence[dict[str, Any]],
    layout: Layout,
    summary: Callable[[np.ndarray], np.ndarray] | None = None,
) -> np.ndarray:
    """Put what phases kept by site into columns, ``(phases, networks, columns)``.

    Args:
        kept: ``(networks, steps, ...)`` by site, of each phase.
        layout: columns.
        summary: function of the last axis.
    """
    found = np.full((len(kept), *layout.index.shape), np.nan)
    for name, at in layout.at.items():
        which = [i for i, each in enumerate(kept) if name in each]
        if which:
            values = np.array([as_array(kept[i][name]) for i in which])
            values = values if summary is None else summary(values)
            whole = slice(None) if len(which) == len(kept) else which
            found[whole, :, at] = values[:, :, : at.stop - at.start]
    return found


def as_array(values: Any) -> np.ndarray:
    """Return a tensor or an array as an array."""
    found: np.ndarray = values.cpu().numpy() if isinstance(values, Tensor) else values
    return found
