"""Information about labels that a linear read-out decodes from activity: a lower bound.

The VC dimension is not measured. It is a number of the architecture and not of its weights, so it is the
same in every step of a training. Norm-based margin bounds (Bartlett et al., 2017) do follow the weights,
but they grow with the product of the layers' spectral norms, are orders of magnitude above 1 for networks
as large as those of agents, and are not defined for normalizers whose gain depends on the history. A
number that cannot be wrong says nothing, so none is printed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from rn_rl.errors import UserError


@dataclass(frozen=True)
class DecodedBits:
    """Bits about the label that a read-out decodes from held-out samples, and their standard error."""

    bits: float
    """Below 0 where the read-out is worse than the class frequencies; at most :attr:`most`."""
    error: float
    """Standard error over the held-out samples; too small where they are correlated."""
    most: float
    """Entropy in bits of the labels of the held-out samples, which :attr:`bits` never exceeds."""


def decoded_bits(
    activity: np.ndarray | Tensor,
    labels: np.ndarray | Tensor,
    shrinkage: float = 0.1,
    seed: int = 0,
) -> DecodedBits:
    """Decode labels from activity by linear discriminant analysis, and count the bits.

    Half of the samples fit class means, class frequencies and one shrunken covariance, which give
    ``q(label | activity)``. On the other half, ``bits = H - C`` with H the entropy of the label's
    frequencies there and ``C = -mean(log2 q(label | activity))`` the cross-entropy. As ``C >= 0``,
    bits are at most H in every sample. As the expectation of H is at most the entropy of the label,
    and that of C at least the conditional entropy, the expectation of bits is at most the mutual
    information: a *lower bound*, which a better read-out could raise, and not an estimate of it. A single
    value can be above the mutual information by its standard error.

    Frequencies are smoothed by half a sample for each class, so a class that the first half lacks has a
    finite cost; its mean is that of all samples. Binned estimates of mutual information are not offered:
    on continuous activity they measure the bins (Saxe et al., 2018).

    Args:
        activity: ``(samples, features)``, such as the output of a layer.
        labels: ``(samples,)``, integers such as classes or actions.
        shrinkage: share of the mean variance in the covariance, in (0, 1].
        seed: seed of the division in halves.

    Raises:
        UserError: fewer than 4 samples, one label alone, shapes that do not fit, or activity that is
            not finite.
    """
    x = as_numbers(activity).astype(float)
    x = x.reshape(len(x), -1)
    y = as_numbers(labels).reshape(-1)
    if len(x) != len(y) or len(y) < 4:
        raise UserError(
            f"activity of {len(x)} samples and {len(y)} labels: expected as many, and at least 4"
        )
    if not np.isfinite(x).all():
        lost = int((~np.isfinite(x)).any(1).sum())
        raise UserError(f"activity of {lost} of {len(x)} samples is not finite: expected numbers")
    if not 0 < shrinkage <= 1:
        raise UserError(f"shrinkage={shrinkage}: expected a share above 0 and at most 1")
    order = np.random.default_rng(seed).permutation(len(y))
    fit, held = order[: len(y) // 2], order[len(y) // 2 :]
    classes, y = np.unique(y, return_inverse=True)
    if len(classes) < 2:
        raise UserError(f"labels are all {classes[0]}: expected at least two to tell apart")
    counts = np.bincount(y[fit], minlength=len(classes))
    share = (counts + 0.5) / (len(fit) + 0.5 * len(classes))
    means = np.stack(
        [x[fit][y[fit] == c].mean(0) if n else x[fit].mean(0) for c, n in enumerate(counts)]
    )
    rest = x[fit] - means[y[fit]]
    covariance = rest.T @ rest / len(fit)
    # classes without any spread of their own are told apart by what differs between them
    scale = np.trace(covariance) / x.shape[1] or np.finfo(float).eps * x[fit].var() or 1.0
    covariance = (1 - shrinkage) * covariance + shrinkage * scale * np.eye(x.shape[1])
    weights = np.linalg.solve(covariance, means.T)
    scores = x[held] @ weights - 0.5 * (means.T * weights).sum(0) + np.log(share)
    scores -= scores.max(1, keepdims=True)
    log_q = scores - np.log(np.exp(scores).sum(1, keepdims=True))
    frequency = np.bincount(y[held], minlength=len(classes)) / len(held)
    gained = (log_q[np.arange(len(held)), y[held]] - np.log(frequency[y[held]])) / np.log(2)
    present = frequency[frequency > 0]
    most = float(-(present * np.log2(present)).sum())
    error = float(gained.std(ddof=1) / np.sqrt(len(gained)))
    # rounding aside, the mean is at most the entropy
    return DecodedBits(min(float(gained.mean()), most), error, most)


def as_numbers(values: Any) -> np.ndarray:
    """Return an array, or a tensor without its gradient, as an array."""
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        values = values.double() if values.is_floating_point() else values
    return np.asarray(values)
