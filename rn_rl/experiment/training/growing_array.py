"""Arrays of one shape, kept one after the other in one block of memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class Rows:
    """What is recorded at every phase of a training.

    A list of small arrays would leave one of them, phase for phase, among the large blocks that an
    update takes and gives back, and the C library could fit the next large one less and less between
    them: gigabytes in a long run.

    Args:
        rows: to begin with.
    """

    def __init__(self, rows: np.ndarray | Sequence[np.ndarray] = ()) -> None:
        self._block = np.array(rows)
        self._count = len(rows)

    def __len__(self) -> int:
        return self._count

    def append(self, row: np.ndarray) -> None:
        """Copy a row; the block doubles when it is full."""
        if self._count == len(self._block):
            block = np.empty((max(2 * self._count, 64), *row.shape), row.dtype)
            if self._count:
                block[: self._count] = self._block
            self._block = block
        self._block[self._count] = row
        self._count += 1

    @property
    def array(self) -> np.ndarray:
        """All rows, ``(rows, ...)``: a view, so copy what is to be kept."""
        return self._block[: self._count]
