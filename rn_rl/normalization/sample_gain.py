"""The code length of each sample, with gradient: the gain of ``axis="sample"`` (RSN)."""

from __future__ import annotations

import math
import sys
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rn_rl.normalization.functional import (
    FAR,
    LOG_MASS,
    MEAN,
    PHASES,
    VAR,
    WIDE,
    as_arrays,
    code_length,
    ones_of,
)

MOST_CODED = 64
"""Elements of one sample that its code length is measured on at most."""


def coded(features: int) -> slice:
    """The elements of a sample that its code length is measured on: every k-th, at most 64.

    No k that divides their number, since those of an image lie in rows: it would see a column or two.
    """
    if features <= MOST_CODED:
        return slice(None)
    step = -(-features // MOST_CODED)
    while math.gcd(step, features) > 1:
        step += 1
    return slice(None, None, step)


def sample_gain(x: Tensor, state: Tensor) -> Tensor:
    """Code length of every sample under the frozen state: the gain of ``axis="sample"``.

    Formula: ``L_i = log M - log mean_j exp(-z_ij**2 / 2)``, at least 0, and 1 before there is code
    mass; j is over all elements of the sample, or over at most 64 of them (:func:`coded`). It depends
    on the sample and the state alone, so the batch does not matter; gradients flow through it.

    Args:
        x: ``(batch, features, ...)``.
        state: ``(6, 1)``.

    Returns:
        ``(batch, 1, ...)`` in nats, of x's dtype (computed in float32 or better).
    """
    rows = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(1)
    gain, _, _ = _sample_code(rows[:, coded(rows.shape[1])], state)
    return gain.to(x.dtype).reshape((-1,) + (1,) * (x.dim() - 1))


def times_sample_gain(x: Tensor, state: Tensor) -> Tensor:
    """``x * sample_gain(x, state)``; on the CPU with its gradient in closed form, which is faster."""
    learning = x.requires_grad and torch.is_grad_enabled()
    rows = x
    if x.dim() != 2 or x.dtype not in WIDE:
        rows = x.to(torch.promote_types(x.dtype, torch.float32)).flatten(1)
    arrays = as_arrays(rows.detach(), state) if learning else None
    if arrays is None:
        return x * sample_gain(x, state)
    y: Tensor = _TimesSampleGain.apply(rows, state, *arrays)
    return y if rows is x else y.reshape(x.shape).to(x.dtype)


class _TimesSampleGain(torch.autograd.Function):
    """For ``(batch, features)`` of float32 or better, on the CPU, and both as arrays too."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, state: Tensor, rows: np.ndarray, frozen: np.ndarray) -> Tensor:
        found = _gain_and_slope(rows[:, coded(rows.shape[1])], frozen)
        gain, density, factor = map(torch.from_numpy, found)
        ctx.save_for_backward(x, state, gain, density, factor)
        return x * gain

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, state, gain, slope, factor = ctx.saved_tensors
        some = coded(x.shape[1])
        if torch.is_grad_enabled():  # somebody wants the second derivative
            gain, z, share = _sample_code(x[:, some], state)
            slope = share * z * torch.where(gain > 0, state[VAR].to(x.dtype).rsqrt(), 0)
            factor = torch.where(state[PHASES] > 1, (grad * x).sum(1, keepdim=True), 0)
        else:
            factor = factor * torch.from_numpy(np.vecdot(grad.numpy(), x.numpy())).unsqueeze(1)
        out = grad * gain
        (out if some == slice(None) else out[:, some]).addcmul_(factor, slope)
        return out, None, None, None


SMALLEST_EXPONENT = math.log(sys.float_info.min)
"""As far as the code lengths of rn go."""


def _sample_code(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """For ``(batch, features)``: the gain, ``(batch, 1)``, z, and the softmax of ``-z**2 / 2``."""
    mean, var, log_mass, phases = (state[i].to(x.dtype) for i in (MEAN, VAR, LOG_MASS, PHASES))
    z = (x - mean) * var.rsqrt()
    exponent = (-0.5 * z * z).clamp(min=SMALLEST_EXPONENT)
    log_density = exponent.logsumexp(1, keepdim=True) - math.log(x.shape[1])
    length = code_length(log_mass, log_density).clamp(min=0)
    return torch.where(phases > 1, length, 1), z, exponent.softmax(1)


DENSE = {np.dtype(np.float32): 1e-20, np.dtype(np.float64): 1e-250}
"""Sums of densities above which none that is lost to underflow matters."""


def _gain_and_slope(x: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For ``(batch, features)``: the gain of each sample, and its derivative by x as two factors.

    Gain ``(batch, 1)``, ``exp(-z**2 / 2) (x - mean)`` ``(batch, features)`` and what that is to be
    multiplied by, ``(batch, 1)``: ``dL/dx_j = softmax_j(-z**2 / 2) z_j / sigma``, and 0 where L or all
    exponents are cut off. The same numbers as :func:`_sample_code`; autograd cannot follow.
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
    """The same for distances from the mean."""
    var, log_mass, phases = state.item(VAR), state.item(LOG_MASS), state.item(PHASES)
    ones = ones_of(d.shape[1], d.dtype)[:, None]
    nearest: Any = None
    density = d * d
    density *= -0.5 / var
    total = np.exp(density, out=density) @ ones
    if not np.minimum.reduce(total, None, initial=1) > DENSE[d.dtype]:  # far from all that was seen
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
    length = np.maximum(code_length(log_mass, log_density), 0)
    followed = length > 0
    if nearest is not None:
        followed &= nearest > SMALLEST_EXPONENT
    return length, density, followed / (total * var)
