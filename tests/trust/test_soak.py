"""Many commits through each normalizer with state stay within 1e-6 of an oracle; ``make soak``: more.

The oracles share no formula with the library: they keep decayed sums of values and squares in extended
precision, where the library merges means and variances in float64.
"""

import math
import os

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl.normalization import REGISTRY, homeostatic, make_normalizers, published
from tests.normalization.mixture import Mixture

FEATURES, ROWS = 2, 4
MANY = int(os.environ.get("SOAK_COMMITS", 10_000))
WIDE = np.longdouble
CYCLE = 997  # prime: no half-life and no power of ten falls together with it


def data():
    """Phases of activations whose centre and spread change slowly, and jump at the end of a cycle."""
    rng = np.random.default_rng(0)
    t = np.arange(CYCLE)[:, None, None] / CYCLE
    return rng.normal(size=(CYCLE, ROWS, FEATURES)) * (0.5 + 2 * t) + 3 * t - [0.5, 1.5]


class Sums:
    """Count, mean and variance of all values, with older phases weighted less."""

    def __init__(self, q):
        self.q, self.count, self.first, self.second = WIDE(q), 0, 0, 0

    def add(self, x, weight=None):
        w = np.ones_like(x) if weight is None else weight
        self.count = self.count * self.q + w.sum(-2)
        self.first = self.first * self.q + (w * x).sum(-2)
        self.second = self.second * self.q + (w * x * x).sum(-2)

    def rows(self, floor=0.0):
        mean = self.first / self.count
        return mean, np.maximum(self.second / self.count - mean**2, floor), self.count


class Code:
    """``rn``, ``rsn`` and ``sn`` (one code for all elements) and ``rln`` (one for each column)."""

    def __init__(self, norm, name, q):
        self.norm, self.per_neuron, self.q = norm, name == "rln", WIDE(q)
        self.sums, self.mass, self.gain, self.t = Sums(q), 0, 1, 0

    def phase(self, x):
        x = x.astype(WIDE) if self.per_neuron else x.astype(WIDE).reshape(-1, 1)
        if self.t:
            mean, var, _ = self.sums.rows(1e-5)
            density = np.exp(-((x - mean) ** 2) / (2 * var)).mean(0)
            kept = (WIDE(math.e) - 1) * density if self.t == 1 else self.q * self.mass
            self.mass = kept + density
            self.gain = np.log(self.mass / density)
        self.sums.add(x)
        self.t += 1

    def check(self):
        mean, var, count = self.sums.rows(1e-5)
        state = self.norm.running_state.numpy()
        expected = mean, var, count, np.log(self.mass), self.t, self.gain
        for row, value in zip(state, expected, strict=True):
            close(row, value)


class Moments:
    """``bn`` and ``brn``, and ``uan`` by cluster: with responsibilities that do not change."""

    def __init__(self, norm, name, q):
        self.norm, self.sums = norm, Sums(q)
        self.mixture = Mixture(norm) if name == "uan" else None

    def phase(self, x):
        weight = None if self.mixture is None else self.mixture.responsibilities(x).astype(WIDE)
        self.sums.add(x.astype(WIDE), weight)

    def check(self):
        for row, value in zip(self.norm.running_state.numpy(), self.sums.rows(), strict=True):
            close(row, value)


class Published:
    """``rn-paper`` and ``rln-paper``."""

    def __init__(self, norm, name, q):
        self.norm, self.per_neuron = norm, name == "rln-paper"
        self.n, self.mean, self.var, self.log_mass = 0, WIDE(0), WIDE(0), WIDE(0)

    def phase(self, x):
        x = x.astype(WIDE)
        k, m, v = x.size, x.mean(), x.var(ddof=1)
        n = self.n
        self.mean = (n * self.mean + k * m) / (n + k)
        self.var = ((n - 1) * self.var + (k - 1) * v) / (n + k - 2) if n else v
        self.n += k
        density = np.exp(-((x - self.mean) ** 2) / (2 * self.var))
        total = density.sum(0 if self.per_neuron else None) / np.sqrt(2 * WIDE(math.pi) * self.var)
        self.log_mass = np.log(np.exp(self.log_mass) + total)

    def check(self):
        state = self.norm.running_state.numpy()
        close(state[published.MEAN], self.mean)
        close(state[published.STD], np.sqrt(self.var))
        close(state[published.COUNT], self.n)
        close(state[published.LOG_MASS], self.log_mass)


