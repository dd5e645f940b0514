"""NumPy kernels for small tensors on the CPU: observing, and the gain of RSN with its gradient.

For the layer of an agent, starting an operation takes torch longer than computing it, and NumPy starts
operations several times faster. Each kernel computes what the function of the same name in
``functional.py`` or ``sample_gain.py`` does; ``dispatch.py`` chooses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from rn_rl.normalization.functional import (
    COUNT,
    DENSITY,
    ELEMENTS,
    LEAST_GAIN,
    LOG_MASS,
    MEAN,
    MOST_GAIN,
    PHASES,
    SMALLEST_EXPONENT,
    SUM,
    SUM_SQUARES,
    VAR,
    code_length,
    finite,
    per_feature,
)

FAR = 1e30
"""Sum of squares above which a later product may overflow."""

DENSE = {np.dtype(np.float32): 1e-20, np.dtype(np.float64): 1e-250}
"""Sum of densities above which terms lost to underflow do not matter, by precision."""


def observe(x: np.ndarray, state: np.ndarray, weight: np.ndarray | None = None) -> np.ndarray:
    """See :func:`rn_rl.normalization.functional.observe`.

    The two fast kernels cover data near the history without weights. Others need
    ``np.errstate``, which takes as long as an operation.
    """
    if weight is None:
        fast = (_observe_layer if state.shape[1] == 1 else _observe_neurons)(x, state)
        if fast is not None:
            return fast
    with np.errstate(all="ignore"):
        sums, squares, total = _moments(x, state[MEAN], weight)
        squares *= (-0.5 / state[VAR]).astype(squares.dtype)
        return _packed((*sums, total(np.exp(squares, out=squares))), state[MEAN])


def observe_moments(
    x: np.ndarray, mean: np.ndarray, weight: np.ndarray | None = None
) -> np.ndarray:
    """See :func:`rn_rl.normalization.functional.observe_moments`."""
    with np.errstate(all="ignore"):
        sums, _, _ = _moments(x, mean, weight)
        return _packed(sums, mean)


def _observe_layer(x: np.ndarray, state: np.ndarray) -> np.ndarray | None:
    """:func:`observe` for one code, without weights; None where numbers could overflow."""
    d = x.reshape(-1) - state.item(MEAN)
    squares = np.vdot(d, d)  # gives no warning
    if not squares < FAR:
        return None
    ones = _ones(d.size, d.dtype)
    first = np.dot(ones, d)
    d *= d
    d *= -0.5 / state.item(VAR)
    sums = np.empty((4, 1), state.dtype)
    sums[:, 0] = d.size, first, squares, np.dot(ones, np.exp(d, out=d))
    return sums


def _observe_neurons(x: np.ndarray, state: np.ndarray) -> np.ndarray | None:
    """:func:`observe` for one code per neuron, without weights; None where numbers could overflow."""
    rows = per_feature(x)
    mean, var = state[:COUNT].astype(rows.dtype, copy=False)
    d = rows - mean
    every = d.reshape(-1)
    if not np.vdot(every, every) < FAR:
        return None
    ones = _ones(rows.shape[0], rows.dtype)
    sums = np.empty((4, rows.shape[1]), state.dtype)
    sums[ELEMENTS] = rows.shape[0]
    sums[SUM] = np.dot(ones, d)
    d *= d
    sums[SUM_SQUARES] = np.dot(ones, d)
    d *= -0.5 / var
    sums[DENSITY] = np.dot(ones, np.exp(d, out=d))
    return sums


@lru_cache(maxsize=8)
def _ones(size: int, dtype: np.dtype) -> np.ndarray:
    """A read-only vector of ones: a dot product with it is faster than ``sum``."""
    ones = np.ones(size, dtype)
    ones.flags.writeable = False
    return ones


def _moments(
    x: np.ndarray, mean: np.ndarray, weight: np.ndarray | None
) -> tuple[tuple[Any, Any, Any], np.ndarray, Callable[[np.ndarray], Any]]:
    """The same as in ``functional.py``, with a mean of shape ``(F,)``; sums broadcast to that."""
    one_code = len(mean) == 1
    rows = x.reshape(x.shape[0], math.prod(x.shape[1:])) if one_code else per_feature(x)
    count = rows.shape[0] * (rows.shape[1] if one_code else 1)
    if weight is None:
        w = _ones(rows.shape[0], rows.dtype)
    else:
        samples = max(1, len(weight))
        count = weight.sum(dtype=np.float64) * (count // samples)
        w = np.repeat(weight, rows.shape[0] // samples).astype(rows.dtype, copy=False)

    def total(values: np.ndarray) -> Any:
        columns = w @ values
        return np.add.reduce(columns) if one_code else columns

    d = rows - mean.astype(rows.dtype, copy=False)
    first = total(d)
    d *= d
    return (count, first, total(d)), d, total


def _packed(sums: tuple[Any, ...], mean: np.ndarray) -> np.ndarray:
    """Sums as rows in the dtype of a mean ``(F,)``; zeros for codes that are not finite."""
    array = np.empty((len(sums), len(mean)), mean.dtype)
    for row, values in enumerate(sums):
        array[row] = values
    return finite(array)


def sample_gain_and_slope(
    x: np.ndarray, state: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Gain of each sample and its derivative by x, as two factors, under the frozen state.

    The derivative is ``dL/dx_j = softmax_j(-z**2 / 2) z_j / sigma``, and 0 where L or all exponents are
    cut off. The numbers are those of autograd through ``sample_gain``.

    Args:
        x: ``(batch, features)``, float32 or float64.
        state: ``(6, 1)``.

    Returns:
        The gain in nats, ``(batch, 1)``; ``exp(-z**2 / 2) (x - mean)``, ``(batch, features)``; and what
        to multiply that by, ``(batch, 1)``.
    """
    d = x - state.item(MEAN)
    every = d.reshape(-1)
    if np.vdot(every, every) < FAR:
        return _gain_and_slope_at(d, state)
    with np.errstate(all="ignore"):
        return _gain_and_slope_at(d, state)


def _gain_and_slope_at(
    d: np.ndarray, state: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """:func:`sample_gain_and_slope` from the distances ``d = x - mean``."""
    var, log_mass, phases = state.item(VAR), state.item(LOG_MASS), state.item(PHASES)
    ones = _ones(d.shape[1], d.dtype)[:, None]
    nearest: Any = None
    density = d * d
    density *= -0.5 / var
    total = np.exp(density, out=density) @ ones
    if not np.minimum.reduce(total, None, initial=1) > DENSE[d.dtype]:
        # some sample is far from the history: shift exponents by the largest, as logsumexp does
        exponents = np.clip(d * d * (-0.5 / var), SMALLEST_EXPONENT, None)
        nearest = exponents.max(1, keepdims=True)
        density = np.exp(exponents - nearest)
        total = density @ ones
    density *= d
    if phases <= 1:
        return np.ones_like(total), density, np.zeros_like(total)
    log_density = np.log(total / d.shape[1])
    if nearest is not None:
        log_density += nearest
    length = code_length(np.asarray(log_mass, log_density.dtype), log_density)
    total *= var
    factor = np.reciprocal(total, out=total)
    if nearest is None and length.max(initial=1) < MOST_GAIN and length.min(initial=1) > LEAST_GAIN:
        return length, density, factor
    followed = (length > LEAST_GAIN) & (length < MOST_GAIN)
    if nearest is not None:
        followed &= nearest > SMALLEST_EXPONENT
    return np.clip(length, LEAST_GAIN, MOST_GAIN), density, followed * factor
