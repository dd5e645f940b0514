"""Rows of a minibatch that are equal, so that a network is asked about each of them once.

A small gridworld shows the same few images again and again: of the 256 in a minibatch of PPO on
RedBlueDoors-6x6 about 120 differ.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import numpy as np
from torch import Tensor, nn

from rn_rl.normalization import phase_norms
from rn_rl.normalization.functional import step_of
from rn_rl.normalization.phase import set_within

MOST_SHARE = 0.75
"""Of the rows that may differ for it to pay."""

SIZE_MULTIPLE = 16
"""Numbers of distinct rows are rounded up to multiples of this, since each takes a recording."""


def row_ids(observations: np.ndarray) -> np.ndarray | None:
    """A number for each row, ``(seeds, rows)``, the same for equal rows of a seed.

    None for observations, ``(seeds, rows, ...)``, that are not integers: those are hardly ever equal.
    """
    if not np.issubdtype(observations.dtype, np.integer):
        return None
    seeds, rows = observations.shape[:2]
    flat = np.ascontiguousarray(observations).reshape(seeds, rows, -1)
    whole = flat.view(np.dtype((np.void, flat.shape[2] * flat.itemsize)))[:, :, 0]
    numbers = np.empty((seeds, rows), np.int64)
    for seed in range(seeds):
        _, numbers[seed] = np.unique(whole[seed], return_inverse=True)
    return numbers


def unique_rows(numbers: np.ndarray) -> tuple[np.ndarray, ...] | None:
    """Which rows of a minibatch to ask about; None where too many are.

    Args:
        numbers: ``(seeds, batch)`` of :func:`row_ids`.

    Returns:
        ``first`` ``(seeds, n)``, a row of the minibatch for each distinct one; ``where``
        ``(seeds, batch)``, the place of each row among those; ``counts`` ``(seeds, n)``, how many it
        stands for, 0 where a seed has fewer than n; and ``part``, how many among those of the
        minibatch that codes are measured on.
    """
    found = [np.unique(row, return_index=True, return_inverse=True) for row in numbers]
    size = max(len(values) for values, _, _ in found)
    size += -size % SIZE_MULTIPLE
    if size > MOST_SHARE * numbers.shape[1]:
        return None
    first = np.zeros((len(numbers), size), np.int64)
    counts, part = np.zeros((2, len(numbers), size), np.float32)
    where = np.stack([inverse for _, _, inverse in found])
    for seed, (values, places, inverse) in enumerate(found):
        first[seed, : len(values)] = places
        counts[seed] = np.bincount(inverse, minlength=size)
        part[seed] = np.bincount(inverse[:: step_of(len(inverse))], minlength=size)
    return first, where, counts, part


@contextlib.contextmanager
def weight_observations(network: nn.Module, counts: Tensor, part: Tensor) -> Iterator[None]:
    """Inside this context distinct rows are observed as often as those were that they stand for."""
    norms = phase_norms(network).values()
    with contextlib.ExitStack() as stack:
        for weights, partly in ((counts, False), (part, True)):
            these = [norm for norm in norms if norm.observes_part == partly]
            stack.enter_context(set_within(these, "observation_weight", weights))
        yield
