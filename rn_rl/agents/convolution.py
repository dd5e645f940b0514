"""Convolutions of stacked networks, seed by seed.

``vmap`` makes one convolution in groups of those of all seeds. On a CPU that takes half as long again
as one convolution after the other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)


class SeedBySeed(TorchFunctionMode):
    """Inside this context convolutions of stacked tensors on a CPU are done one seed after the other."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in CONVOLUTIONS and not kwargs and args[0].device.type == "cpu":
            return _Convolution.apply(func, *args)
        return func(*args, **(kwargs or {}))


class _Convolution(torch.autograd.Function):
    """A convolution whose rule for ``vmap`` is another; it is never asked about anything else."""

    @staticmethod
    def forward(func: Callable[..., Tensor], *args: Any) -> Tensor:
        return func(*args)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, func: Callable[..., Tensor], *args: Any
    ) -> tuple[Tensor, int]:
        each = [
            arg.unbind(dim) if isinstance(dim, int) else [arg] * info.batch_size
            for arg, dim in zip(args, in_dims[1:], strict=True)
        ]
        return torch.stack([func(*given) for given in zip(*each, strict=True)]), 0
