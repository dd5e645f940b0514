"""Dynamic tanh: a bounded elementwise function in place of a normalizer."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from rn_rl.errors import UserError
from rn_rl.normalization.functional import on_axis_1


class DynamicTanh(nn.Module):
    r"""``y = weight * tanh(alpha * x) + bias``, elementwise: no statistics, so no state.

    Args:
        num_features: size of axis 1 of the input; ``weight`` (1) and ``bias`` (0) are per feature.
        alpha: initial value of the learned scalar alpha, above 0.

    Shape:
        ``(batch, num_features, ...)`` to the same shape and dtype.

    Raises:
        UserError: ``alpha`` is not above 0.

    Source: Zhu et al., "Transformers without Normalization", arXiv 2503.10622, 2025, equation 1, where
    alpha is one scalar per layer that starts at 0.5; checked against copies of the authors' module.
    """

    def __init__(self, num_features: int, alpha: float = 0.5) -> None:
        if not 0 < alpha < math.inf:
            raise UserError(f"dyt alpha={alpha!r}: expected a number above 0, such as 0.5")
        super().__init__()
        self.alpha = nn.Parameter(torch.full((1,), float(alpha)))
        self.weight = nn.Parameter(torch.ones(num_features))
        self.bias = nn.Parameter(torch.zeros(num_features))

    def forward(self, x: Tensor) -> Tensor:
        return torch.tanh(self.alpha * x) * on_axis_1(self.weight, x) + on_axis_1(self.bias, x)
