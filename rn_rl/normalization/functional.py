"""Regularity normalization as pure functions: observe, commit, code_length. One of each, ever.

State is one tensor of shape ``(6, F)`` and what a phase has observed so far is one of shape
``(4, F)``, where F is 1 (one code per layer) or the number of features (one per neuron). Packed like
this, a copy to a target network is one tensor, and a stack of many agents is one more dimension.
No function here looks at a value from Python, so all of them run under ``torch.func.vmap``,
``torch.compile`` and on a GPU without a synchronisation.

Source: Lin, B. "Regularity Normalization", Entropy 24(1):59, 2022. Departures are named where made.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

MEAN, VAR, COUNT, LOG_MASS, PHASES, GAIN = range(6)
"""Rows of the state: mean and variance of the history, elements in it, log code mass (nats),
phases committed, and the gain that the next phase will apply."""

ELEMENTS, SUM, SUM_SQUARES, DENSITY = range(4)
"""Rows of the pending sums: elements, sums of d and d**2 for d = x - mean, sum of exp(-z**2 / 2)."""

LOG_SQRT_2PI = 0.5 * math.log(2 * math.pi)
LOG_INITIAL_MASS = math.log(math.e - 1)
LOG2_E = math.log2(math.e)


def initial_state(num_codes: int, dtype: torch.dtype = torch.float64) -> Tensor:
    """An empty history, shape ``(6, num_codes)``: mean 0, variance 1, nothing counted, gain 1."""
    state = torch.zeros(6, num_codes, dtype=dtype)
    state[VAR] = 1
    state[GAIN] = 1
    return state


def code_length(log_mass: Any, log_density: Any) -> Any:
    """Length in nats of the universal code for something of density ``exp(log_density)``.

    Formula: ``L = log M - log S``, where M is the code mass (the sum over all that the code has to
    tell apart) and S the density of what is coded. Shapes broadcast. No effect on state.
    """
    return log_mass - log_density


MOST_OBSERVED = 64
"""Samples of one batch that are observed at most."""


def step_of(rows: int) -> int:
    """The k of a batch of which every k-th sample is observed, where no weights say which: at most 64.

    So many settle the mean of a neuron to an eighth of its standard deviation, a phase of ten batches
    to a twenty-fifth, and looking at all of a large batch costs more than applying the state does.
    Every k-th is a random choice of a shuffled batch, and spread evenly over one in order. The
    published RN (``commit="forward"``) looks at all.
    """
    return max(1, -(-rows // MOST_OBSERVED))


def observed(x: Tensor, weight: Tensor | None = None) -> Tensor:
    """The samples of a batch that a code is measured on: by :func:`step_of`, or all with weights."""
    step = 1 if weight is not None else step_of(x.shape[0])
    return x if step == 1 else x[::step]


SMALL = 2**16
"""Elements up to which NumPy on the CPU is faster than torch, whose operations start slowly."""


def accumulate(
    pending: Tensor, observe: Callable[..., Any], x: Tensor, state: Tensor, weight: Tensor | None
) -> None:
    """``pending += observe(x, state, weight)``, in place.

    On the CPU the state is an array there, and a small x too: for a layer of an agent, what torch
    takes to start its operations is most of the time of observing.
    """
    values = wide(x)
    arrays = as_arrays(pending, state, values)
    if arrays is None:
        pending.add_(observe(values, state, weight))
        return
    sums, before, small = arrays
    sums += observe(small if values.numel() <= SMALL else values, before, weight)


def as_arrays(*tensors: Tensor) -> list[np.ndarray] | None:
    """The same memory as arrays; None where there is none to look at.

    So it is on other devices, under ``torch.compile``, and in the transforms of ``torch.func``.
    """
    if torch.compiler.is_compiling() or not tensors[0].is_cpu:
        return None
    try:
        return [t.numpy() for t in tensors]
    except (RuntimeError, TypeError):
        return None


def observe(x: Any, state: Any, weight: Tensor | None = None) -> Any:
    """What a batch adds to the pending sums, with the state held frozen.

    Args:
        x: activations, ``(batch, features, ...)``, features on axis 1; without gradient, float32 or
            float64, a tensor or an array.
        state: ``(6, 1)`` for one code per layer, ``(6, features)`` for one per neuron; a tensor or an
            array.
        weight: ``(batch,)`` weights of the samples, at least 0; every sample counts 1 without it.

    Returns:
        ``(4, F)``, a tensor or an array as the state is: element count, first and second moment sums
        about the frozen mean, and the sum of ``exp(-z**2 / 2)``. Elements are taken at the precision
        of x. A code whose sums are not finite (a NaN or an infinity in its column) returns zeros:
        such a batch is skipped for that code and never enters the state.
    """
    if isinstance(x, np.ndarray) and weight is None:
        usual = (_observe_layer if state.shape[1] == 1 else _observe_neurons)(x, state)
        if usual is not None:
            return usual
    # powers of 2 in torch, which takes a third of the time that those of e do; NumPy's of e are fast
    in_array = isinstance(x, np.ndarray)
    with silent(state):
        # rows, which broadcast as they are: under vmap each other shape is one more operation
        mean, var = state[MEAN : MEAN + 1], state[VAR : VAR + 1]
        scale = (-0.5 if in_array else -0.5 * LOG2_E) / var
        centre = None
        if torch.compiler.is_compiling():
            centre, scale = at_precision(x.dtype, mean, scale)
        sums, squares, total = _moments(x, mean, weight, centre)
        squares *= _like(scale, squares)
        # in place: fresh memory costs more than that
        density = np.exp(squares, out=squares) if in_array else squares.exp2_()
        return _packed((*sums, total(density)), mean)


def silent(values: Any) -> Any:
    """A context without NumPy's warnings of what overflows, if these values are an array."""
    in_array = isinstance(values, np.ndarray)
    return np.errstate(all="ignore") if in_array else contextlib.nullcontext()


