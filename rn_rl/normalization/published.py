"""The arithmetic exactly as published, kept for fidelity; see functional.py for the one to use.

Differences that matter in reinforcement learning: the state moves inside every training forward, the
density is *summed* over the batch, so the gain depends on the batch size (acting alone and learning
in a batch run different networks), and the density of x, not of z, makes it depend on scale.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from rn_rl.normalization.functional import LOG_SQRT_2PI, code_length

MEAN, STD, COUNT, LOG_MASS = range(4)
"""Rows of the published state, ``(4, F)``; mean, std and count repeat over F, as they are shared."""

MIN_STD = 1e-8
"""Constant activations have no density; the published code returns NaN there, this floor does not."""


def initial_state(num_codes: int) -> Tensor:
    """Nothing seen, and a code mass of 1 (its log, 0)."""
    return torch.zeros(4, num_codes, dtype=torch.float64)


def moments(x: Tensor, real: Tensor | None) -> tuple[Any, Tensor, Tensor]:
    """How many elements there are, their mean and their std; of those that are real."""
    if real is None:
        m = x.mean()
        return float(x.numel()), m, x.std() if x.numel() > 1 else torch.full_like(m, MIN_STD)
    k = real.sum().to(x.dtype)
    m = (x * real).sum() / k
    squares = ((x - m).square() * real).sum()
    return k, m, (squares / (k - 1).clamp(min=1)).clamp(min=MIN_STD**2).sqrt()


def merge(x: Tensor, state: Tensor, real: Tensor | None = None) -> Tensor:
    """Mean, std and count with this batch in them, ``(3,)``; differentiable in x.

    ``mu' = (n mu + k m) / (n + k)``; ``sigma'^2 = ((n-1) sigma^2 + (k-1) s^2) / (n + k - 2)``, which
    leaves out the between-batch term, as published. The first batch gives its own m and s.
    """
    n, mean, std = (state[i, 0].to(x.dtype) for i in (COUNT, MEAN, STD))
    k, m, s = moments(x, real)
    pooled = ((n - 1) * std.square() + (k - 1) * s.square()) / (n + k - 2).clamp(min=1)
    first = n == 0
    # sqrt has no finite slope at 0; the floor keeps the gradient of the branch not taken finite too
    pooled_std = torch.where(first, torch.ones_like(pooled), pooled).clamp(min=MIN_STD**2).sqrt()
    return torch.stack(
        (
            torch.where(first, m, (n * mean + k * m) / (n + k)),
            torch.where(first, s, pooled_std).clamp(min=MIN_STD),
            n + k,
        )
    )


def step(
    x: Tensor, state: Tensor, training: bool, real: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """One forward as published: ``(y, new state)``.

    ``y = L x`` with ``L = C' - log S``, ``log S = logsumexp(log N(x; mu', sigma'))`` over all
    elements (RN, state ``(4, 1)``) or over the batch (RLN, state ``(4, features)``), and
    ``C' = logaddexp(C, log S)``. Gradients flow through L and this batch's share of mu and sigma. In
    evaluation mu, sigma and C are frozen, but S is still the batch's.

    Args:
        x: ``(batch, features, ...)``.
        state: ``(4, codes)``.
        training: whether the state moves.
        real: ``(batch,)``, False for rows that nobody saw, the padding of sequences: they have no part
            in the statistics and the gain. What was published had no such rows.
    """
    per_neuron = state.shape[1] > 1
    shape = (1, -1) + (1,) * (x.dim() - 2)
    if real is not None:
        real = real.reshape((-1,) + (1,) * (x.dim() - 1)).expand_as(x)
    if training:
        mean, std, count = merge(x, state, real).unbind(0)
    else:
        mean, std, count = state[:3, 0].to(x.dtype).unbind(0)
        std = torch.where(count == 0, torch.ones_like(std), std)
    z = (x - mean) / std
    log_pdf = -0.5 * z * z - std.log() - LOG_SQRT_2PI
    if real is not None:
        log_pdf = log_pdf.masked_fill(~real, -torch.inf)
    over = [axis for axis in range(x.dim()) if not (per_neuron and axis == 1)]
    log_s = log_pdf.logsumexp(over).reshape(-1)
    log_mass = state[LOG_MASS].to(x.dtype)
    if training:
        log_mass = torch.logaddexp(log_mass, log_s)
        shared = torch.stack((mean, std, count))[:, None].expand(3, state.shape[1])
        state = torch.cat((shared, log_mass[None])).detach().to(state.dtype)
    return x * code_length(log_mass, log_s).reshape(shape), state
