"""The choice between NumPy (small tensors on the CPU) and torch (all others)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from rn_rl.normalization import _numpy, functional

SMALL = 2**16
"""Number of elements up to which NumPy is faster than torch on the CPU."""


def as_arrays(*tensors: Tensor) -> list[np.ndarray] | None:
    """Views of tensors as arrays; None where torch has to compute.

    That is on other devices, under ``torch.compile`` and ``torch.jit.trace``, and in the transforms of
    ``torch.func``.
    """
    # a trace would hold arrays as constants
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or not tensors[0].is_cpu:
        return None
    try:
        return [t.numpy() for t in tensors]
    except (RuntimeError, TypeError):
        return None


def accumulate(pending: Tensor, x: Tensor, state: Tensor, weight: Tensor | None = None) -> None:
    """Add :func:`~rn_rl.normalization.functional.observe` of a batch to the pending sums, in place."""
    _add(functional.observe, _numpy.observe, pending, x, state, weight)


def accumulate_moments(
    pending: Tensor, x: Tensor, mean: Tensor, weight: Tensor | None = None
) -> None:
    """Add :func:`~rn_rl.normalization.functional.observe_moments` to the pending sums, in place."""
    _add(functional.observe_moments, _numpy.observe_moments, pending, x, mean, weight)


def _add(
    in_torch: Callable[[Tensor, Tensor, Tensor | None], Tensor],
    in_numpy: Callable[[np.ndarray, np.ndarray, np.ndarray | None], np.ndarray],
    pending: Tensor,
    x: Tensor,
    state: Tensor,
    weight: Tensor | None,
) -> None:
    values = functional.wide(x)
    weights = () if weight is None else (weight.detach(),)
    arrays = as_arrays(pending, state, values, *weights)
    if arrays is None or values.numel() > SMALL:
        pending.add_(in_torch(values, state, weight))
    else:
        sums, before, small, *given = arrays
        sums += in_numpy(small, before, given[0] if given else None)


def commit(state: Tensor, pending: Tensor, decay: float, eps: float) -> Tensor:
    """:func:`~rn_rl.normalization.functional.commit`, in NumPy on the CPU; pure."""
    arrays = as_arrays(state, pending)
    if arrays is None:
        return functional.commit(state, pending, decay, eps)
    # columns with nothing pending divide by 0 here and keep their state
    with np.errstate(all="ignore"):
        return torch.from_numpy(functional.commit(arrays[0], arrays[1], decay, eps))
