"""Random number streams: one generator for each seed and purpose."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch


class Streams:
    """Uniform random numbers of many seeds, each seed with its own generator.

    The numbers of a seed depend on the seed and the purpose alone: not on the other seeds, their order,
    or what is drawn for other purposes. They are drawn in blocks, since one call of a generator for each
    seed and step would take longer than the rest of acting.

    Args:
        seeds: seed of each generator.
        purpose: name such as ``"exploration"``, from which the generators are seeded too.
        shape: shape of the numbers that :meth:`draw` returns for each seed.
    """

    BLOCK = 8192
    """Approximate number of random numbers of a block, for each seed."""

    def __init__(self, seeds: Sequence[int], purpose: str, shape: tuple[int, ...]) -> None:
        key = zlib.crc32(purpose.encode())
        self.generators = [np.random.Generator(np.random.PCG64([seed, key])) for seed in seeds]
        self.shape = shape
        self.rows = max(self.BLOCK // max(int(np.prod(shape)), 1), 1)
        """Number of draws of a block."""
        self._block = np.empty((self.rows, len(self.generators), *shape))
        self._fill()

    def draw(self) -> np.ndarray:
        """Return the next numbers in [0, 1), ``(seeds, *shape)``: a view, overwritten by later draws."""
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

    def keep(self, seeds: Sequence[int]) -> None:
        """Go on with the generators of some seeds, given by number, in their present state."""
        self.generators = [self.generators[seed] for seed in seeds]
        self._states = [self._states[seed] for seed in seeds]
        self._block = self._block[:, seeds]

    def state(self, seed: int) -> dict[str, Any]:
        """Return one seed's state as plain (JSON) data."""
        return {"state": self._states[seed], "used": self.used}

    def restore(self, states: Sequence[dict[str, Any]]) -> None:
        """Load the :meth:`state` of every seed."""
        for generator, stored in zip(self.generators, states, strict=True):
            generator.bit_generator.state = stored["state"]
        self._fill()
        self.used = int(states[0]["used"])


def explore(
    greedy: np.ndarray, uniform: np.ndarray, rate: float | np.ndarray, actions: int
) -> np.ndarray:
    """Replace greedy actions by random ones with probability ``rate``, by one random number for each.

    Args:
        greedy: actions, ``(seeds, n)``.
        uniform: random numbers in [0, 1), ``(seeds, n)``. Below ``rate``, where in [0, ``rate``) the
            number lies says which action is taken.
        rate: epsilon, of all seeds or ``(seeds, 1)``.
        actions: number of actions.
    """
    choice = np.minimum(uniform / np.maximum(rate, 1e-12), 1 - 1e-12)
    return np.where(uniform < rate, (choice * actions).astype(np.int64), greedy)


def gaussian(uniform: np.ndarray) -> np.ndarray:
    """Return standard normal numbers from uniform ones in [0, 1), by the inverse distribution."""
    tiny = float(np.finfo(np.float32).eps)
    normal: np.ndarray = torch.special.ndtri(
        torch.from_numpy(uniform).clamp(tiny, 1 - tiny)
    ).numpy()
    return normal
