"""Read and write attention of DRAW: a grid of Gaussian filters on an image."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

SMALLEST = 1e-6
"""Floor of a filter's sum of weights, for filters that lie wholly outside the image."""


@dataclass(frozen=True)
class Glimpse:
    """Filters of one glimpse at square images, one for each image of a batch.

    Attributes:
        rows: ``(batch, points, size)``: weights of the image's rows for each row of the grid.
        columns: ``(batch, points, size)``: the same for columns.
        intensity: ``(batch, 1)``: factor on what is read, above 0.
        box: ``(batch, 4)``: centre x and y, distance of two points of the grid, standard deviation of a
            filter, in pixels.
    """

    rows: Tensor
    columns: Tensor
    intensity: Tensor
    box: Tensor

    def read(self, image: Tensor) -> Tensor:
        """Read the grid: ``(batch, size, size)`` to ``(batch, points * points)``."""
        patch = self.rows @ image @ self.columns.transpose(1, 2)
        return self.intensity * patch.flatten(1)

    def write(self, patch: Tensor) -> Tensor:
        """Spread a grid over an image: ``(batch, points, points)`` to ``(batch, size, size)``."""
        image = self.rows.transpose(1, 2) @ patch @ self.columns
        return image / self.intensity[:, :, None]


def glimpse(parameters: Tensor, size: int, points: int) -> Glimpse:
    r"""Build the filters from five numbers for each image.

    With :math:`(\tilde g_x, \tilde g_y, \log\sigma^2, \log\tilde\delta, \log\gamma)`, A the size of the
    image and N the points of the grid along an axis,

    .. math:: g = \tfrac{A + 1}{2} (\tilde g + 1), \qquad \delta = \tfrac{A - 1}{N - 1} \tilde\delta,
        \qquad \mu_i = g + (i - N/2 - 1/2) \, \delta \;\; (i = 1 \dots N),

    and filter i weights pixel a by a Gaussian of mean :math:`\mu_i` and variance :math:`\sigma^2`,
    scaled so that its weights sum to 1. Pixels are counted from 0 here, so :math:`\mu` is less by 1.

    Args:
        parameters: ``(batch, 5)``.
        size: A.
        points: N, at least 2.

    Source: Gregor et al., ICML 2015, equations 22 to 26.
    """
    x, y, log_variance, log_distance, log_intensity = parameters.unbind(-1)
    centre = torch.stack([y, x], -1)  # (batch, 2): rows, then columns
    centre = (size + 1) / 2 * (centre + 1) - 1
    distance = (size - 1) / (points - 1) * log_distance.exp()
    offsets = torch.arange(points, dtype=parameters.dtype) - (points - 1) / 2
    means = centre[:, :, None] + offsets * distance[:, None, None]  # (batch, 2, points)
    pixels = torch.arange(size, dtype=parameters.dtype)
    squares = (pixels - means[..., None]).square()
    weights = torch.exp(-squares / (2 * log_variance.exp()[:, None, None, None]))
    weights = weights / weights.sum(-1, keepdim=True).clamp_min(SMALLEST)
    box = torch.stack([centre[:, 1], centre[:, 0], distance, (log_variance / 2).exp()], -1)
    return Glimpse(weights[:, 0], weights[:, 1], log_intensity.exp()[:, None], box)
