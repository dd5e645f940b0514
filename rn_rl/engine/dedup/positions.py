"""Factorized first dense layer of convolutional networks whose feature maps repeat.

After the convolutions an image has one content, a vector of channels, at each of its positions, and the
next layer multiplies the content at each position by the weights of that position. The 120 distinct
images of a minibatch of RedBlueDoors-6x6 have 16 positions each, so 1,920 contents, but only about 830
distinct pairs of position and content: each pair is multiplied once, and an image's output is the sum
over its pairs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

SIZE_MULTIPLE = 256
"""Numbers of pairs are rounded up to multiples of this, since each shape is traced anew. Nothing is
computed for the padding."""


class PositionContent(NamedTuple):
    """The distinct pairs of position and content in R images of each of S seeds, sorted by position."""

    contents: Any
    """``(S, pairs)``: index of the content of each pair."""
    ends: Any
    """``(S, positions)``: index after the last pair of each position."""
    pairs: Any
    """``(S, R, positions)``: index of the pair at each position of each image."""
    images: Any
    """``(S, R * positions)``: index of the images that have the first pair, the second, and so on."""
    offsets: Any
    """``(S, pairs)``: index in ``images`` where those of a pair begin, as for
    ``torch.nn.functional.embedding_bag``."""


def position_content(images: np.ndarray, num_contents: int) -> PositionContent:
    """Find the distinct pairs of position and content.

    Args:
        images: ``(S, R, positions)``: index of the content at each position.
        num_contents: number of contents.

    Returns:
        Arrays of int64.
    """
    seeds, _, positions = images.shape
    width = positions * num_contents
    keys = images + np.arange(positions) * num_contents
    keys += width * np.arange(seeds)[:, None, None]
    present = np.zeros(seeds * width, np.bool_)
    present[keys.reshape(-1)] = True
    ends = present.reshape(seeds, positions, num_contents).sum(2).cumsum(1)
    found = present.nonzero()[0]
    seed, key = np.divmod(found, width)
    # index of each pair among those of its seed
    index = np.arange(len(found)) - (ends[:, -1].cumsum() - ends[:, -1])[seed]
    size = ends[:, -1].max()
    size += -size % SIZE_MULTIPLE
    contents = np.zeros((seeds, size), np.int64)
    contents[seed, index] = key % num_contents
    pair_of_key = np.empty(seeds * width, np.int64)
    pair_of_key[found] = index
    pairs = pair_of_key[keys]
    flat = pairs.reshape(seeds, -1)
    short = flat.astype(np.uint16) if size < 1 << 16 else flat  # NumPy sorts these faster
    offsets = np.zeros((seeds, size), np.int64)
    for of_seed, offset in zip(flat, offsets, strict=True):
        offset[1:] = np.bincount(of_seed, minlength=size).cumsum()[:-1]
    by_pair = short.argsort(1, kind="stable") // positions
    return PositionContent(contents, ends, pairs, by_pair, offsets)


def position_linear(x: Tensor, weight: Tensor, where: PositionContent) -> Tensor:
    """Apply a linear layer without bias to images, for one seed, under ``vmap`` for all seeds.

    Args:
        x: the contents, ``(contents, channels)``.
        weight: ``(n, positions * channels)``. ``nn.Flatten`` puts the channels first, so the columns of
            an ``nn.Linear`` are reordered by :func:`position_major`.
        where: the pairs of this seed.

    Returns:
        ``(R, n)``.
    """
    result: Tensor = _PositionLinear.apply(x, weight, *where)
    return result


def position_major(weight: Tensor, count: int) -> Tensor:
    """Reorder the last axis from ``channels * positions`` to ``positions * channels``.

    Args:
        weight: ``(..., channels * positions)``.
        count: number of positions. With the number of channels, the function is its own inverse.
    """
    return weight.unflatten(-1, (-1, count)).transpose(-1, -2).flatten(-2)


class _PositionLinear(torch.autograd.Function):
    """Adds a batching rule for ``vmap``. Gradients are those of the custom operator."""

    @staticmethod
    def forward(*args: Tensor) -> Tensor:
        return _forward(*(x[None] for x in args))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, *args: Tensor) -> tuple[Tensor, int]:
        return _forward(*args), 0


@torch.library.custom_op("rn_rl::position_linear", mutates_args=())
def _forward(
    x: Tensor,
    weight: Tensor,
    contents: Tensor,
    ends: Tensor,
    pairs: Tensor,
    images: Tensor,
    offsets: Tensor,
) -> Tensor:
    """Loop over the seeds, so that the numbers of one stay in the CPU's cache."""
    channels = x.shape[2]
    outputs = x.new_empty(*pairs.shape[:2], weight.shape[1])
    for seed, sizes in enumerate(_pairs_per_position(ends)):
        inputs = x[seed].index_select(0, contents[seed, : sum(sizes)])
        products = x.new_empty(len(inputs), weight.shape[1])
        weights = weight[seed].t().split(channels)
        for a, w, out in zip(inputs.split(sizes), weights, products.split(sizes), strict=True):
            torch.mm(a, w, out=out)
        outputs[seed] = nn.functional.embedding_bag(pairs[seed], products, mode="sum")
    return outputs


@_forward.register_fake
def _(x: Tensor, weight: Tensor, contents: Tensor, ends: Tensor, pairs: Tensor, *_: Tensor) -> Any:
    return x.new_empty(*pairs.shape[:2], weight.shape[1])


@torch.library.custom_op("rn_rl::position_linear_backward", mutates_args=())
def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    contents: Tensor,
    ends: Tensor,
    images: Tensor,
    offsets: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to the contents and the weight."""
    channels = x.shape[2]
    d_x, d_weight = torch.zeros_like(x), x.new_empty(weight.shape)
    for seed, sizes in enumerate(_pairs_per_position(ends)):
        index = contents[seed, : sum(sizes)]
        inputs = x[seed].index_select(0, index)
        d_products = nn.functional.embedding_bag(
            images[seed], grad[seed], offsets[seed, : sum(sizes)], mode="sum"
        )
        d_inputs = torch.empty_like(inputs)
        for a, w, d_out, d_a, d_w in zip(
            inputs.split(sizes),
            weight[seed].split(channels, 1),
            d_products.split(sizes),
            d_inputs.split(sizes),
            d_weight[seed].split(channels, 1),
            strict=True,
        ):
            torch.mm(d_out, w, out=d_a)
            torch.mm(d_out.t(), a, out=d_w)
        d_x[seed].index_add_(0, index, d_inputs)
    return d_x, d_weight


@_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, contents, ends, _, images, offsets = inputs
    ctx.save_for_backward(x, weight, contents, ends, images, offsets)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return *_backward(grad.contiguous(), *ctx.saved_tensors), None, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_setup_context)


def _pairs_per_position(ends: Tensor) -> list[list[int]]:
    """Number of pairs at each position, for each seed."""
    sizes: list[list[int]] = torch.diff(ends, dim=1, prepend=0 * ends[:, :1]).tolist()
    return sizes
