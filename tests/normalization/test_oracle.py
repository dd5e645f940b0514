"""State and output of normalizers with state against their formulas in plain NumPy."""

import copy
import math

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl.normalization import (
    REGISTRY,
    SaliencyNorm,
    class_shares,
    functional,
    make_normalizers,
    saliency_prior,
)
from rn_rl.normalization.functional import COUNT, GAIN, LOG_MASS, MEAN, PHASES, VAR

FEATURES = 8
STATEFUL = [row.name for row in REGISTRY.values() if row.stateful]


def phi(z):
    """Standard normal density."""
    return np.exp(-(z**2) / 2) / np.sqrt(2 * np.pi)


class Oracle:
    """RN (one code for all elements) or RLN (one per column), phase by phase."""

    def __init__(self, per_neuron: bool, half_life: float | None) -> None:
        self.per_neuron = per_neuron
        self.q = 1.0 if half_life is None else 0.5 ** (1 / half_life)
        self.mean, self.var, self.n = np.zeros(1), np.ones(1), 0.0
        self.mass, self.gain = np.zeros(1), np.ones(1)
        self.t = 0

    def phase(self, x):
        x = x.astype(np.float64)
        x = x if self.per_neuron else x.reshape(-1, 1)
        k, mean, var = len(x), x.mean(0), x.var(0)
        if self.t == 0:
            self.mean, self.var, self.n, self.gain = mean, var, k, np.ones(x.shape[1])
        else:
            density = phi((x - self.mean) / np.sqrt(self.var)).mean(0)
            old_mass = (math.e - 1) * density if self.t == 1 else self.q * self.mass
            self.mass = old_mass + density
            self.gain = np.log(self.mass) - np.log(density)
            n = self.q * self.n  # what is left of the history; then Chan et al.
            delta = mean - self.mean
            between = delta**2 * n * k / (n + k)
            self.var = (n * self.var + k * var + between) / (n + k)
            self.mean = self.mean + delta * k / (n + k)
            self.n = n + k
        self.var = np.maximum(self.var, 1e-5)
        self.t += 1

    def sample_gain(self, x):
        if self.t < 2:
            return np.ones((len(x), 1))
        density = phi((x - self.mean) / np.sqrt(self.var)).mean(1, keepdims=True)
        return np.maximum(np.log(self.mass) - np.log(density), 0)


def spec(name, half_life):
    return name if half_life is None else f"{name}(half_life={half_life})"


@pytest.mark.parametrize("half_life", [None, 2.5])
@pytest.mark.parametrize("name", ["rn", "rln", "rsn", "sn"])
def test_state_and_gain_follow_the_method(name, half_life, moving, learn_phase):
    [norm] = make_normalizers(spec(name, half_life), FEATURES)
    oracle = Oracle(name == "rln", half_life)
    for t, x in enumerate(moving(7)):
        learn_phase(norm, x)
        oracle.phase(x)
        state = norm.running_state.numpy()
        np.testing.assert_allclose(norm.gain, oracle.gain, rtol=1e-10)
        np.testing.assert_allclose(state[GAIN], oracle.gain, rtol=1e-10)
        np.testing.assert_allclose(state[MEAN], oracle.mean, rtol=1e-10)
        np.testing.assert_allclose(state[VAR], oracle.var, rtol=1e-10)
        np.testing.assert_allclose(state[COUNT], oracle.n, rtol=1e-12)
        assert (state[PHASES] == t + 1).all()
    # our mass is of densities relative to the mode: the constant factor is left out
    np.testing.assert_allclose(
        state[LOG_MASS] - functional.LOG_SQRT_2PI, np.log(oracle.mass), rtol=1e-10
    )
    assert (abs(oracle.gain - 1) > 0.05).all()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("half_life", [None, 2.5])
