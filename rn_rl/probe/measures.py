"""Measures of a layer: dead and dormant units, effective rank, the code length that is expected."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

DORMANT = 0.025
"""Share of the layer's mean activity below which a unit counts as dormant."""

RANK_ROWS = 64
"""Samples on which the effective rank is measured."""

MOST_GRAM = 64**3
"""Products of a Gram matrix up to which NumPy computes it in one thread."""


def dead_share(alive: np.ndarray) -> np.ndarray:
    """Share of the units that were never above 0 in the phase, over the last axis."""
    return 1 - np.count_nonzero(alive, axis=-1) / alive.shape[-1]


def dormant_share(size: np.ndarray) -> np.ndarray:
    """Share of the units below :data:`DORMANT` of the layer's mean activity (Sokar et al., 2023)."""
    total = np.add.reduce(size, -1, keepdims=True)
    low: np.ndarray = size <= DORMANT / size.shape[-1] * total
    return np.count_nonzero(low, axis=-1) / size.shape[-1]


def rank_of(x: np.ndarray) -> float:
    """:func:`effective_rank` of rows ``(rows, features)``, in NumPy where both are few."""
    rows, features = x.shape
    if rows > RANK_ROWS or min(rows, features) ** 2 * max(rows, features) > MOST_GRAM:
        return effective_rank(torch.from_numpy(x)[None, None]).item()
    ones = np.ones(rows, x.dtype)
    rest = x - (ones @ x) / rows
    # both have the same spectrum, but for zeros
    gram = rest @ rest.T if rows <= features else rest.T @ rest
    every, each = gram.reshape(-1), rest.reshape(-1)
    square, total = np.dot(every, every).item(), np.dot(each, each).item()
    return total * total / square if square > 0 else math.nan


def effective_rank(x: Tensor) -> Tensor:
    """Participation ratio ``tr(G)^2 / tr(G^2)`` of the centred rows, between 1 and their number.

    G is the Gram matrix of at most 64 rows; the ratio is the number of directions over which the
    variance would be spread if it were equal in them.

    Args:
        x: ``(networks, steps, rows, features)``.

    Returns:
        ``(networks, steps)``; NaN where all rows are equal.
    """
    x = x[:, :, :: max(1, -(-x.shape[2] // RANK_ROWS))]
    # not in NumPy, which starts threads for a product of this size, and these cost more than it
    with torch.autocast(x.device.type, enabled=False):
        rest = x - x.mean(2, keepdim=True)
        wide = x.shape[2] <= x.shape[3]
        gram = rest @ rest.transpose(2, 3) if wide else rest.transpose(2, 3) @ rest
        return rest.square().sum((2, 3)).square() / gram.square().sum((2, 3))


def baselines(commits: np.ndarray, decay: float) -> np.ndarray:
    """:func:`baseline` of each number of commits."""
    if not commits.size or (commits == commits.flat[0]).all():
        return np.asarray(baseline(int(commits.flat[0]) if commits.size else 0, decay))
    numbers, of = np.unique(commits, return_inverse=True)
    each = np.array([baseline(int(n), decay) for n in numbers])
    found: np.ndarray = each[of].reshape(commits.shape)
    return found


def baseline(commits: int, decay: float = 1.0) -> float:
    """Code length in nats of stationary data after so many commits.

    ``log b`` with b = e at the second commit and ``b <- decay * b + 1`` from then on; without decay
    that is ``log(t + e - 1)`` with ``t = commits - 1``.
    """
    if commits < 2:
        return 1.0
    later = commits - 2
    if decay >= 1:
        return math.log(later + math.e)
    share = decay**later
    return math.log(share * math.e + (1 - share) / (1 - decay))


def explained_code(shift: np.ndarray, ratio: np.ndarray, decay: float = 1.0) -> np.ndarray:
    """Residual code length that follows from the two numbers m and v alone, for Gaussian activity.

    The mean density of a phase is ``S = exp(-m^2 / (2 (1 + v))) / sqrt(1 + v)`` with m the shift of the
    mean in standard deviations of the history and v the ratio of the variances; the code mass then
    follows as in :func:`rn_rl.normalization.functional.commit`.

    Args:
        shift: m of each phase from the second on, ``(phases, ...)``.
        ratio: v of the same.
        decay: factor of a phase on the code mass.

    Returns:
        Residuals of the same shape.
    """
    log_density = -(shift**2) / (2 * (1 + ratio)) - np.log1p(ratio) / 2
    mass = log_density[:1] + 1
    residual = [np.zeros_like(log_density[0])] if len(log_density) else []
    current = mass[0] if len(log_density) else 0
    for t in range(1, len(log_density)):
        current = np.logaddexp(current + math.log(decay), log_density[t])
        residual.append(current - log_density[t] - baseline(t + 2, decay))
    return np.array(residual)
