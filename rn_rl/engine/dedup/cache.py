"""Cache of network outputs for observations that recur while the networks stay unchanged."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class InferenceCache:
    """Outputs of the networks of all seeds, computed once per observation and seed until :meth:`clear`.

    In a rollout of RedBlueDoors-6x6 each seed meets about 220 different images in 2,048 observations.

    Args:
        infer: maps observations ``(S, n, ...)`` to a tuple of arrays ``(S, n, ...)``. It is called with n
            a power of two, so that few shapes are traced.
        seeds: number of seeds, S.
        capacity: largest number of different observations per seed between two calls of :meth:`clear`.
    """

    def __init__(
        self, infer: Callable[[np.ndarray], tuple[np.ndarray, ...]], seeds: int, capacity: int
    ) -> None:
        self.infer = infer
        self.capacity = capacity
        self.seeds = np.arange(seeds)[:, None]
        self.slots: list[dict[bytes, int]] = [{} for _ in range(seeds)]
        """For each seed, the observations in the cache and their index in ``outputs``."""
        self.outputs: list[np.ndarray] = []
        """Cached outputs, ``(S, capacity + 1, ...)`` each; the last index receives padding."""

    def clear(self) -> None:
        """Remove all entries, since the networks have changed."""
        for slots in self.slots:
            slots.clear()

    def __call__(self, observations: np.ndarray) -> list[np.ndarray]:
        """Return the outputs for observations ``(S, n, ...)``, arrays ``(S, n, ...)``."""
        index = np.empty(observations.shape[:2], np.int64)
        missing: list[dict[int, int]] = []  # for each seed, row to slot
        for row, seed_observations, slots in zip(index, observations, self.slots, strict=True):
            added = {}
            for i, observation in enumerate(seed_observations):
                key = observation.tobytes()
                if key not in slots:
                    slots[key] = added[i] = len(slots)
                row[i] = slots[key]
            missing.append(added)
        most = max(map(len, missing))
        if most:
            size = 1 << (most - 1).bit_length()
            rows = np.zeros((len(missing), size), np.int64)
            targets = np.full((len(missing), size), self.capacity)
            for i, added in enumerate(missing):
                rows[i, : len(added)] = list(added)
                targets[i, : len(added)] = list(added.values())
            self._store(targets, self.infer(observations[self.seeds, rows]))
        return [output[self.seeds, index] for output in self.outputs]

    def _store(self, targets: np.ndarray, results: tuple[np.ndarray, ...]) -> None:
        """Write results ``(S, n, ...)`` to the indices ``targets``, ``(S, n)``, of the outputs."""
        if not self.outputs:
            shape = len(self.slots), self.capacity + 1
            self.outputs = [np.zeros((*shape, *r.shape[2:]), r.dtype) for r in results]
        for output, result in zip(self.outputs, results, strict=True):
            output[self.seeds, targets] = result