FAR = 1e30
"""Sums of squares from which on one of them, multiplied, may overflow."""


def _observe_layer(x: np.ndarray, state: np.ndarray) -> np.ndarray | None:
    """The same for one code without weights, in as few steps as it takes: the usual case of RN.

    None for what is too far from the history, or not finite: a context without warnings takes as long
    as a step, and only these would need one.
    """
    d = x.reshape(-1) - state.item(MEAN)
    squares = np.vdot(d, d)  # which does not warn
    if not squares < FAR:
        return None
    ones = ones_of(d.size, d.dtype)
    first = np.dot(ones, d)
    d *= d
    d *= -0.5 / state.item(VAR)
    sums = np.empty((4, 1), state.dtype)
    sums[:, 0] = d.size, first, squares, np.dot(ones, np.exp(d, out=d))
    return sums


def _observe_neurons(x: np.ndarray, state: np.ndarray) -> np.ndarray | None:
    """The same for one code per neuron."""
    rows = per_feature(x)
    mean, var = state[:COUNT].astype(rows.dtype, copy=False)
    d = rows - mean
    every = d.reshape(-1)
    if not np.vdot(every, every) < FAR:
        return None
    ones = ones_of(rows.shape[0], rows.dtype)
    sums = np.empty((4, rows.shape[1]), state.dtype)
    sums[ELEMENTS] = rows.shape[0]
    sums[SUM] = np.dot(ones, d)
    d *= d
    sums[SUM_SQUARES] = np.dot(ones, d)
    d *= -0.5 / var
    sums[DENSITY] = np.dot(ones, np.exp(d, out=d))
    return sums


@lru_cache(maxsize=8)
def ones_of(size: int, dtype: np.dtype) -> np.ndarray:
    """So many ones; a product with them is the faster sum."""
    ones = np.ones(size, dtype)
    ones.flags.writeable = False
    return ones


def observe_moments(x: Any, mean: Any, weight: Tensor | None = None) -> Any:
    """The first three rows of :func:`observe`, ``(3, F)``, about a frozen mean of shape ``(F,)``."""
    mean = mean[None]
    with silent(mean):
        sums, _, _ = _moments(x, mean, weight)
        return _packed(sums, mean)


