"""Layers that read whole images, where these show few different things at each of their places.

After the convolutions an image is what lies at its places, one content each, and the next layer
multiplies each content by the weights of its place. The 120 images of a minibatch of
RedBlueDoors-6x6 have 16 places and so 1,920 contents, of which some 830 differ or lie elsewhere: each
of these pairs of place and content is multiplied once, and an image sums up what its pairs gave.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

SIZE_MULTIPLE = 256
"""Numbers of pairs are rounded up to multiples of this, since each takes a recording; nothing is
computed of what is added."""


class PositionContent(NamedTuple):
    """The pairs of place and content in R images of each seed, sorted by place."""

    contents: Any
    """``(S, pairs)``: which content."""
    ends: Any
    """``(S, places)``: where the pairs of a place end, those of the next begin."""
    pairs: Any
    """``(S, R, places)``: those of an image."""
    images: Any
    """``(S, R * places)``: the images of the first pair, of the second, and so on."""
    firsts: Any
    """``(S, pairs)``: where those of a pair begin."""


def places(images: np.ndarray, contents: int) -> PositionContent:
    """As arrays.

    Args:
        images: ``(S, R, places)``: which content lies at each place.
        contents: how many there are.
    """
    seeds, _, count = images.shape
    width = count * contents
    keys = images + np.arange(count) * contents
    keys += width * np.arange(seeds)[:, None, None]
    there = np.zeros(seeds * width, np.bool_)
    there[keys.reshape(-1)] = True
    ends = there.reshape(seeds, count, contents).sum(2).cumsum(1)
    found = there.nonzero()[0]
    seed, inside = np.divmod(found, width)
    place = np.arange(len(found)) - (ends[:, -1].cumsum() - ends[:, -1])[seed]
    size = ends[:, -1].max()
    size += -size % SIZE_MULTIPLE
    of_pairs = np.zeros((seeds, size), np.int64)
    of_pairs[seed, place] = inside % contents
    where = np.empty(seeds * width, np.int64)
    where[found] = place
    pairs = where[keys]
    flat = pairs.reshape(seeds, -1)
    small = flat.astype(np.uint16) if size < 1 << 16 else flat  # which NumPy sorts faster
    firsts = np.zeros((seeds, size), np.int64)
    for mine, first in zip(flat, firsts, strict=True):
        first[1:] = np.bincount(mine, minlength=size).cumsum()[:-1]
    return PositionContent(of_pairs, ends, pairs, small.argsort(1, kind="stable") // count, firsts)


def products(x: Tensor, weight: Tensor, where: PositionContent) -> Tensor:
    """What a layer without a bias makes of images, for one seed.

    Args:
        x: contents, ``(contents, channels)``.
        weight: ``(n, places * channels)``. Since ``nn.Flatten`` puts the channels first, its columns
            are in another order, see :func:`position_major`.
        where: of this seed.

    Returns:
        ``(R, n)``.
    """
    found: Tensor = _Products.apply(x, weight, *where)
    return found


def position_major(weight: Tensor, count: int) -> Tensor:
    """``(..., channels * places)`` as ``(..., places * channels)``, and back with as many channels."""
    return weight.unflatten(-1, (-1, count)).transpose(-1, -2).flatten(-2)


class _Products(torch.autograd.Function):
    """With a rule for ``vmap``; it is never asked about anything else."""

    @staticmethod
    def forward(*given: Tensor) -> Tensor:
        return _forward(*(x[None] for x in given))[0]

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, *given: Tensor) -> tuple[Tensor, int]:
        return _forward(*given), 0


@torch.library.custom_op("rn_rl::products_by_place", mutates_args=())
def _forward(
    x: Tensor,
    weight: Tensor,
    contents: Tensor,
    ends: Tensor,
    pairs: Tensor,
    images: Tensor,
    firsts: Tensor,
) -> Tensor:
    """One seed after the other, so that a seed's numbers stay in the cache."""
    channels = x.shape[2]
    found = x.new_empty(*pairs.shape[:2], weight.shape[1])
    for seed, sizes in enumerate(_sizes(ends)):
        of_pairs = x[seed].index_select(0, contents[seed, : sum(sizes)])
        made = x.new_empty(len(of_pairs), weight.shape[1])
        weights = weight[seed].t().split(channels)
        for mine, w, out in zip(of_pairs.split(sizes), weights, made.split(sizes), strict=True):
            torch.mm(mine, w, out=out)
        found[seed] = nn.functional.embedding_bag(pairs[seed], made, mode="sum")
    return found


@_forward.register_fake
def _(x: Tensor, weight: Tensor, contents: Tensor, ends: Tensor, pairs: Tensor, *_: Tensor) -> Any:
    return x.new_empty(*pairs.shape[:2], weight.shape[1])


@torch.library.custom_op("rn_rl::products_by_place_backward", mutates_args=())
def _backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    contents: Tensor,
    ends: Tensor,
    images: Tensor,
    firsts: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of contents and weight."""
    channels = x.shape[2]
    d_x, d_weight = torch.zeros_like(x), x.new_empty(weight.shape)
    for seed, sizes in enumerate(_sizes(ends)):
        which = contents[seed, : sum(sizes)]
        of_pairs = x[seed].index_select(0, which)
        d_made = nn.functional.embedding_bag(
            images[seed], grad[seed], firsts[seed, : sum(sizes)], mode="sum"
        )
        d_of_pairs = torch.empty_like(of_pairs)
        for mine, w, out, d_mine, d_w in zip(
            of_pairs.split(sizes),
            weight[seed].split(channels, 1),
            d_made.split(sizes),
            d_of_pairs.split(sizes),
            d_weight[seed].split(channels, 1),
            strict=True,
        ):
            torch.mm(out, w, out=d_mine)
            torch.mm(out.t(), mine, out=d_w)
        d_x[seed].index_add_(0, which, d_of_pairs)
    return d_x, d_weight


@_backward.register_fake
def _(grad: Tensor, x: Tensor, weight: Tensor, *_: Tensor) -> tuple[Tensor, Tensor]:
    return torch.empty_like(x), x.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    x, weight, contents, ends, _, images, firsts = inputs
    ctx.save_for_backward(x, weight, contents, ends, images, firsts)


def _gradients(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
    return *_backward(grad.contiguous(), *ctx.saved_tensors), None, None, None, None, None


_forward.register_autograd(_gradients, setup_context=_setup_context)


def _sizes(ends: Tensor) -> list[list[int]]:
    """How many pairs each place has."""
    found: list[list[int]] = torch.diff(ends, dim=1, prepend=0 * ends[:, :1]).tolist()
    return found
