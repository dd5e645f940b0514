"""Unsupervised adaptive normalization: standardize by the clusters of a learned Gaussian mixture."""

from __future__ import annotations

from statistics import NormalDist

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rn_rl.normalization import functional
from rn_rl.normalization.functional import MEAN, VAR
from rn_rl.normalization.phase import PhaseNorm, decay_per_phase

CLUSTERS = 3
"""Number K of Gaussians for each feature, as in the paper's networks."""

FARTHEST = 1e9
"""Inputs are clamped to this size to compute responsibilities, so that squares do not overflow."""


class AdaptiveNorm(PhaseNorm):
    r"""Standardize every activation by the moments of its cluster, weighted by responsibility.

    A mixture of K = 3 Gaussians for each feature, with learned means :math:`\mu_k`, variances
    :math:`\sigma_k^2` and weights :math:`\lambda_k`, gives responsibilities and output

    .. math:: \tau_k(x) = \frac{\lambda_k N(x; \mu_k, \sigma_k^2)}
        {\sum_j \lambda_j N(x; \mu_j, \sigma_j^2)}, \qquad
        y = \sum_k \frac{\tau_k(x)}{\sqrt{\lambda_k}} \, \frac{x - m_k}{\sqrt{s_k^2 + \epsilon}},

    where :math:`m_k` and :math:`s_k` are the mean and standard deviation of the input weighted by
    :math:`\tau_k`. The paper takes them from the batch; here they are running statistics, frozen within
    a phase, so that acting and learning apply the same function. For N(0, 1) input, the output of a new
    mixture has mean 0 and a standard deviation of about 1.5, not 1. This is the formula of the paper. The
    authors' code departs from it: its densities leave out :math:`1/\sigma_k`, its softmax runs over an
    axis of size 1, and its running averages are of the output.

    Args:
        num_features: size of axis 1 of the input.
        half_life: number of phases after which an observation counts half; None never forgets. A
            finite one is the default because the clusters change while they are learned.
        eps: added to all variances.

    Shape:
        ``(batch, num_features, ...)`` to the same shape and dtype.

    State:
        ``running_state``: rows mean m, variance s**2, sum of responsibilities, ``(3, K,
        num_features)``; moves at commits. Until the first, m is 0 and s is 1. A batch with a NaN or an
        infinity is skipped for the features it touches. Parameters, ``(K, num_features)``:
        ``mean`` starts at quantiles of N(0, 1) (the paper takes those of a batch, which a constructor
        does not have), ``raw_variance`` (through softplus) at variance 1, ``logits`` (through softmax)
        at equal weights.

    Raises:
        UserError: the half-life is not above 0, or axis 1 of an input is not ``num_features``.

    Source: Faye et al., arXiv 2409.04757, 2024.
    """

    def __init__(self, num_features: int, half_life: float | None = 20, eps: float = 1e-5) -> None:
        shape = (CLUSTERS, num_features)
        state = torch.zeros(3, *shape, dtype=torch.float64)
        state[VAR] = 1
        super().__init__(state, torch.zeros_like(state))
        self.num_features = num_features
        self.half_life = half_life
        self.decay = decay_per_phase(half_life)
        self.eps = eps
        quantiles = [NormalDist().inv_cdf((k + 0.5) / CLUSTERS) for k in range(CLUSTERS)]
        self.mean = nn.Parameter(torch.tensor(quantiles)[:, None].repeat(1, num_features))
        self.raw_variance = nn.Parameter(torch.ones(shape).expm1().log())  # softplus of it is 1
        self.logits = nn.Parameter(torch.zeros(shape))

    @property
    def gain(self) -> Tensor:
        """``sum_k sqrt(lambda_k) / s_k``, ``(num_features,)``: the mean factor on x - m_k.

        It assumes that each cluster has the share lambda_k of the data.
        """
        weight = self.logits.detach().softmax(0).to(self.running_state.dtype)
        return (weight.sqrt() / (self.running_state[VAR] + self.eps).sqrt()).sum(0)

    def log_responsibilities(self, x: Tensor) -> Tensor:
        """Compute ``log tau``, ``(K, *x.shape)``, in x's dtype, which must be float32 or float64."""
        mean, raw, logits = (
            of_each_cluster(p.to(x.dtype), x) for p in (self.mean, self.raw_variance, self.logits)
        )
        var = F.softplus(raw) + self.eps
        distance = x.clamp(-FARTHEST, FARTHEST) - mean
        log_density = -0.5 * (distance.square() / var + var.log())
        return (logits + log_density).log_softmax(0)

    def observe(self, x: Tensor, weight: Tensor | None) -> None:
        x = x.detach().to(self.running_state.dtype)
        with torch.no_grad():
            tau = self.log_responsibilities(x).exp()
        if weight is not None:
            tau = tau * weight.detach().to(x.dtype).reshape((-1,) + (1,) * (x.dim() - 1))
        d = x - of_each_cluster(self.running_state[MEAN], x)
        over = [axis for axis in range(tau.dim()) if axis not in (0, 2)]
        sums = torch.stack([(tau * power).sum(over) for power in (torch.ones_like(d), d, d * d)])
        self.pending_sums.add_(functional.finite(sums))

    def next_state(self) -> Tensor:
        return functional.commit_moments(self.running_state, self.pending_sums, self.decay)

    def apply_state(self, x: Tensor) -> Tensor:
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        log_lambda = of_each_cluster(self.logits.to(wide.dtype).log_softmax(0), x)
        mean, var = self.running_state[MEAN], self.running_state[VAR]
        scale = (var + self.eps).rsqrt().to(wide.dtype)
        z = wide - of_each_cluster(mean.to(wide.dtype), x)
        z = z * of_each_cluster(scale, x)
        factor = (self.log_responsibilities(wide) - 0.5 * log_lambda).exp()
        return (factor * z).sum(0).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{self.num_features}, half_life={self.half_life}"


def of_each_cluster(values: Tensor, x: Tensor) -> Tensor:
    """Reshape ``(K, features)`` so that it broadcasts against ``(K, *x.shape)``."""
    return values.reshape((CLUSTERS, 1, -1) + (1,) * (x.dim() - 2))