def _moments(
    x: Any, mean: Any, weight: Tensor | None, centre: Tensor | None = None
) -> tuple[tuple[Any, Any, Any], Any, Callable[[Any], Any]]:
    """Count, sums of d and d**2 by code; then each d**2, and what sums up others of its shape.

    The mean is ``(1, F)``, and so are sums, or they broadcast to that. The centre is the mean at the
    precision of x, where the caller has that already.
    """
    one_code = mean.shape[1] == 1
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:])) if one_code else per_feature(x)
    w = None if weight is None else _weights_of_rows(weight, rows)
    if w is None and isinstance(rows, np.ndarray):
        w = np.ones(rows.shape[0], rows.dtype)

    def total(values: Any) -> Any:
        if isinstance(values, np.ndarray):
            columns = w @ values
            return np.add.reduce(columns) if one_code else columns
        values = values if w is None else w[:, None] * values
        columns = values.sum((0, 1) if one_code else 0, keepdim=True)
        return columns.numpy() if isinstance(mean, np.ndarray) else columns

    number: Any = rows.shape[0] * (rows.shape[1] if one_code else 1)
    if weight is not None:
        in_array = isinstance(mean, np.ndarray)
        each = weight.detach().to(torch.float64 if in_array else mean.dtype).sum()
        number = (each.numpy() if in_array else each) * (number // max(1, weight.shape[0]))
    # new: what follows may overwrite it
    d = rows - (_like(mean, rows) if centre is None else centre)
    first = total(d)
    d *= d
    return (number, first, total(d)), d, total


def _packed(sums: tuple[Any, ...], mean: Any) -> Any:
    """Sums as rows of what has the type and the columns of a mean; zeros where they are not finite."""
    if isinstance(mean, np.ndarray):
        array = np.empty((len(sums), mean.shape[1]), mean.dtype)
        for row, values in enumerate(sums):
            array[row] = values
        return finite(array)
    number = sums[ELEMENTS]
    of_tensor = isinstance(number, Tensor)
    full = torch.zeros_like(mean) + number if of_tensor else torch.full_like(mean, number)
    packed = torch.cat((full, *sums[SUM:]))
    return torch.where(sums[SUM_SQUARES] < math.inf, packed, 0.0)


def _weights_of_rows(weight: Tensor, rows: Any) -> Any:
    """Each sample's weight for all of its rows, ``(rows,)``."""
    each = weight.detach().reshape(-1, 1).expand(-1, rows.shape[0] // max(1, weight.shape[0]))
    return _like(each.reshape(-1), rows)


def array_module(values: Any) -> Any:
    """``numpy`` for an array, ``torch`` for a tensor: what both have is called alike in both."""
    return np if isinstance(values, np.ndarray) else torch


def _like(values: Any, reference: Any) -> Any:
    """Values as an array or a tensor, and at the precision, of a reference."""
    if isinstance(reference, np.ndarray):
        array = values if isinstance(values, np.ndarray) else values.numpy()
        return array.astype(reference.dtype, copy=False)
    tensor = torch.from_numpy(values) if isinstance(values, np.ndarray) else values
    return tensor.to(reference.dtype)


WIDE = (torch.float32, torch.float64)
"""Precisions that sums are taken at."""


def wide(x: Tensor) -> Tensor:
    """Without gradient, and of float32 or better."""
    x = x.detach()
    return x if x.dtype in WIDE else x.float()


def finite(sums: Any) -> Any:
    """Zeros for the columns whose sums (rows as in :func:`observe`) are not finite."""
    fine = sums[SUM_SQUARES] < math.inf  # false for NaN too
    if isinstance(fine, np.ndarray) and fine.all():
        return sums
    return array_module(sums).where(fine, sums, 0.0)


def at_precision(dtype: torch.dtype, *rows: Tensor) -> list[Tensor]:
    """Rows of a frozen state at the precision of what they are applied to.

    Under ``torch.compile`` they are made from a stack, which is computed once: else it divides and
    rounds float64 numbers anew for every element of a batch, which takes longer than all the rest.
    (Of rows that are all equal it sees through the stack.)
    """
    rounded = [row.to(dtype) for row in rows]
    if torch.compiler.is_compiling():
        rounded = list(torch.stack((*rounded, -rounded[0])))[:-1]
    return rounded


def on_axis_1(values: Tensor, x: Tensor) -> Tensor:
    """``(features,)`` in the shape that broadcasts along axis 1 of x."""
    return values if x.dim() == 2 else values.reshape((-1,) + (1,) * (x.dim() - 2))


def per_feature(x: Any) -> Any:
    """``(elements, features)``."""
    if len(x.shape) == 2:
        return x
    last = np.moveaxis(x, 1, -1) if isinstance(x, np.ndarray) else x.movedim(1, -1)
    return last.reshape(-1, x.shape[1])


def commit(state: Any, pending: Any, decay: float = 1.0, eps: float = 1e-5) -> Any:
    """The state after a phase: one phase is one symbol of the code, however many batches it had.

    With S the element-weighted mean density of the phase under the frozen state:

    1. the first commit only sets mean and variance; the gain stays 1;
    2. later, ``M <- decay * M + S``, where M starts as ``(e - 1) S``, so that the gain starts at 1;
    3. ``gain = log M - log S``, which on stationary data is ``log(t + e - 1)`` after t such commits,
       and with a decay q tends to ``-log(1 - q)``;
    4. mean and variance by the exact merge of Chan et al. (the published update leaves out the
       between-batch term), the old counts multiplied by ``decay``; the variance is at least ``eps``.

    Densities are of ``z = (x - mean) / sigma``, not of x as published: the published code mass has
    units of 1/x, so its gain depends on the scale of the activations. They are taken relative to the
    mode, ``exp(-z**2 / 2)``: the constant factor is in M and in S and cancels.

    Args:
        state: ``(6, F)``, a tensor or, on the CPU, an array: it is a handful of numbers, for which
            NumPy is several times faster.
        pending: ``(4, F)`` sums from :func:`observe`, of the same kind.
        decay: ``2 ** (-1 / half_life)``, or 1 for the cumulative state.
        eps: floor of the variance, as in batch normalization.

    Returns:
        A new ``(6, F)`` state. Columns with nothing pending come back bit for bit as they were.
    """
    xp = array_module(state)
    mean, var, count, log_mass, phases, _ = state
    elements, _, _, _ = pending
    shift, mean_square, density = pending[SUM:] / elements
    moments = merge(mean, var, count, elements, shift, mean_square, decay)
    new_var = moments[1].clip(eps)

    # never the log of 0: a phase wholly outside the history has a large but finite code length
    log_density = xp.log(density.clip(xp.finfo(state.dtype).tiny))
    # until there is mass (at the first commit, whose densities mean nothing, and the second) it
    # starts anew, which makes the gain 1
    decayed = log_mass + math.log(decay)
    old_mass = xp.where(phases > 1, decayed, log_density + LOG_INITIAL_MASS)
    new_mass = xp.logaddexp(old_mass, log_density)
    gain = code_length(new_mass, log_density)

    rows = moments[0], new_var, moments[2], new_mass, phases + 1, gain
    committed = np.array(rows) if xp is np else torch.stack(rows)
    return xp.where(elements > 0, committed, state)


def merge(
    mean: Any, var: Any, count: Any, elements: Any, shift: Any, mean_square: Any, decay: float
) -> tuple[Any, Any, Any]:
    """Mean, variance and count of a history and a phase together, exactly (Chan et al.).

    Args:
        mean, var, count: of the history, whose count is first multiplied by ``decay``.
        elements: of the phase.
        shift, mean_square: means over the phase of d and ``d**2``, with d the distance from ``mean``.
        decay: see :func:`commit`.
    """
    new_count = count * decay + elements
    share = elements / new_count
    moved = shift * share
    return mean + moved, var + share * (mean_square - var) - moved * moved, new_count


def commit_moments(state: Tensor, pending: Tensor, decay: float) -> Tensor:
    """Rows mean, variance and count after a phase, from :func:`observe_moments`, by :func:`merge`.

    Args:
        state: ``(3, ...)``.
        pending: of the same shape; columns with nothing pending come back bit for bit as they were.
        decay: see :func:`commit`.
    """
    mean, var, count = state
    elements = pending[ELEMENTS]
    shift, mean_square = pending[SUM:] / elements
    new_mean, new_var, new_count = merge(mean, var, count, elements, shift, mean_square, decay)
    # of a constant, rounding can leave a variance just below 0
    committed = torch.stack((new_mean, new_var.clamp(min=0), new_count))
    return torch.where(elements > 0, committed, state)
