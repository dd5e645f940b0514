"""Group normalization of stacked networks.

torch's own has no batching rule for inputs whose axes are permuted in memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from rn_rl.normalization.functional import on_axis_1


class StackedGroupNorms(TorchFunctionMode):
    """Replace ``F.group_norm`` by :func:`group_norm`, inside this context.

    A single network should use torch's own, which takes half of the time on images.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        function = group_norm if func is F.group_norm else func
        return function(*args, **(kwargs or {}))


def group_norm(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Compute ``torch.nn.functional.group_norm`` by operations with batching rules for every layout."""
    grouped = x.unflatten(1, (num_groups, -1)).flatten(2)
    y = F.layer_norm(grouped, grouped.shape[2:], eps=eps).reshape(x.shape)
    if weight is not None:
        y = y * on_axis_1(weight, x)
    return y if bias is None else y + on_axis_1(bias, x)
