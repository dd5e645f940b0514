"""The Gaussian mixture of ``uan`` in NumPy."""

import numpy as np

EPS = 1e-5


class Mixture:
    """The mixture of a module: K Gaussians for each feature, in NumPy."""

    def __init__(self, norm) -> None:
        raw = norm.raw_variance.detach().double().numpy()
        logits = norm.logits.detach().double().numpy()
        self.mean = norm.mean.detach().double().numpy()
        self.var = np.log1p(np.exp(raw)) + EPS
        self.weight = np.exp(logits) / np.exp(logits).sum(0)

    def responsibilities(self, x):
        """``(K, batch, features)``: how far each cluster explains each activation."""
        mean, var, weight = self.mean[:, None], self.var[:, None], self.weight[:, None]
        density = weight * np.exp(-((x - mean) ** 2) / (2 * var)) / np.sqrt(2 * np.pi * var)
        return density / density.sum(0)

    def output(self, x, centre, var):
        """With the moments of the clusters given, ``(K, features)``."""
        z = (x - centre[:, None]) / np.sqrt(var[:, None] + EPS)
        return (self.responsibilities(x) / np.sqrt(self.weight[:, None]) * z).sum(0)

    def published(self, x):
        """With the moments of the batch itself, as in the paper."""
        tau = self.responsibilities(x)
        share = tau / tau.sum(1, keepdims=True)
        v = x - (share * x).sum(1, keepdims=True)
        scale = np.sqrt((share * v**2).sum(1, keepdims=True) + EPS)
        return (tau / np.sqrt(self.weight[:, None]) * v / scale).sum(0)
