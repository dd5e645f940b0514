"""Code length of each sample with its gradient: the gain of ``axis="sample"`` (RSN)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from rn_rl.normalization._numpy import sample_gain_and_slope
from rn_rl.normalization.dispatch import as_arrays
from rn_rl.normalization.functional import (
    LEAST_GAIN,
    LOG_MASS,
    MEAN,
    MOST_GAIN,
    PHASES,
    SMALLEST_EXPONENT,
    VAR,
    WIDE,
    code_length,
)

MOST_CODED = 64
"""Largest number of elements of one sample that its code length is computed from."""


def coded(features: int) -> slice:
    """Slice of the elements of a sample that its code length is computed from: every k-th, at most 64.

    k is coprime to the number of elements, so that it visits all columns of an image and not a few.

    Args:
        features: number of elements of one sample.
    """
    if features <= MOST_CODED:
        return slice(None)
    step = -(-features // MOST_CODED)
    while math.gcd(step, features) > 1:
        step += 1
    return slice(None, None, step)


def sample_gain(x: Tensor, state: Tensor) -> Tensor:
    """Code length of every sample under the frozen state: the gain of ``axis="sample"``.

    Formula: ``L_i = log M - log mean_j exp(-z_ij**2 / 2)``, in the range 0.1 to 100 (where it is cut
    off, no gradient flows through it), and 1 until the second commit;
    j is over all elements of the sample, or over at most 64 of them (:func:`coded`). It depends on the
    sample and the state, not on the rest of the batch. Gradients flow through it.

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
    """Compute ``x * sample_gain(x, state)``; on the CPU with a closed-form gradient, which is faster.

    Args:
        x: ``(batch, features, ...)``.
        state: ``(6, 1)``.
    """
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
    """``x * gain`` with its gradient, for x ``(batch, features)`` in float32 or float64 on the CPU.

    ``rows`` and ``frozen`` are NumPy views of x and the state.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, state: Tensor, rows: np.ndarray, frozen: np.ndarray) -> Tensor:
        found = sample_gain_and_slope(rows[:, coded(rows.shape[1])], frozen)
        gain, density, factor = map(torch.from_numpy, found)
        ctx.save_for_backward(x, state, gain, density, factor)
        return x * gain

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        x, state, gain, slope, factor = ctx.saved_tensors
        some = coded(x.shape[1])
        if torch.is_grad_enabled():
            # for second derivatives: the same in operations that autograd follows
            gain, z, share = _sample_code(x[:, some], state)
            followed = (gain > LEAST_GAIN) & (gain < MOST_GAIN)
            slope = share * z * torch.where(followed, state[VAR].to(x.dtype).rsqrt(), 0)
            factor = torch.where(state[PHASES] > 1, (grad * x).sum(1, keepdim=True), 0)
        else:
            factor = factor * torch.from_numpy(np.vecdot(grad.numpy(), x.numpy())).unsqueeze(1)
        out = grad * gain
        (out if some == slice(None) else out[:, some]).addcmul_(factor, slope)
        return out, None, None, None


def _sample_code(x: Tensor, state: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gain ``(batch, 1)``, z, and the softmax of ``-z**2 / 2``, for x ``(batch, features)``."""
    mean, var, log_mass, phases = (state[i].to(x.dtype) for i in (MEAN, VAR, LOG_MASS, PHASES))
    z = (x - mean) * var.rsqrt()
    exponent = (-0.5 * z * z).clamp(min=SMALLEST_EXPONENT)
    log_density = exponent.logsumexp(1, keepdim=True) - math.log(x.shape[1])
    length = code_length(log_mass, log_density).clamp(LEAST_GAIN, MOST_GAIN)
    return torch.where(phases > 1, length, 1), z, exponent.softmax(1)
