"""LayerNorm, RMSNorm and GroupNorm from torch, with features on axis 1 of vectors and of images."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rn_rl.errors import UserError
from rn_rl.normalization.functional import on_axis_1


class LayerNorm(nn.LayerNorm):
    """``y = (x - mean) / sqrt(var + eps) * weight + bias``, moments over all axes but the batch axis.

    Args:
        num_features: size of axis 1 of the input; ``weight`` and ``bias`` are per feature.
        eps: added to the variance.

    Shape:
        ``(batch, num_features, ...)`` to the same shape. ``nn.LayerNorm`` normalizes the *last* axes
        instead, and for an image would need their sizes.

    Source: Ba et al., arXiv 1607.06450, 2016.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return super().forward(x)
        return F.group_norm(x, 1, self.weight, self.bias, self.eps)


class RMSNorm(nn.RMSNorm):
    """``y = x / sqrt(mean(x ** 2) + eps) * weight``, the mean over all axes but the batch axis.

    Args:
        num_features: size of axis 1 of the input; ``weight`` is per feature.
        eps: added to the mean square.

    Shape:
        ``(batch, num_features, ...)`` to the same shape.

    Source: Zhang & Sennrich, NeurIPS 2019.
    """

    def __init__(self, num_features: int, eps: float = 1e-5) -> None:
        super().__init__(num_features, eps=eps)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() == 2:
            return super().forward(x)
        flat = x.flatten(1)
        normed = F.rms_norm(flat, flat.shape[1:], eps=self.eps).reshape(x.shape)
        return normed * on_axis_1(self.weight, x)


class GroupNorm(nn.GroupNorm):
    """Layer normalization within each of several groups of neighbouring features.

    ``y = (x - mean_g) / sqrt(var_g + eps) * weight + bias``, with moments over a group g of features and
    all further axes of a sample, and torch's default ``eps`` of 1e-5.

    Args:
        num_features: size of axis 1 of the input; ``weight`` and ``bias`` are per feature.
        groups: number of groups, a divisor of ``num_features``. Default: the largest of 8, 4, 2 and 1
            that leaves at least 4 features in a group. For vectors, a group of one feature would always
            give 0, and one of two features only signs.

    Shape:
        ``(batch, num_features, ...)`` to the same shape.

    Raises:
        UserError: ``groups`` does not divide ``num_features``.

    Source: Wu & He, ECCV 2018.
    """

    def __init__(self, num_features: int, groups: int | None = None) -> None:
        if groups is None:
            groups = math.gcd(8, num_features)
            while groups > 1 and num_features // groups < 4:
                groups //= 2
        if not (groups >= 1 and groups == int(groups) and num_features % groups == 0):
            divisors = [d for d in range(1, num_features + 1) if num_features % d == 0]
            raise UserError(
                f"gn groups={groups!r}: expected a divisor of the {num_features} features: "
                f"{', '.join(map(str, divisors))}"
            )
        super().__init__(int(groups), num_features)
