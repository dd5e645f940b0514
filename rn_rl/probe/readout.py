"""Information about labels that a linear read-out decodes from activity: a lower bound.

The VC dimension is not measured. It is a number of the architecture and not of its weights, so it is the
same in every step of a training. Norm-based margin bounds (Bartlett et al., 2017) do follow the weights,
but they grow with the product of the layers' spectral norms, are orders of magnitude above 1 for networks
as large as those of agents, and are not defined for normalizers whose gain depends on the history. A
number that cannot be wrong says nothing, so none is printed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from rn_rl.errors import UserError


@dataclass(frozen=True)
class DecodedBits:
    """Bits about the label that a read-out decodes from held-out samples, and their standard error."""

    bits: float
    error: float
    """Standard error over the held-out samples; too small where they are correlated."""
    most: float
    """Entropy of the labels in bits, which no read-out exceeds."""


def decoded_bits(
    activity: np.ndarray, labels: np.ndarray, shrinkage: float = 0.1, seed: int = 0
) -> DecodedBits:
    """Decode labels from activity by linear discriminant analysis, and count the bits.

    Half of the samples fit class means and one shrunken covariance; on the other half,
    ``bits = mean(log2 q(label | activity) - log2 p(label))`` with p the class frequencies. As q is any
    distribution, the expectation is at most the mutual information: a *lower bound*, which a better
    read-out could raise, and not an estimate of it. Binned estimates of mutual information are not
    offered: on continuous activity they measure the bins (Saxe et al., 2018).

    Args:
        activity: ``(samples, features)``, such as the output of a layer.
        labels: ``(samples,)``, integers such as classes or actions.
        shrinkage: share of the mean variance in the covariance, in (0, 1].
        seed: seed of the division in halves.

    Raises:
        UserError: fewer than 4 samples, one label alone, or shapes that do not fit.
    """
    x = np.asarray(activity, dtype=float)
    x = x.reshape(len(x), -1)
    y = np.asarray(labels).reshape(-1)
    if len(x) != len(y) or len(y) < 4:
        raise UserError(
            f"activity of {len(x)} samples and {len(y)} labels: expected as many, and at least 4"
        )
    if not 0 < shrinkage <= 1:
        raise UserError(f"shrinkage={shrinkage}: expected a share above 0 and at most 1")
    order = np.random.default_rng(seed).permutation(len(y))
    fit, held = order[: len(y) // 2], order[len(y) // 2 :]
    classes = np.unique(y[fit])
    if len(classes) < 2:
        raise UserError(f"labels are all {classes[0]}: expected at least two to tell apart")
    held = held[np.isin(y[held], classes)]
    share = np.array([(y[fit] == label).mean() for label in classes])
    means = np.stack([x[fit][y[fit] == label].mean(0) for label in classes])
    rest = x[fit] - means[np.searchsorted(classes, y[fit])]
    covariance = rest.T @ rest / len(fit)
    scale = max(np.trace(covariance) / x.shape[1], np.finfo(float).tiny)
    covariance = (1 - shrinkage) * covariance + shrinkage * scale * np.eye(x.shape[1])
    weights = np.linalg.solve(covariance, means.T)
    scores = x[held] @ weights - 0.5 * (means.T * weights).sum(0) + np.log(share)
    scores -= scores.max(1, keepdims=True)
    log_q = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    known = np.searchsorted(classes, y[held])
    gained = (log_q[np.arange(len(held)), known] - np.log(share[known])) / np.log(2)
    most = float(-(share * np.log2(share)).sum())
    error = float(gained.std(ddof=1) / np.sqrt(len(gained))) if len(gained) > 1 else float("nan")
    return DecodedBits(float(gained.mean()), error, most)
