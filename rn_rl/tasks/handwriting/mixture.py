"""Mixture of two-dimensional Gaussians for the next offset, and a Bernoulli variable for the pen."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

LARGEST_LOG_SIGMA = 7.0
"""Bound on the logarithm of a standard deviation, both ways: no density is infinite."""

LARGEST_CORRELATION = 0.999


def outputs(components: int) -> int:
    """Number of outputs that a mixture needs: weight, 2 means, 2 deviations, correlation; and the pen."""
    return 6 * components + 1


@dataclass(frozen=True)
class Mixture:
    """Distribution of a point (dx, dy, pen lifted), of any leading shape.

    Attributes:
        log_weights: ``(..., K)``, logarithms of the components' weights.
        means: ``(..., K, 2)``.
        log_sigmas: ``(..., K, 2)``, logarithms of the standard deviations.
        correlations: ``(..., K)``, between -1 and 1.
        pen: ``(...)``, logit of the pen being lifted after the point.

    Source: Graves, arXiv 1308.0850, 2013, section 4.1.
    """

    log_weights: Tensor
    means: Tensor
    log_sigmas: Tensor
    correlations: Tensor
    pen: Tensor

    @classmethod
    def of(cls, output: Tensor) -> Mixture:
        """Build the mixture from a network's output, ``(..., outputs(K))``."""
        pen, rest = output[..., 0], output[..., 1:]
        weights, x, y, sigma_x, sigma_y, correlation = rest.chunk(6, -1)
        return cls(
            weights.log_softmax(-1),
            torch.stack([x, y], -1),
            torch.stack([sigma_x, sigma_y], -1).clamp(-LARGEST_LOG_SIGMA, LARGEST_LOG_SIGMA),
            LARGEST_CORRELATION * correlation.tanh(),
            pen,
        )

    def negative_log_likelihood(self, points: Tensor) -> Tensor:
        r"""Compute -log p of points ``(..., 3)`` in nats, ``(...)``.

        With z the offset standardized by a component and :math:`\rho` its correlation, the density is

        .. math:: \frac{1}{2 \pi \sigma_x \sigma_y \sqrt{1 - \rho^2}}
            \exp\Big(-\frac{z_x^2 + z_y^2 - 2 \rho z_x z_y}{2 (1 - \rho^2)}\Big).

        It depends on the unit of the offsets, so compare only numbers of one unit.
        """
        z = (points[..., None, :2] - self.means) / self.log_sigmas.exp()
        rest = 1 - self.correlations.square()
        crossed = z.square().sum(-1) - 2 * self.correlations * z.prod(-1)
        log_density = (
            -math.log(2 * math.pi)
            - self.log_sigmas.sum(-1)
            - 0.5 * rest.log()
            - crossed / (2 * rest)
        )
        offset = torch.logsumexp(self.log_weights + log_density, -1)
        pen = F.binary_cross_entropy_with_logits(self.pen, points[..., 2], reduction="none")
        return pen - offset

    def sample(self, temperature: float, generator: torch.Generator) -> Tensor:
        """Draw points ``(batch, 3)`` from a mixture of shape ``(batch,)``.

        Args:
            temperature: 1 draws from the distribution. Below 1, the logarithms of the weights and the
                logit of the pen are divided by it and the deviations are multiplied by its square root,
                so that likely points become likelier.
            generator: source of random numbers.
        """
        # a network that diverged draws any component, and its point is NaN
        weights = torch.softmax(self.log_weights / temperature, -1).nan_to_num(1)
        chosen = torch.multinomial(weights, 1, generator=generator)
        mean, sigma = (
            values.gather(-2, chosen[..., None].expand(-1, -1, 2)).squeeze(-2)
            for values in (self.means, self.log_sigmas.exp() * math.sqrt(temperature))
        )
        rho = self.correlations.gather(-1, chosen).squeeze(-1)
        first, second = torch.randn(2, len(rho), generator=generator)
        standard = torch.stack([first, rho * first + (1 - rho.square()).sqrt() * second], -1)
        drawn = torch.rand(len(rho), generator=generator)
        lifted = (drawn < torch.sigmoid(self.pen / temperature)).to(mean.dtype)
        return torch.cat([mean + sigma * standard, lifted[:, None]], -1)
