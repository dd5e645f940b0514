"""Random numbers that belong to a seed and a purpose, and to nothing else."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np


class Streams:
    """Uniform random numbers of many seeds, each from a generator of its own.

    What a seed draws does not depend on which other seeds there are, nor on their order, nor on what is
    drawn for another purpose. Numbers are drawn in blocks, as a call for each seed and step would cost
    more than the rest of acting.

    Args:
        seeds: one generator each.
        purpose: such as ``"exploration"``.
        shape: of what a seed draws at once.
    """

    BLOCK = 8192
    """Numbers of a seed that are drawn at once, about."""

    def __init__(self, seeds: Sequence[int], purpose: str, shape: tuple[int, ...]) -> None:
        key = zlib.crc32(purpose.encode())
        self.generators = [np.random.Generator(np.random.PCG64([seed, key])) for seed in seeds]
        self.shape = shape
        self.rows = max(self.BLOCK // max(int(np.prod(shape)), 1), 1)
        self._block = np.empty((self.rows, len(self.generators), *shape))
        self._fill()

    def draw(self) -> np.ndarray:
        """The next numbers in [0, 1) of every seed, ``(seeds, *shape)``; not to be kept."""
        if self.used == self.rows:
            self._fill()
        self.used += 1
        row: np.ndarray = self._block[self.used - 1]
        return row

    def _fill(self) -> None:
        self.used = 0
        self._states = [g.bit_generator.state for g in self.generators]
        for seed, generator in enumerate(self.generators):
            self._block[:, seed] = generator.random((self.rows, *self.shape))

    def state(self, seed: int) -> dict[str, Any]:
        """Plain data with which :meth:`restore` goes on where this seed stands."""
        return {"state": self._states[seed], "used": self.used}

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Continue from one state for each seed."""
        for generator, stored in zip(self.generators, states, strict=True):
            generator.bit_generator.state = stored["state"]
        self._fill()
        self.used = int(states[0]["used"])
