"""An array that grows row by row in one block of memory."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


class GrowingArray:
    """Rows of one shape and type, appended one after the other at a constant amortized cost.

    Records of every phase are kept in it rather than in a list of small arrays: those would lie
    among the large blocks that an update takes and gives back, and the C library could reuse the
    gaps between them less and less. A long training lost gigabytes so.

    Args:
        rows: First rows, ``(n, ...)``.
    """

    def __init__(self, rows: np.ndarray | Sequence[np.ndarray] = ()) -> None:
        self._block = np.array(rows)
        self._count = len(rows)

    def __len__(self) -> int:
        return self._count

    def append(self, row: np.ndarray) -> None:
        """Copy a row to the end; a full block is replaced by one twice as long."""
        if self._count == len(self._block):
            block = np.empty((max(2 * self._count, 64), *row.shape), row.dtype)
            if self._count:
                block[: self._count] = self._block
            self._block = block
        self._block[self._count] = row
        self._count += 1

    @property
    def array(self) -> np.ndarray:
        """All rows, ``(n, ...)``: a view, valid until the next :meth:`append`."""
        return self._block[: self._count]
