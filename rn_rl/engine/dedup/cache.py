"""Answers to observations that come again while the networks stay as they are."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np


class InferenceCache:
    """The networks of all seeds, asked once about each observation until :meth:`clear`.

    In a rollout of RedBlueDoors-6x6 each seed meets some 220 images in 2,048 observations.

    Args:
        ask: from observations ``(S, n, ...)`` to arrays ``(S, n, ...)``; n is a power of two.
        seeds: S.
        capacity: observations of each seed until it forgets, at most.
    """

    def __init__(
        self, ask: Callable[[np.ndarray], tuple[np.ndarray, ...]], seeds: int, capacity: int
    ) -> None:
        self.ask = ask
        self.capacity = capacity
        self.seeds = np.arange(seeds)[:, None]
        self.numbers: list[dict[bytes, int]] = [{} for _ in range(seeds)]
        """For each seed, what has been asked about, and its place among the answers."""
        self.answers: list[np.ndarray] = []
        """``(S, capacity + 1, ...)`` each; the last place is for what nobody asked."""

    def clear(self) -> None:
        """The networks have changed."""
        for known in self.numbers:
            known.clear()

    def __call__(self, observations: np.ndarray) -> list[np.ndarray]:
        """Answers to observations ``(S, n, ...)``."""
        where = np.empty(observations.shape[:2], np.int64)
        new: list[dict[int, int]] = []
        for row, given, known in zip(where, observations, self.numbers, strict=True):
            added = {}
            for i, observation in enumerate(given):
                key = observation.tobytes()
                if key not in known:
                    known[key] = added[i] = len(known)
                row[i] = known[key]
            new.append(added)
        most = max(map(len, new))
        if most:
            size = 1 << (most - 1).bit_length()
            asked = np.zeros((len(new), size), np.int64)
            places = np.full((len(new), size), self.capacity)
            for i, added in enumerate(new):
                asked[i, : len(added)] = list(added)
                places[i, : len(added)] = list(added.values())
            self._keep(places, self.ask(observations[self.seeds, asked]))
        return [answer[self.seeds, where] for answer in self.answers]

    def _keep(self, places: np.ndarray, given: tuple[np.ndarray, ...]) -> None:
        if not self.answers:
            shape = len(self.numbers), self.capacity + 1
            self.answers = [np.zeros((*shape, *each.shape[2:]), each.dtype) for each in given]
        for answer, each in zip(self.answers, given, strict=True):
            answer[self.seeds, places] = each
