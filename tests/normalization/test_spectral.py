"""Spectral normalization against its power iteration in NumPy, with changing weights."""

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl.normalization import make_normalizers, phase_norms
from rn_rl.normalization.spectral import SIGMA, U

LAYERS = {"linear": lambda: nn.Linear(6, 8), "conv": lambda: nn.Conv2d(2, 8, (1, 3))}


def wrapped(kind):
    layer = LAYERS[kind]().double()
    make_normalizers("spectral", 8, layer)
    [norm] = phase_norms(layer).values()
    return layer.eval(), norm, layer.parametrizations.weight.original


def normalized(v):
    return v / np.linalg.norm(v)


def largest_singular_value(weight):
    return np.linalg.norm(weight.detach().flatten(1).numpy(), 2)


@pytest.mark.parametrize("kind", LAYERS)
def test_power_iterations_are_pending_until_the_commit(kind):
    layer, norm, original = wrapped(kind)
    rng = np.random.default_rng(0)
    u = norm.running_state[U].numpy().copy()
    for _ in range(5):
        x = rng.normal(size=(4, 6))
        inputs = torch.from_numpy(x.reshape(4, *original.shape[1:]))
        pending = u
        for training in (True, True, False):
            if training:  # an optimizer's step comes before each
                original.data += torch.from_numpy(rng.normal(size=tuple(original.shape)))
            matrix = original.detach().flatten(1).numpy()
            y = layer.train(training)(inputs).detach().reshape(4, 8)
            if training:
                product = matrix @ normalized(matrix.T @ pending)
                pending, sigma = normalized(product), np.linalg.norm(product)
            else:
                u = pending
            weight = matrix / np.linalg.norm(matrix.T @ u)
            expected = x @ weight.T + layer.bias.detach().numpy()
            np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)
            np.testing.assert_allclose(norm.running_state[U], u, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(norm.running_state[SIGMA], np.full(8, sigma), rtol=1e-10)
        np.testing.assert_allclose(norm.gain, 1 / sigma, rtol=1e-10)


@pytest.mark.parametrize("kind", LAYERS)
def test_a_weight_that_rests_gets_a_largest_singular_value_of_1(kind):
    layer, _, original = wrapped(kind)
    original.data.normal_(std=5)
    assert abs(largest_singular_value(layer.weight) - 1) > 0.05
    x = torch.randn(2, *original.shape[1:], dtype=torch.float64)
    for _ in range(200):
        layer.train()(x)
        layer.eval()
    assert largest_singular_value(layer.weight) == pytest.approx(1, rel=1e-5)


def test_it_starts_near_its_end_and_takes_no_random_numbers():
    torch.manual_seed(7)
    layer, _, _ = wrapped("linear")
    after = torch.rand(1)
    torch.manual_seed(7)
    LAYERS["linear"]()
    assert torch.equal(torch.rand(1), after)
    assert 1 <= largest_singular_value(layer.weight) < 1.05


def test_two_histories_of_the_weight_give_two_outputs_for_one_weight():
    weights = []
    for seed in (0, 1):
        layer, _, original = wrapped("linear")
        generator = torch.Generator().manual_seed(seed)
        for _ in range(3):
            original.data.normal_(generator=generator)
            layer.train()(torch.zeros(1, 6, dtype=torch.float64))
            layer.eval()
        original.data.copy_(torch.linspace(-1, 1, 48).reshape(8, 6) ** 3)
        weights.append(layer.weight.detach())
    assert not torch.allclose(weights[0], weights[1], rtol=0.01)


def test_a_weight_that_is_assigned_is_kept_and_starts_the_iteration_anew():
    layer, norm, original = wrapped("linear")
    assigned = torch.randn(8, 6, dtype=torch.float64)
    layer.weight = assigned
    torch.testing.assert_close(original.detach(), assigned)
    assert 1 <= largest_singular_value(layer.weight) < 1.05
    after = norm.running_state.clone()
    norm.reset_running_state()
    assert torch.equal(norm.running_state, after)


@pytest.mark.parametrize("value", [0.0, float("nan"), float("inf")])
def test_a_weight_without_a_direction_leaves_the_state(value):
    layer, norm, original = wrapped("linear")
    before = norm.running_state.clone()
    original.data.fill_(value)
    layer.train()(torch.zeros(1, 6, dtype=torch.float64))
    layer.eval()
    assert torch.equal(norm.running_state, before)
