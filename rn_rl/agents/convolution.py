"""Convolutions of stacked networks.

Of many images they are done one seed after the other: ``vmap`` makes one convolution in groups of
those of all seeds, which on a CPU takes half as long again. Of few, while acting, one in groups is
faster; here it also adds the biases and leaves the seeds where the next one wants them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)


class StackedConvolutions(TorchFunctionMode):
    """Inside this context convolutions of stacked tensors on a CPU are done as is fastest.

    Args:
        many: whether they are of many images.
    """

    def __init__(self, many: bool) -> None:
        self.rule = _OneByOne if many else _InGroups

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in CONVOLUTIONS and not kwargs and args[0].device.type == "cpu":
            return self.rule.apply(func, *args)
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


class _InGroups(_Convolution):
    @staticmethod
    def vmap(
        info: Any, in_dims: Any, func: Callable[..., Tensor], x: Tensor, *args: Any
    ) -> tuple[Tensor, int]:
        weight, bias, *options, groups = args
        x = x.movedim(in_dims[1], 1).flatten(1, 2)
        bias = None if bias is None else bias.flatten()
        y = func(x, weight.flatten(0, 1), bias, *options, groups * info.batch_size)
        return y.unflatten(1, (info.batch_size, -1)), 1
