"""Convolutions of stacked networks.

Of many images they are done one seed after the other: ``vmap`` makes one convolution in groups of
those of all seeds, which on a CPU takes half as long again. Of few, while acting, starting a
convolution is most of the work; they are one product of patches and weights for all seeds, which
leaves the channels last, where the next one's patches are in one piece. On a GPU they are always that:
its libraries are not made for a thousand groups.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)


class StackedConvolutions(TorchFunctionMode):
    """Inside this context convolutions of stacked tensors are done as is fastest.

    Args:
        many: whether they are of many images.
    """

    def __init__(self, many: bool) -> None:
        self.many = many

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in CONVOLUTIONS and not kwargs:
            on_cpu = args[0].device.type == "cpu"
            if on_cpu and self.many:
                return _OneByOne.apply(func, *args)
            if func is torch.conv2d and args[4:] == ((0, 0), (1, 1), 1):
                return _AsProducts.apply(func, *args)
        return func(*args, **(kwargs or {}))


class _Convolution(torch.autograd.Function):
    """A convolution whose rule for ``vmap`` is another; it is never asked about anything else."""

    @staticmethod
    def forward(func: Callable[..., Tensor], *args: Any) -> Tensor:
        return func(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass


class _OneByOne(_Convolution):
    @staticmethod
    def vmap(
        info: Any, in_dims: Any, func: Callable[..., Tensor], *args: Any
    ) -> tuple[Tensor, int]:
        each = [
            arg.unbind(dim) if isinstance(dim, int) else [arg] * info.batch_size
            for arg, dim in zip(args, in_dims[1:], strict=True)
        ]
        return torch.stack([func(*given) for given in zip(*each, strict=True)]), 0


class _AsProducts(_Convolution):
    @staticmethod
    def vmap(
        info: Any, in_dims: Any, func: Callable[..., Tensor], x: Tensor, *args: Any
    ) -> tuple[Tensor, int]:
        weight, bias, (down, right), *_ = args
        x = x.movedim(in_dims[1], 0).permute(0, 1, 3, 4, 2).contiguous()
        seeds, rows, height, width, channels = x.shape
        high, wide = weight.shape[3:]
        shape = (height - high) // down + 1, (width - wide) // right + 1
        if x.device.type == "cpu":
            step = width * channels
            patches = x.as_strided(
                (seeds, rows, *shape, high, wide * channels),
                (rows * height * step, height * step, down * step, right * channels, step, 1),
            ).flatten(4)
        else:  # of slices, whose gradient is simple
            last = down * (shape[0] - 1) + 1, right * (shape[1] - 1) + 1
            patches = torch.cat(
                [
                    x[:, :, i : i + last[0] : down, j : j + last[1] : right]
                    for i in range(high)
                    for j in range(wide)
                ],
                -1,
            )
        kernel = weight.permute(0, 3, 4, 2, 1).flatten(1, 3)
        y = torch.bmm(patches.flatten(1, 3), kernel)
        y = y if bias is None else y + bias[:, None]
        return y.view(seeds, rows, *shape, -1).permute(0, 1, 4, 2, 3), 0
