"""Variational bound of DRAW, in nats."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812


def reconstruction(canvas: Tensor, image: Tensor) -> Tensor:
    """Compute -log p(image | canvas), ``(batch,)``: pixels are Bernoulli with logits ``canvas``."""
    loss = F.binary_cross_entropy_with_logits(canvas, image, reduction="none")
    return loss.flatten(1).sum(1)


def divergence(means: Tensor, log_sigmas: Tensor) -> Tensor:
    r"""Compute the divergence of the posteriors from N(0, 1), summed over steps and latent variables.

    .. math:: \mathrm{KL} = \sum_t \sum_i \tfrac12 (\mu_{ti}^2 + \sigma_{ti}^2 - 1) - \log \sigma_{ti}

    The published code subtracts half the number of steps where this subtracts 1/2 for each latent
    variable of each step.

    Args:
        means: ``(steps, batch, latents)``.
        log_sigmas: ``(steps, batch, latents)``, logarithms of the standard deviations.

    Returns:
        ``(batch,)``.

    Source: Gregor et al., ICML 2015, equation 10, whose constant is that of one latent variable.
    """
    each = 0.5 * (means.square() + torch.exp(2 * log_sigmas) - 1) - log_sigmas
    return each.sum((0, 2))
