"""Deduplicate minibatch inputs so that each distinct row or patch passes through the network once."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import attrgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from rn_rl.engine.dedup.patches import PatchDeduplicator, Patches, PatchMode
from rn_rl.engine.dedup.positions import PositionContent, position_content, position_major
from rn_rl.engine.dedup.rows import row_ids, unique_rows
from rn_rl.engine.ensemble import ModuleStack


class DedupPlan:
    """Finds what repeats in the observations of a rollout, and prepares minibatches without repetition.

    Equal rows pass through the network once (:mod:`~rn_rl.engine.dedup.rows`), equal patches of images
    through the convolutions once (:mod:`~rn_rl.engine.dedup.patches`), and equal contents at one position
    through the first dense layers once (:mod:`~rn_rl.engine.dedup.positions`). Outputs and gradients are
    equal up to rounding. On a GPU nothing is deduplicated, since it computes repetitions faster than the
    CPU finds them.

    Args:
        stack: the networks.
        observation_shape: shape of one observation.
        batch_size: rows of a minibatch.
        dedup_rows: whether a network's output for a row depends on that row alone, so that equal rows may
            be computed once.
        dense_weights: names of the weights that read the flattened features of the convolutions.
        convolutions: the layers of ``stack.module`` that images pass through first, without padding,
            dilation and groups, and with only elementwise activations between them.
    """

    def __init__(
        self,
        stack: ModuleStack,
        observation_shape: tuple[int, ...],
        batch_size: int,
        dedup_rows: bool,
        dense_weights: Sequence[str],
        convolutions: Sequence[nn.Conv2d] = (),
    ) -> None:
        self.stack = stack
        self.observation_shape = observation_shape
        self.dense_weights = list(dense_weights)
        self.device = stack.weights.device
        on_cpu = self.device.type == "cpu"
        self.dedup_rows = on_cpu and dedup_rows
        self.convolutions = list(convolutions) if on_cpu else []
        self.find_patches = PatchDeduplicator(self.convolutions, batch_size, self.device)

    def analyze_rollout(self, observations: np.ndarray) -> tuple[np.ndarray | None, Patches | None]:
        """Find the distinct rows and patches of a rollout.

        Args:
            observations: ``(S, rows, ...)``.

        Returns:
            Row ids, ``(S, rows)``, of :func:`~rn_rl.engine.dedup.rows.row_ids`, and the patches. Each is
            None if that kind of deduplication is not possible or does not pay.
        """
        if not (self.dedup_rows or self.convolutions):
            return None, None
        ids = row_ids(observations)
        if ids is None or not self.convolutions:
            return ids, None
        return ids, self.find_patches(observations, ids)

    def prepare_minibatch(
        self, observations: Tensor, ids: np.ndarray | None, patches: Patches | None
    ) -> list[Tensor]:
        """Deduplicate a minibatch.

        Args:
            observations: ``(S, batch, ...)``; if there are patches, ``patches.contents``.
            ids: row ids of the minibatch, ``(S, batch)``, or None.
            patches: patches of the rollout, or None.

        Returns:
            Tensors with a leading axis of seeds, for :meth:`patch_context` under ``vmap``: observations
            or contents; if there are patches, their windows, the images, and the fields of
            :class:`~rn_rl.engine.dedup.positions.PositionContent` if there are ``dense_weights``; if rows
            are deduplicated, ``inverse``, ``counts`` and ``subsample_counts`` of
            :class:`~rn_rl.engine.dedup.rows.UniqueRows`.
        """
        if ids is None:
            return [observations]
        row_tensors: list[Tensor] = []
        seeds = torch.arange(len(ids), device=self.device)[:, None]
        unique = unique_rows(ids) if self.dedup_rows else None
        if unique is not None:
            first, *row_tensors = map(self._tensor, unique)
            ids = np.take_along_axis(ids, unique[0], 1)
            if patches is None:
                observations = observations[seeds, first]
        if patches is None:
            return [observations, *row_tensors]
        images = np.take_along_axis(patches.images, ids[..., None], 1)
        pairs = position_content(images, patches.num_contents) if self.dense_weights else ()
        arrays = images, *pairs
        return [observations, *patches.windows, *map(self._tensor, arrays), *row_tensors]

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).to(self.device)

    def patch_context(
        self, policy: nn.Module, x: Tensor, others: Sequence[Tensor]
    ) -> tuple[contextlib.AbstractContextManager[Any], Sequence[Tensor]]:
        """Return the context in which a network takes a prepared minibatch, for one seed.

        Args:
            policy: the network.
            x: the first tensor of :meth:`prepare_minibatch`.
            others: the other ones.

        Returns:
            The context, and those of the other tensors that are about rows.
        """
        if x.shape[1:] == self.observation_shape:
            return contextlib.nullcontext(), others
        *windows, images = others[: len(self.convolutions)]
        others = others[len(self.convolutions) :]
        if not self.dense_weights:
            return PatchMode(windows, images), others
        count = len(PositionContent._fields)
        where = PositionContent(*others[:count])
        weights = [attrgetter(name)(policy) for name in self.dense_weights]
        return PatchMode(windows, images, weights, where), others[count:]

    @contextlib.contextmanager
    def position_major_weights(
        self, patches: Patches | None, state: Callable[[], Iterable[Tensor]]
    ) -> Iterator[None]:
        """Store the first dense weights in the column order that :class:`PatchMode` expects, inside this
        context.

        Args:
            patches: patches of the rollout; with None nothing is changed.
            state: returns the tensors of the optimizer's state. Those of shape ``(S, P)`` are reordered
                together with the weights.
        """
        if patches is None or not self.dense_weights:
            yield
            return
        weights = self.stack.weights

        def reorder(inner: int) -> None:
            for rows in (weights, *(x for x in state() if x.shape == weights.shape)):
                for name in self.dense_weights:
                    view = self.stack.parameter_view(rows, name)
                    view.copy_(position_major(view, inner))

        positions = patches.images.shape[2]
        reorder(positions)
        try:
            yield
        finally:
            reorder(self.stack.parameter_view(weights, self.dense_weights[0]).shape[2] // positions)
