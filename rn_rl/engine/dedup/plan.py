"""What networks are asked about for a minibatch: of what repeats, once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rn_rl.engine.dedup.patches import PatchDeduplicator, Patches, PatchMode
from rn_rl.engine.dedup.positions import PositionContent, places, position_major
from rn_rl.engine.dedup.rows import row_ids, unique_rows
from rn_rl.engine.ensemble import ModuleStack


class DedupPlan:
    """Finds what repeats in the observations of a rollout and its minibatches.

    Rows that are equal are asked about once (:mod:`~rn_rl.engine.dedup.rows`), patches of images that are
    equal go through convolutions once (:mod:`~rn_rl.engine.dedup.patches`), and what lies at a place of
    several images goes through the next layers once (:mod:`~rn_rl.engine.dedup.positions`). The answers
    and their gradients are the same numbers.

    Args:
        stack: the networks.
        shape: of an observation.
        batch: rows of a minibatch.
        by_row: whether rows that are equal may be asked about once.
        readers: names of the weights that images go through after the convolutions.
        convolutions: those that the networks begin with, of ``stack.module``.
    """

    def __init__(
        self,
        stack: ModuleStack,
        shape: tuple[int, ...],
        batch: int,
        by_row: bool,
        readers: Sequence[str],
        convolutions: Sequence[nn.Conv2d] = (),
    ) -> None:
        self.stack = stack
        self.shape = shape
        self.readers = list(readers)
        self.device = stack.weights.device
        # a GPU computes what repeats faster than it is found
        on_cpu = self.device.type == "cpu"
        self.dedup_rows = on_cpu and by_row
        self.convolutions = list(convolutions) if on_cpu else []
        self.number_patches = PatchDeduplicator(self.convolutions, batch, self.device)

    def analyze_rollout(self, observations: np.ndarray) -> tuple[np.ndarray | None, Patches | None]:
        """Numbers of a rollout's observations, ``(seeds, rows, ...)``, and what patches they are of.

        None of either where it would not pay.
        """
        if not (self.dedup_rows or self.convolutions):
            return None, None
        numbers = row_ids(observations)
        if numbers is None or not self.convolutions:
            return numbers, None
        return numbers, self.number_patches(observations, numbers)

    def prepare_minibatch(
        self, observations: Tensor, numbers: np.ndarray | None, patches: Patches | None
    ) -> list[Tensor]:
        """What a program is given.

        Args:
            observations: ``(seeds, batch, ...)``, or contents of patches.
            numbers: ``(seeds, batch)`` of :func:`~rn_rl.engine.dedup.rows.row_ids`, or None.
            patches: of the rollout, or None.

        Returns:
            Observations or contents; of patches, how they are put together; and where rows are asked
            about once, what :func:`~rn_rl.engine.dedup.rows.unique_rows` says of them.
        """
        if numbers is None:
            return [observations]
        repeated: list[Tensor] = []
        seeds = torch.arange(len(numbers), device=self.device)[:, None]
        found = unique_rows(numbers) if self.dedup_rows else None
        if found is not None:
            first, *repeated = map(self._tensor, found)
            numbers = np.take_along_axis(numbers, found[0], 1)
            if patches is None:
                observations = observations[seeds, first]
        if patches is None:
            return [observations, *repeated]
        images = np.take_along_axis(patches.images, numbers[..., None], 1)
        parts = images, *(places(images, patches.last) if self.readers else ())
        return [observations, *patches.windows, *map(self._tensor, parts), *repeated]

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def patch_context(
        self, policy: nn.Module, x: Tensor, others: Sequence[Tensor]
    ) -> tuple[contextlib.AbstractContextManager[Any], Sequence[Tensor]]:
        """For one seed, a context in which a network takes what :meth:`prepare_minibatch` gave.

        Args:
            policy: the network.
            x: the first of that.
            others: the rest.

        Returns:
            The context, and those of the others that are not about patches.
        """
        if x.shape[1:] == self.shape:
            return contextlib.nullcontext(), others
        *windows, images = others[: len(self.convolutions)]
        others = others[len(self.convolutions) :]
        if not self.readers:
            return PatchMode(windows, images), others
        count = len(PositionContent._fields)
        weights = [attrgetter(name)(policy) for name in self.readers]
        return PatchMode(windows, images, weights, PositionContent(*others[:count])), others[count:]

    @contextlib.contextmanager
    def position_major_weights(
        self, patches: Patches | None, state: Callable[[], Iterable[Tensor]]
    ) -> Iterator[None]:
        """Inside this context weights that read images are as :class:`PatchMode` wants them.

        Args:
            patches: of the rollout; without them nothing is changed.
            state: gives what an optimizer keeps, of which what it keeps for each weight,
                ``(seeds, P)``, is moved with them.
        """
        if patches is None or not self.readers:
            yield
            return
        weights = self.stack.weights

        def change(inner: int) -> None:
            for rows in (weights, *(x for x in state() if x.shape == weights.shape)):
                for name in self.readers:
                    part = self.stack.parameter_view(rows, name)
                    part.copy_(position_major(part, inner))

        count = patches.images.shape[2]
        change(count)
        try:
            yield
        finally:
            change(self.stack.parameter_view(weights, self.readers[0]).shape[2] // count)