class Homeostatic:
    """``hs`` with its default rate, target and momentum."""

    def __init__(self, norm, name, q):
        self.norm, self.trace, self.gain, self.t = norm, None, np.ones(FEATURES, WIDE), 0

    def phase(self, x):
        activity = np.maximum(self.gain * x, 0).mean(0)
        rest = WIDE(0.99)
        self.trace = activity if self.t == 0 else rest * self.trace + (1 - rest) * activity
        error = np.clip((WIDE(0.4) - self.trace) / WIDE(0.4), -1, 1)
        self.gain = np.clip(self.gain * np.exp(WIDE(0.01) * error), 0.1, 10)
        self.t += 1

    def check(self):
        state = self.norm.running_state.numpy()
        close(state[homeostatic.TRACE], self.trace)
        close(state[homeostatic.GAIN], self.gain)
        close(state[homeostatic.PHASES], self.t)


class Schedule:
    """``logt``, ``ramp`` and ``gain``: a function of the number of phases."""

    def __init__(self, norm, name, q):
        self.norm, self.name, self.t = norm, name, 0

    def phase(self, x):
        self.t += 1

    def check(self):
        gains = {
            "logt": math.log(max(self.t - 1, 1) + math.e - 1),
            "ramp": 0.1 + 4.9 * min(self.t / 5000, 1),
            "gain": self.norm.schedule.c if self.name == "gain" else None,
        }
        close(self.norm.running_state.numpy(), [[self.t], [gains[self.name]]])


class Spectral:
    """``spectral`` of a weight that rests: its largest singular value."""

    def __init__(self, norm, name, q):
        self.norm = norm

    def phase(self, x):
        pass

    def check(self):
        [layer] = self.norm
        weight = layer.parametrizations.weight.original.detach().double().numpy()
        sigma = np.linalg.svd(weight)[1].max()
        close(layer.parametrizations.weight[0].gain, 1 / sigma)


def close(found, expected):
    np.testing.assert_allclose(
        np.asarray(found, float), np.broadcast_to(expected, np.shape(found)), rtol=1e-6, atol=1e-9
    )


ORACLES = {
    **dict.fromkeys(("rn", "rln", "rsn", "sn"), Code),
    **dict.fromkeys(("bn", "brn", "uan", "rsnorm"), Moments),
    **dict.fromkeys(("rn-paper", "rln-paper"), Published),
    **dict.fromkeys(("logt", "ramp", "gain"), Schedule),
    "hs": Homeostatic,
    "spectral": Spectral,
}
FORGETTING = [
    "rn(half_life=20)",
    "rln(half_life=2000)",
    "bn(half_life=None)",
    "uan(half_life=None)",
]


def test_every_normalizer_with_state_has_an_oracle():
    """``yoked`` is a schedule, and needs a recording."""
    assert {row.name for row in REGISTRY.values() if row.stateful} == {*ORACLES, "yoked"}


@pytest.mark.parametrize("commits", [500, pytest.param(MANY, marks=pytest.mark.slow)])
@pytest.mark.parametrize("spec", [*ORACLES, *FORGETTING])
def test_the_state_after_many_commits(spec, commits):
    name = spec.partition("(")[0]
    layers = [nn.Linear(FEATURES, FEATURES)] if name == "spectral" else []
    norms = make_normalizers(spec, FEATURES, *layers)
    module = nn.Sequential(*layers, *norms).double()
    half_life = getattr(norms[0], "half_life", None) if norms else None
    q = 1 if half_life is None else 0.5 ** (1 / half_life)
    oracle = ORACLES[name](norms[0] if norms else module, name, q)
    phases = data()
    batches = [torch.from_numpy(x) for x in phases]
    checks = {10**k for k in range(1, 7)} | {commits}
    with torch.no_grad():
        for t in range(commits):
            module.train()
            module(batches[t % CYCLE])
            module.eval()
            oracle.phase(phases[t % CYCLE])
            if t + 1 in checks:
                oracle.check()
