"""Equal patches of images, so that convolutions compute each distinct patch once.

The images of a small gridworld consist of few different parts. The 2,048 images of a rollout of
RedBlueDoors-6x6 have 74,000 patches of 2x2 cells, of which about 70 are distinct; the second convolution
sees 3x3 cells with about 200 different contents, the third 4x4 cells with about 400. The output of a
convolution depends on the content of its receptive field alone, not on where it lies, so the 120 distinct
images of a minibatch take about a sixth of the multiplications. Outputs and gradients are the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from rn_rl.engine.dedup.positions import PositionContent, position_linear, position_major
from rn_rl.engine.ops.gather import gather_rows

MAX_UNIQUE_FRACTION = 0.5
"""Largest fraction of distinct images in a rollout, and of distinct patches in a minibatch, for which
deduplication pays."""

MIN_SIZE = 64
"""Numbers of contents are rounded up to this times 1, or times 2 or 3 and a power of 2, since each shape
is traced anew."""


@dataclass
class Patches:
    """The distinct patches of the images of S seeds.

    A content is what the receptive field of a convolution's output shows. Contents are numbered for each
    seed and each convolution.
    """

    contents: Tensor
    """``(S, n_1, channels, height, width)``: the distinct patches that the first convolution sees."""
    windows: list[Tensor]
    """``(S, n_k, height * width)`` for each further convolution: index of the contents of the convolution
    before it, in each distinct window."""
    images: np.ndarray
    """``(S, images, positions)``: index of the last convolution's content at each position."""
    num_contents: int
    """Number of the last convolution's contents, padding included."""


class PatchDeduplicator:
    """Finds the distinct patches of images for a sequence of convolutions.

    Args:
        layers: the convolutions, without padding, dilation and groups.
        batch_size: rows of a minibatch.
        device: device of the networks.
    """

    def __init__(self, layers: Sequence[nn.Conv2d], batch_size: int, device: torch.device) -> None:
        self.layers = layers
        self.batch_size = batch_size
        self.device = device
        self.sizes = [0] * len(layers)
        """Number of contents of each convolution, with padding. It grows in large steps and never
        shrinks, since the update is traced anew after each change."""

    def __call__(self, observations: np.ndarray, ids: np.ndarray) -> Patches | None:
        """Find the distinct patches of a rollout.

        Args:
            observations: ``(S, rows, channels, height, width)``.
            ids: ``(S, rows)``, from :func:`~rn_rl.engine.dedup.rows.row_ids`.

        Returns:
            None if so many images or patches are distinct that deduplication does not pay.
        """
        firsts = [np.unique(row, return_index=True)[1] for row in ids]
        if max(map(len, firsts)) > MAX_UNIQUE_FRACTION * ids.shape[1]:
            return None
        images = [rows[first] for rows, first in zip(observations, firsts, strict=True)]
        levels: list[list[np.ndarray]] = [[] for _ in self.layers]
        last_level = []
        for unique_images in images:
            cells, positions = unique_images, []
            for level, layer in zip(levels, self.layers, strict=True):
                contents, index = _unique_windows(cells, layer)
                level.append(contents)
                positions.append(index[0].size)
                cells = index[:, None]  # the next convolution sees one channel, the content's index
            last_level.append(cells.reshape(len(unique_images), -1))
        batch_images = min(self.batch_size, max(map(len, images)))
        for i, count in enumerate(positions):
            most = max(map(len, levels[i]))
            # with one position, a patch is a whole image
            if most > MAX_UNIQUE_FRACTION * batch_images * count or positions[0] == 1:
                return None
            if most > self.sizes[i]:
                step = max((1 << most.bit_length()) // 4, MIN_SIZE)
                self.sizes[i] = most + -most % step
        first, *windows = (
            torch.from_numpy(_stack(*level)).to(self.device)
            for level in zip(levels, self.sizes, strict=True)
        )
        image_contents = _stack(last_level, max(map(len, last_level)))
        return Patches(first, [x.flatten(2) for x in windows], image_contents, self.sizes[-1])


def _stack(arrays: list[np.ndarray], size: int) -> np.ndarray:
    """Stack arrays ``(n, ...)`` of different n, padded with zeros to ``size``."""
    out = np.zeros((len(arrays), size, *arrays[0].shape[1:]), arrays[0].dtype)
    for row, array in zip(out, arrays, strict=True):
        row[: len(array)] = array
    return out


def _unique_windows(cells: np.ndarray, layer: nn.Conv2d) -> tuple[np.ndarray, np.ndarray]:
    """Find the distinct windows that a convolution sees, and the index of the one at each position.

    Args:
        cells: ``(n, channels, height, width)``.
        layer: the convolution.

    Returns:
        ``(contents, channels, *kernel_size)`` and ``(n, out_height, out_width)``.
    """
    view = np.lib.stride_tricks.sliding_window_view(cells, layer.kernel_size, (2, 3))
    down, right = layer.stride
    view = view[:, :, ::down, ::right].transpose(0, 2, 3, 1, 4, 5)
    flat = np.ascontiguousarray(view).reshape(-1, np.prod(view.shape[3:], dtype=int))
    keys = flat.view(np.dtype((np.void, flat.shape[1] * flat.itemsize)))[:, 0]
    _, first, index = np.unique(keys, return_index=True, return_inverse=True)
    return flat[first].reshape(-1, *view.shape[3:]), index.reshape(view.shape[:3])


class PatchMode(TorchFunctionMode):
    """Compute a network on the distinct patches of images, inside this context, for one seed.

    The network is called with ``Patches.contents`` in place of images, and returns its outputs for the
    images. ``conv2d`` becomes a linear layer on distinct windows, and ``flatten`` gathers the features of
    the images.

    Args:
        windows: ``Patches.windows`` of this seed.
        images: ``(rows, positions)``: the rows of ``Patches.images`` to compute.
        weights: weights of the dense layers that read the features, with columns in the order of
            :func:`~rn_rl.engine.dedup.positions.position_major`.
        where: the pairs of position and content of these images, for the dense layers.
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
        """Features of the images, ``(rows, channels * positions)``, once they are flattened."""
        self.products: dict[int, Tensor] = {}
        """Features times each of the weights, by ``id`` of the weight."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func is torch.conv2d:
            x, weight, bias = args[:3]
            if x.dim() == 2:  # outputs of the convolution before, for each content
                x = gather_rows(x, self.windows.pop(0))
                weight = weight.permute(0, 2, 3, 1)
            return nn.functional.linear(x.flatten(1), weight.flatten(1), bias)
        if func is Tensor.flatten and args[0].dim() == 2 and self.features is None:
            return self._flatten(args[0])
        if func is nn.functional.linear and id(args[1]) in self.products:
            x, weight, bias = args
            if x is self.features:
                product = self.products[id(weight)]
                return product if bias is None else product + bias
            weight = position_major(weight, weight.shape[1] // self.images.shape[1])
            return func(x, weight, bias)
        return func(*args, **(kwargs or {}))

    def _flatten(self, x: Tensor) -> Tensor:
        """Gather the images' features; compute the products of the known dense layers by position."""
        if self.where is not None:
            products = position_linear(x, torch.cat(list(self.weights)), self.where)
            parts = products.split([len(weight) for weight in self.weights], 1)
            self.products = dict(zip(map(id, self.weights), parts, strict=True))
        self.features = gather_rows(x, self.images).transpose(1, 2).flatten(1)
        return self.features
