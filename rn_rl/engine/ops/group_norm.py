"""Group normalization of stacked networks, for which ``vmap`` has no rule where axes are not in order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.nn import functional as F  # noqa: N812
from torch.overrides import TorchFunctionMode

from rn_rl.normalization.functional import on_axis_1


class StackedGroupNorms(TorchFunctionMode):
    """Inside this context ``F.group_norm`` is one of operations that ``vmap`` knows for every layout.

    Of one network it stays torch's own, which takes half as long of images.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        function = in_groups if func is F.group_norm else func
        return function(*args, **(kwargs or {}))


def in_groups(
    x: Tensor,
    num_groups: int,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """See ``torch.nn.functional.group_norm``."""
    grouped = x.unflatten(1, (num_groups, -1)).flatten(2)
    y = F.layer_norm(grouped, grouped.shape[2:], eps=eps).reshape(x.shape)
    if weight is not None:
        y = y * on_axis_1(weight, x)
    return y if bias is None else y + on_axis_1(bias, x)