@pytest.mark.parametrize("name", ["rn", "rln", "rsn", "sn"])
def test_output_is_the_input_times_the_gain(name, half_life, training, moving, learn_phase):
    [norm] = make_normalizers(spec(name, half_life), FEATURES)
    oracle = Oracle(name == "rln", half_life)
    probe = (2 * np.random.default_rng(9).normal(size=(32, FEATURES)) + 1).astype(np.float32)
    for x in moving(6):
        y = copy.deepcopy(norm).train(training)(torch.from_numpy(probe)).numpy()
        gain = oracle.sample_gain(probe) if name == "rsn" else oracle.gain
        np.testing.assert_allclose(y, probe * gain, rtol=1e-5)
        learn_phase(norm, x)
        oracle.phase(x)
    assert (abs(gain - 1) > 0.05).mean() > 0.5  # some samples of rsn happen to come near 1


@pytest.mark.parametrize("phases", [0, 1, 2, 3, 9, 25])
def test_the_schedules_are_their_formulas(phases, learn_phase):
    norms = make_normalizers("logt+ramp(4, 10)+gain(2.5)", FEATURES)
    for _ in range(phases):
        for norm in norms:
            learn_phase(norm, np.ones((2, FEATURES), np.float32))
    gains = [norm.gain.item() for norm in norms]
    logt = math.log(max(phases - 1, 1) + math.e - 1)
    assert gains == pytest.approx([logt, 0.1 + 3.9 * min(phases / 10, 1), 2.5], rel=1e-12)
    y = norms[0](torch.full((1, FEATURES), 2.0))
    torch.testing.assert_close(y, torch.full((1, FEATURES), 2 * logt))


def with_prior(x, s, oracle):
    """``x ((log M - log S) - log s)``; the first term is 1 before there is code mass."""
    return x * (oracle.gain - np.log(s)[:, None])


@pytest.mark.parametrize("given", ["tensor", "function", "argument", "class shares"])
def test_saliency_adds_the_code_length_of_the_prior(given, moving, learn_phase):
    s = 0.1 + 0.9 * np.random.default_rng(3).random(48)
    labels = np.random.default_rng(4).integers(0, 3, 48)
    if given == "class shares":
        s = np.bincount(labels)[labels] / 48
    prior = torch.from_numpy(s)
    norm = SaliencyNorm(FEATURES, prior=(lambda x: prior) if given == "argument" else None).eval()
    context = {
        "tensor": lambda: prior,
        "function": lambda: lambda: prior,
        "argument": lambda: None,
        "class shares": lambda: class_shares(torch.from_numpy(labels)).double(),
    }
    oracle = Oracle(False, None)
    for x in moving(5):
        with saliency_prior(norm, context[given]()):
            y = norm(torch.from_numpy(x))
            learn_phase(norm, x, batches=1)
        np.testing.assert_allclose(y, with_prior(x, s, oracle), rtol=1e-6)
        oracle.phase(x)
        np.testing.assert_allclose(
            norm.gain, oracle.gain, rtol=1e-10
        )  # the prior is not in the state


@pytest.mark.parametrize("name", STATEFUL)
def test_it_acts(name, used):
    module, x = used(name, phases=20), torch.randn(40, FEATURES)  # hs moves by 1% a phase at most
    plain = x
    for layer in module:
        if isinstance(layer, nn.Linear):
            plain = nn.functional.linear(x, layer.parametrizations.weight.original, layer.bias)
    assert (module(x) - plain).norm() > 0.05 * plain.norm()


# "gain" has no history to have; that of "spectral" is of the weight, see test_spectral.py
@pytest.mark.parametrize("name", [n for n in STATEFUL if n not in ("gain", "spectral")])
def test_two_histories_give_two_outputs(name, build, moving, learn_phase):
    probe = np.random.default_rng(9).normal(size=(16, FEATURES)).astype(np.float32)
    outputs = []
    for phases, seed in ((3, 0), (6, 1)):
        module = build(name)
        for x in moving(phases, seed):
            learn_phase(module, x)
        outputs.append(module(torch.from_numpy(probe)))
    assert ((outputs[0] - outputs[1]).abs() > 1e-3 * outputs[0].abs()).any(0).all()


@pytest.mark.parametrize("name", ["rn", "rln", "rsn", "sn"])
def test_as_many_phases_of_other_data_give_another_gain(name, moving, learn_phase):
    gains = []
    for seed in (0, 1):
        [norm] = make_normalizers(name, FEATURES)
        for x in moving(5, seed):
            learn_phase(norm, x)
        gains.append(norm.gain)
    assert (gains[0] != gains[1]).all()
