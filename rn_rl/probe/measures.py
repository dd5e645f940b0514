"""Measures of a layer: dead and dormant units, effective rank, the code length that is expected."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from rn_rl.normalization import dispatch

DORMANT = 0.025
"""Share of the layer's mean activity below which a unit counts as dormant."""

RANK_ROWS = 64
"""Samples on which the effective rank is measured."""


def dead_share(alive: np.ndarray, size: Tensor) -> np.ndarray:
    """Share of the units that were never above 0 in the phase, ``(networks, steps)``."""
    return 1 - alive.mean(2)


def dormant_share(alive: np.ndarray, size: Tensor) -> np.ndarray:
    """Share of the units below :data:`DORMANT` of the layer's mean activity (Sokar et al., 2023)."""
    sizes = size.cpu().numpy()
    share: np.ndarray = (sizes <= DORMANT * sizes.mean(2, keepdims=True)).mean(2)
    return share


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
    arrays = dispatch.as_arrays(x)
    if arrays is not None:
        with np.errstate(all="ignore"):
            rows = arrays[0] - arrays[0].mean(2, keepdims=True)
            gram = rows @ rows.swapaxes(2, 3)
            trace = np.trace(gram, axis1=2, axis2=3)
            return torch.from_numpy(np.asarray(trace**2 / np.square(gram).sum((2, 3))))
    with torch.autocast(x.device.type, enabled=False):
        rest = x - x.mean(2, keepdim=True)
        both = rest @ rest.transpose(2, 3)
        total = both.diagonal(dim1=2, dim2=3).sum(2)
        return total.square() / both.square().sum((2, 3))


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
