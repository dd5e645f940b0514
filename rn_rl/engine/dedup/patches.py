"""Patches of images that are equal, so that convolutions compute each of them once.

The images of a small gridworld are put together from few parts. The 2,048 images of a rollout of
RedBlueDoors-6x6 have 74,000 patches of 2x2 cells, of which some 70 differ; what the second
convolution sees, 3x3 cells, has some 200 different contents, and the third's 4x4 cells some 400. A
convolution's answer depends on the content alone, wherever it lies: so the 120 different images of a
minibatch take about a sixth of the multiplications, with the same gradients.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rn_rl.engine.dedup.positions import PositionContent, position_major, products
from rn_rl.engine.ops.gather import gather_rows

MOST_SHARE = 0.5
"""Of the rows that may be images of their own, and of the contents in a minibatch's worth of images that
may differ, for it to pay."""

SMALLEST = 64
"""Numbers of contents are rounded up to this, or to 2 or 3 of it or of a doubling of it, since each
takes a recording."""


@dataclass
class Patches:
    """What the images of S seeds are put together from."""

    contents: Tensor
    """``(S, n_1, channels, height, width)``: what the first convolution sees, once each."""
    windows: list[Tensor]
    """``(S, n_k, height * width)`` for each further convolution: which of the contents before it."""
    images: np.ndarray
    """``(S, images, places)``: which of the last contents."""
    last: int
    """How many of those there are."""


class PatchDeduplicator:
    """Finds what images are put together from, as convolutions see them.

    Args:
        layers: the convolutions.
        batch: rows of a minibatch.
        device: where the networks are.
    """

    def __init__(self, layers: Sequence[nn.Conv2d], batch: int, device: torch.device) -> None:
        self.layers = layers
        self.batch = batch
        self.device = device
        self.sizes = [0] * len(layers)
        """Room for the contents of each convolution. They grow and never shrink, and seldom: an
        update is recorded anew for each."""

    def __call__(self, observations: np.ndarray, numbers: np.ndarray) -> Patches | None:
        """What these images are put together from; None where that is too much.

        Args:
            observations: ``(seeds, rows, channels, height, width)``.
            numbers: of these rows, ``(seeds, rows)``, see
                :func:`~rn_rl.engine.dedup.rows.row_ids`.
        """
        firsts = [np.unique(row, return_index=True)[1] for row in numbers]
        if max(map(len, firsts)) > MOST_SHARE * numbers.shape[1]:
            return None
        images = [mine[first] for mine, first in zip(observations, firsts, strict=True)]
        levels: list[list[np.ndarray]] = [[] for _ in self.layers]
        whole = []
        for mine in images:
            cells, positions = mine, []
            for level, layer in zip(levels, self.layers, strict=True):
                found, seen = _contents(cells, layer)
                level.append(found)
                positions.append(seen[0].size)
                cells = seen[:, None]  # one channel: the number of what was seen
            whole.append(cells.reshape(len(mine), -1))
        asked = min(self.batch, max(map(len, images)))
        for i, places in enumerate(positions):
            most = max(map(len, levels[i]))
            if most > MOST_SHARE * asked * places or positions[0] == 1:  # a patch is an image
                return None
            if most > self.sizes[i]:
                step = max((1 << most.bit_length()) // 4, SMALLEST)
                self.sizes[i] = most + -most % step
        contents, *windows = (
            torch.from_numpy(_stack(*level)).to(self.device)
            for level in zip(levels, self.sizes, strict=True)
        )
        of_images = _stack(whole, max(map(len, whole)))
        return Patches(contents, [x.flatten(2) for x in windows], of_images, self.sizes[-1])


def _stack(arrays: list[np.ndarray], size: int) -> np.ndarray:
    out = np.zeros((len(arrays), size, *arrays[0].shape[1:]), arrays[0].dtype)
    for mine, array in zip(out, arrays, strict=True):
        mine[: len(array)] = array
    return out


def _contents(cells: np.ndarray, layer: nn.Conv2d) -> tuple[np.ndarray, np.ndarray]:
    """What a convolution sees, once each, and the number of what it sees at each position."""
    view = np.lib.stride_tricks.sliding_window_view(cells, layer.kernel_size, (2, 3))
    down, right = layer.stride
    view = view[:, :, ::down, ::right].transpose(0, 2, 3, 1, 4, 5)
    flat = np.ascontiguousarray(view).reshape(-1, np.prod(view.shape[3:], dtype=int))
    keys = flat.view(np.dtype((np.void, flat.shape[1] * flat.itemsize)))[:, 0]
    _, first, numbers = np.unique(keys, return_index=True, return_inverse=True)
    return flat[first].reshape(-1, *view.shape[3:]), numbers.reshape(view.shape[:3])


class PatchMode(TorchFunctionMode):
    """Inside this context a network is given contents of patches, and answers for whole images.

    Args:
        windows: of :class:`Patches`, of one seed.
        images: those of its rows that are wanted.
        weights: of layers that read them, with columns as
            :func:`~rn_rl.engine.dedup.positions.position_major` orders them.
        where: what those layers see.
    """

    def __init__(
        self,
        windows: Sequence[Tensor],
        images: Tensor,
        weights: Sequence[Tensor] = (),
        where: PositionContent | None = None,
    ) -> None:
        self.windows = list(windows)
        self.images = images
        self.weights = weights
        self.where = where
        self.features: Tensor | None = None
        self.answers: dict[int, Tensor] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.conv2d:
            x, weight, bias = args[:3]
            if x.dim() == 2:  # after the first convolution: answers to contents
                x = gather_rows(x, self.windows.pop(0))
                weight = weight.permute(0, 2, 3, 1)
            return nn.functional.linear(x.flatten(1), weight.flatten(1), bias)
        if func is Tensor.flatten and args[0].dim() == 2 and self.features is None:
            return self._flat(args[0])
        if func is nn.functional.linear and id(args[1]) in self.answers:
            x, weight, bias = args
            if x is self.features:
                answer = self.answers[id(weight)]
                return answer if bias is None else answer + bias
            weight = position_major(weight, weight.shape[1] // self.images.shape[1])
            return func(x, weight, bias)
        return func(*args, **(kwargs or {}))

    def _flat(self, x: Tensor) -> Tensor:
        """Features, for whoever reads them; what the layers that are known make of them."""
        if self.where is not None:
            found = products(x, torch.cat(list(self.weights)), self.where)
            parts = found.split([len(weight) for weight in self.weights], 1)
            self.answers = dict(zip(map(id, self.weights), parts, strict=True))
        self.features = gather_rows(x, self.images).transpose(1, 2).flatten(1)
        return self.features
