"""Equal rows of a minibatch, so that each distinct row passes through the network once.

A small gridworld shows the same few images again and again: of the 256 rows in a minibatch of PPO on
RedBlueDoors-6x6 about 120 are distinct.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor, nn

from rn_rl.normalization import phase_norms
from rn_rl.normalization.functional import step_of
from rn_rl.normalization.phase import set_within

MAX_UNIQUE_FRACTION = 0.75
"""Largest fraction of distinct rows for which deduplication pays."""

SIZE_MULTIPLE = 16
"""Numbers of distinct rows are rounded up to multiples of this, since each shape is traced anew."""


class UniqueRows(NamedTuple):
    """The distinct rows of minibatches of S seeds, padded to n rows each."""

    first: Any
    """``(S, n)``: index in the minibatch of one row of each kind."""
    inverse: Any
    """``(S, batch)``: index of each row of the minibatch among the distinct ones."""
    counts: Any
    """``(S, n)``, float32: number of rows of each kind; 0 for padding."""
    subsample_counts: Any
    """``(S, n)``, float32: the same among the rows that
    :func:`~rn_rl.normalization.functional.observed` selects."""


def row_ids(observations: np.ndarray) -> np.ndarray | None:
    """Number the distinct rows of each seed.

    Args:
        observations: ``(S, rows, ...)``.

    Returns:
        ``(S, rows)``, int64, equal where rows of a seed are equal; None if the observations are not
        integers, since floats are hardly ever equal.
    """
    if not np.issubdtype(observations.dtype, np.integer):
        return None
    seeds, rows = observations.shape[:2]
    flat = np.ascontiguousarray(observations).reshape(seeds, rows, -1)
    keys = flat.view(np.dtype((np.void, flat.shape[2] * flat.itemsize)))[:, :, 0]
    ids = np.empty((seeds, rows), np.int64)
    for seed in range(seeds):
        _, ids[seed] = np.unique(keys[seed], return_inverse=True)
    return ids


def unique_rows(ids: np.ndarray) -> UniqueRows | None:
    """Find the distinct rows of a minibatch.

    Args:
        ids: ``(S, batch)``, from :func:`row_ids`.

    Returns:
        None if more than ``MAX_UNIQUE_FRACTION`` of the rows are distinct.
    """
    found = [np.unique(row, return_index=True, return_inverse=True) for row in ids]
    size = max(len(values) for values, _, _ in found)
    size += -size % SIZE_MULTIPLE
    if size > MAX_UNIQUE_FRACTION * ids.shape[1]:
        return None
    first = np.zeros((len(ids), size), np.int64)
    counts, subsample_counts = np.zeros((2, len(ids), size), np.float32)
    inverses = np.stack([inverse for _, _, inverse in found])
    for seed, (values, indices, inverse) in enumerate(found):
        first[seed, : len(values)] = indices
        counts[seed] = np.bincount(inverse, minlength=size)
        subsample = inverse[:: step_of(len(inverse))]
        subsample_counts[seed] = np.bincount(subsample, minlength=size)
    return UniqueRows(first, inverses, counts, subsample_counts)


@contextlib.contextmanager
def weight_observations(
    network: nn.Module, counts: Tensor, subsample_counts: Tensor
) -> Iterator[None]:
    """Weight each distinct row by its count in the statistics of normalizers, inside this context.

    Args:
        network: its normalizers are given the weights.
        counts: ``(n,)``, of one seed, see :class:`UniqueRows`.
        subsample_counts: likewise, for normalizers that observe a subsample of a large batch.
    """
    norms = phase_norms(network).values()
    with contextlib.ExitStack() as stack:
        for weights, subsampled in ((counts, False), (subsample_counts, True)):
            chosen = [norm for norm in norms if norm.observes_part == subsampled]
            stack.enter_context(set_within(chosen, "observation_weight", weights))
        yield
