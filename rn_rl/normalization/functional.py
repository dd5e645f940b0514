"""Regularity normalization as pure functions: observe a batch, commit a phase, code length.

The state is one tensor of shape ``(6, F)``. The pending sums, which collect a phase, are one of shape
``(4, F)``. F is the number of codes: 1 (one per layer) or the number of features (one per neuron).
With so few tensors, copying the state to a target network is one copy, and stacking many agents adds
one dimension. No function here converts a tensor to a Python number, so all of them run under
``torch.func.vmap``, under ``torch.compile``, and on a GPU without synchronization.

Functions typed ``Array`` take NumPy arrays as well as tensors; ``_numpy.py`` has the kernels that
exist in NumPy alone, and ``dispatch.py`` chooses between the two.

Source: Lin, B. "Regularity Normalization", Entropy 24(1):59, 2022. Each function says where it departs
from the paper.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

Array = TypeVar("Array", Tensor, np.ndarray)

MEAN, VAR, COUNT, LOG_MASS, PHASES, GAIN = range(6)
"""Rows of the state: mean and variance of all elements so far, their number, log code mass, number of
commits, and the gain in nats that the next phase applies."""

ELEMENTS, SUM, SUM_SQUARES, DENSITY = range(4)
"""Rows of the pending sums: number of elements, sums of d and d**2 for d = x - mean, and the sum of
exp(-z**2 / 2) for z = d / sigma."""

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
LOG_INITIAL_MASS = math.log(math.e - 1)
LOG2_E = math.log2(math.e)

SMALLEST_EXPONENT = math.log(sys.float_info.min)
"""Log of the smallest normal float64: densities below it are cut off, so code lengths stay finite."""

LEAST_GAIN, MOST_GAIN = 0.1, 100.0
"""Range of gains in nats, whatever the phases were; see :func:`least_gain` for short half-lives."""

MOST_OBSERVED = 64
"""Largest number of samples of one batch that update the statistics."""

WIDE = (torch.float32, torch.float64)
"""Precisions in which sums are computed."""


def initial_state(num_codes: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """State before any observation, ``(6, num_codes)``: mean 0, variance 1, no elements, gain 1."""
    state = torch.zeros(6, num_codes, dtype=dtype)
    state[VAR] = 1
    state[GAIN] = 1
    return state


def code_length(log_mass: Array, log_density: Array) -> Array:
    """Length in nats of the universal code of data with density ``exp(log_density)``.

    Formula: ``L = log M - log S``, with M the code mass (the normalizer of the universal code) and S
    the density. L >= 0 if M includes S: regular data have a short code, surprising data a long one.
    """
    return log_mass - log_density


def least_gain(decay: float) -> float:
    """Return the smallest gain after a commit: 0.1, or half of the steady gain where that is less.

    Only half-lives below about 0.4 phases have a steady gain ``-log(1 - decay)`` below 0.2.

    Args:
        decay: see :func:`commit`.
    """
    return LEAST_GAIN if decay >= 1 else min(LEAST_GAIN, -0.5 * math.log1p(-decay))


def step_of(rows: int) -> int:
    """Stride for subsampling a batch so that at most 64 rows update the statistics.

    64 rows give the mean of a neuron to an eighth of its standard deviation, and a phase of ten batches
    to a twenty-fifth; observing all rows of a large batch would cost more than applying the state.
    Every k-th row of a shuffled batch is a random sample of it. With observation weights, and in the
    published RN (``commit="forward"``), all rows are observed.
    """
    return max(1, -(-rows // MOST_OBSERVED))


def observed(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """The rows of a batch that update the statistics: every k-th by :func:`step_of`, all if weighted."""
    step = 1 if weight is not None else step_of(x.shape[0])
    return x if step == 1 else x[::step]


def observe(x: Tensor, state: Tensor, weight: Tensor | None = None) -> Tensor:
    """Contribution of a batch to the pending sums, under the frozen state; pure.

    Args:
        x: activations, ``(batch, features, ...)``, without gradient, float32 or float64.
        state: ``(6, 1)`` for one code per layer, ``(6, features)`` for one per neuron.
        weight: ``(batch,)``, at least 0: weights of the samples; None: each counts 1.

    Returns:
        ``(4, F)``: number of elements, sums of d and ``d**2`` about the frozen mean, and the sum of
        ``exp(-z**2 / 2)``, computed in the precision of x. A code whose sums are not finite (a NaN, an
        infinity or an overflow in its elements) gets zeros, so that batch is skipped for that code.
    """
    # slices keep rows two-dimensional and broadcast as they are; under vmap each reshape costs
    mean, var = state[MEAN : MEAN + 1], state[VAR : VAR + 1]
    scale = -0.5 * LOG2_E / var  # for exp2, which takes a third of the time of exp in torch
    centre = None
    if torch.compiler.is_compiling():
        centre, scale = at_precision(x.dtype, mean, scale)
    sums, squares, total = _moments(x, mean, weight, centre)
    squares *= scale.to(squares.dtype)
    return _packed((*sums, total(squares.exp2_())), mean)


def observe_moments(x: Tensor, mean: Tensor, weight: Tensor | None = None) -> Tensor:
    """The first three rows of :func:`observe`, ``(3, F)``, about a frozen mean of shape ``(F,)``."""
    sums, _, _ = _moments(x, mean[None], weight)
    return _packed(sums, mean[None])


Sums = tuple[int | Tensor, Tensor, Tensor]


def _moments(
    x: Tensor, mean: Tensor, weight: Tensor | None, centre: Tensor | None = None
) -> tuple[Sums, Tensor, Callable[[Tensor], Tensor]]:
    """Sums over a batch per code, each squared distance, and the function that sums up such values.

    Args:
        x: activations, ``(batch, features, ...)``.
        mean: ``(1, F)``, frozen.
        weight: ``(batch,)`` or None.
        centre: the mean in the precision of x, if it is known already.

    Returns:
        The element count with the sums of d and ``d**2``, ``(1, F)``; ``d**2``, ``(rows, columns)``, a
        new tensor that may be overwritten; the weighted sum over such a tensor, giving ``(1, F)``.
    """
    one_code = mean.shape[1] == 1
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:])) if one_code else per_feature(x)
    over = (0, 1) if one_code else (0,)
    count: int | Tensor = rows.shape[0] * (rows.shape[1] if one_code else 1)
    w: Tensor | None = None
    if weight is not None:
        given, samples = weight.detach(), max(1, weight.shape[0])
        count = given.to(mean.dtype).sum() * (count // samples)
        each = given.reshape(-1, 1).expand(-1, rows.shape[0] // samples)
        w = each.reshape(-1, 1).to(rows.dtype)

    def total(values: Tensor) -> Tensor:
        return (values if w is None else w * values).sum(over, keepdim=True)

    d = rows - (mean.to(rows.dtype) if centre is None else centre)
    first = total(d)
    d *= d
    return (count, first, total(d)), d, total


def _packed(sums: tuple[int | Tensor, *tuple[Tensor, ...]], mean: Tensor) -> Tensor:
    """Stack sums as rows in the dtype of a mean ``(1, F)``; zeros for codes that are not finite."""
    count, *others = sums
    if isinstance(count, Tensor):
        elements = torch.zeros_like(mean) + count
    else:
        elements = torch.full_like(mean, count)
    return torch.where(others[1] < math.inf, torch.cat((elements, *others)), 0.0)


def finite(sums: Array) -> Array:
    """Replace by zeros the columns of pending sums whose sum of squares is not finite."""
    usable = sums[SUM_SQUARES] < math.inf  # False for NaN too
    xp = array_module(sums)
    return sums if xp is np and usable.all() else xp.where(usable, sums, 0.0)


def array_module(values: Array) -> Any:
    """``numpy`` for an array, ``torch`` for a tensor, to call functions that both have."""
    return np if isinstance(values, np.ndarray) else torch


def wide(x: Tensor) -> Tensor:
    """Without gradient, in float32 or float64."""
    x = x.detach()
    return x if x.dtype in WIDE else x.float()


def at_precision(dtype: torch.dtype, *rows: Tensor) -> list[Tensor]:
    """Round rows of the frozen state to the precision of the activations they are applied to.

    Under ``torch.compile`` the rows pass through a stack, which the compiler computes once. Otherwise
    it fuses the float64 division and rounding into the loop over a batch and repeats them for each
    element, which takes most of the time. The negated row is there because the compiler removes a
    stack of equal rows.
    """
    rounded = [row.to(dtype) for row in rows]
    if torch.compiler.is_compiling():
        rounded = list(torch.stack((*rounded, -rounded[0])))[:-1]
    return rounded


def on_axis_1(values: Tensor, x: Tensor) -> Tensor:
    """Reshape ``(features,)`` so that it broadcasts along axis 1 of x."""
    return values if x.dim() == 2 else values.reshape((-1,) + (1,) * (x.dim() - 2))


def per_feature(x: Array) -> Array:
    """Reshape ``(batch, features, ...)`` to ``(elements, features)``."""
    if len(x.shape) == 2:
        return x
    last = np.moveaxis(x, 1, -1) if isinstance(x, np.ndarray) else x.movedim(1, -1)
    return last.reshape(-1, x.shape[1])


def commit(state: Array, pending: Array, decay: float = 1.0, eps: float = 1e-5) -> Array:
    """The state after a phase; pure. A phase is one symbol of the code, however many batches it had.

    With S the element-weighted mean density of the phase under the frozen state:

    1. the first commit only sets mean and variance; the gain stays 1;
    2. later, ``M <- decay * M + S``, where M starts as ``(e - 1) S``, so that the gain starts at 1;
    3. ``gain = log M - log S``, which on stationary data is ``log(t + e - 1)`` after t such commits,
       and with a decay q tends to ``-log(1 - q)``;
    4. the gain is at least :func:`least_gain`, which M is raised to match, and at most 100: after a
       jump, the density of a phase can be next to nothing, and that of the next one all of M;
    5. mean and variance by the exact merge of Chan et al. (the published update leaves out the
       between-batch term), with old counts multiplied by ``decay``; the variance is at least ``eps``.

    Densities are of ``z = (x - mean) / sigma``, not of x as published: the published code mass has
    units of 1/x, so its gain depends on the scale of the activations. They are taken relative to the
    mode, ``exp(-z**2 / 2)``: the constant factor is in both M and S and cancels.

    Args:
        state: ``(6, F)``.
        pending: ``(4, F)`` sums from :func:`observe`, of the same kind.
        decay: ``2 ** (-1 / half_life)``, or 1 for the cumulative state.
        eps: floor of the variance, as in batch normalization.

    Returns:
        A new ``(6, F)`` state. Columns with nothing pending are returned bit for bit.
    """
    xp = array_module(state)
    mean, var, count, log_mass, phases, _ = state
    elements = pending[ELEMENTS]
    shift, mean_square, density = pending[SUM:] / elements
    new_mean, new_var, new_count = merge(
        mean, var, count, elements, shift, mean_square, decay=decay
    )
    # never the log of 0: a phase far outside the history has a long but finite code
    log_density = xp.log(density.clip(xp.finfo(state.dtype).tiny))
    # the first two commits start the mass anew, which makes the gain 1
    decayed = log_mass + math.log(decay)
    old_mass = xp.where(phases > 1, decayed, log_density + LOG_INITIAL_MASS)
    least = least_gain(decay)
    new_mass = xp.maximum(xp.logaddexp(old_mass, log_density), log_density + least)
    gain = code_length(new_mass, log_density).clip(least, MOST_GAIN)

    rows = new_mean, new_var.clip(eps), new_count, new_mass, phases + 1, gain
    committed = np.array(rows) if xp is np else xp.stack(rows)
    updated: Array = xp.where(elements > 0, committed, state)
    return updated


def merge(
    mean: Array,
    var: Array,
    count: Array,
    elements: Array,
    shift: Array,
    mean_square: Array,
    *,
    decay: float,
) -> tuple[Array, Array, Array]:
    """Mean, variance and count of a history and a phase together, exactly (Chan et al.).

    Args:
        mean: mean of the history.
        var: variance of the history.
        count: number of elements of the history; multiplied by ``decay`` first.
        elements: number of elements of the phase.
        shift: mean over the phase of ``d = x - mean``.
        mean_square: mean over the phase of ``d**2``.
        decay: see :func:`commit`.
    """
    new_count = count * decay + elements
    share = elements / new_count
    moved = shift * share
    return mean + moved, var + share * (mean_square - var) - moved * moved, new_count


def commit_moments(state: Tensor, pending: Tensor, decay: float) -> Tensor:
    """Rows mean, variance and count after a phase, by :func:`merge`; pure.

    Args:
        state: ``(3, ...)``.
        pending: sums from :func:`observe_moments`, of the same shape.
        decay: see :func:`commit`.

    Returns:
        A new state. Columns with nothing pending are returned bit for bit.
    """
    mean, var, count = state
    elements = pending[ELEMENTS]
    shift, mean_square = pending[SUM:] / elements
    new_mean, new_var, new_count = merge(
        mean, var, count, elements, shift, mean_square, decay=decay
    )
    # for constant data, rounding can leave a variance just below 0
    committed = torch.stack((new_mean, new_var.clamp(min=0), new_count))
    return torch.where(elements > 0, committed, state)
