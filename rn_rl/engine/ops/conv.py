"""Convolutions of stacked networks.

``vmap`` turns the convolutions of all seeds into one grouped convolution, which is slow. Here they are
computed in one of two other ways:

- On a CPU with large batches, one seed after the other: two thirds of the time of a grouped convolution.
- With small batches, where most of the time is overhead of each call, and on a GPU, whose libraries are
  not made for a thousand groups, as one batched matrix product of patches and kernels (im2col). Its
  output has the channels last in memory, so that a patch for the next convolution is contiguous.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)


class StackedConvolutions(TorchFunctionMode):
    """Replace convolutions under ``vmap`` by the fastest implementation, inside this context.

    Args:
        large_batch: whether batches are large, as they are in an update and not while acting.
    """

    def __init__(self, large_batch: bool) -> None:
        self.large_batch = large_batch

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in CONVOLUTIONS and not kwargs:
            on_cpu = args[0].device.type == "cpu"
            if on_cpu and self.large_batch:
                return _SeedBySeed.apply(func, *args)
            # im2col is written for convolutions without padding, dilation and groups
            if func is torch.conv2d and args[4:] == ((0, 0), (1, 1), 1):
                return _Im2Col.apply(func, *args)
        return func(*args, **(kwargs or {}))


class _Convolution(torch.autograd.Function):
    """A convolution with a batching rule of its own; autograd differentiates what the rule computes."""

    @staticmethod
    def forward(func: Callable[..., Tensor], *args: Any) -> Tensor:
        return func(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass


class _SeedBySeed(_Convolution):
    @staticmethod
    def vmap(
        info: Any, in_dims: Any, func: Callable[..., Tensor], *args: Any
    ) -> tuple[Tensor, int]:
        by_seed = [
            arg.unbind(dim) if isinstance(dim, int) else [arg] * info.batch_size
            for arg, dim in zip(args, in_dims[1:], strict=True)
        ]
        return torch.stack([func(*seed_args) for seed_args in zip(*by_seed, strict=True)]), 0


class _Im2Col(_Convolution):
    @staticmethod
    def vmap(
        info: Any, in_dims: Any, func: Callable[..., Tensor], x: Tensor, *args: Any
    ) -> tuple[Tensor, int]:
        weight, bias, (stride_y, stride_x), *_ = args
        x = x.movedim(in_dims[1], 0).permute(0, 1, 3, 4, 2).contiguous()
        seeds, rows, height, width, channels = x.shape
        kernel_y, kernel_x = weight.shape[3:]
        out_y, out_x = (height - kernel_y) // stride_y + 1, (width - kernel_x) // stride_x + 1
        if x.device.type == "cpu":
            line = width * channels
            patches = x.as_strided(
                (seeds, rows, out_y, out_x, kernel_y, kernel_x * channels),
                (
                    rows * height * line,
                    height * line,
                    stride_y * line,
                    stride_x * channels,
                    line,
                    1,
                ),
            ).flatten(4)
        else:  # slices, whose gradient is faster there than that of as_strided
            end_y, end_x = stride_y * (out_y - 1) + 1, stride_x * (out_x - 1) + 1
            patches = torch.cat(
                [
                    x[:, :, i : i + end_y : stride_y, j : j + end_x : stride_x]
                    for i in range(kernel_y)
                    for j in range(kernel_x)
                ],
                -1,
            )
        kernel = weight.permute(0, 3, 4, 2, 1).flatten(1, 3)
        y = torch.bmm(patches.flatten(1, 3), kernel)
        y = y if bias is None else y + bias[:, None]
        return y.view(seeds, rows, out_y, out_x, -1).permute(0, 1, 4, 2, 3), 0
