"""Batch normalization and renormalization between phases, against their formulas in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl.normalization import make_normalizers
from rn_rl.normalization.functional import COUNT, MEAN, VAR

FEATURES = 8
EPS = 1e-5


def randomized(spec):
    """A module in double precision, with another weight and bias for each feature."""
    [norm] = make_normalizers(spec, FEATURES)
    for parameter in norm.double().parameters():
        nn.init.normal_(parameter)
    return norm


def weighted_moments(history, half_life):
    """Mean, variance and count over all phases; data that are h phases old count half."""
    q = 1 if half_life is None else 0.5 ** (1 / half_life)
    x = np.concatenate(history)
    age = np.repeat(np.arange(len(history))[::-1], [len(phase) for phase in history])
    w = (q**age)[:, None]
    mean = (w * x).sum(0) / w.sum()
    return mean, (w * (x - mean) ** 2).sum(0) / w.sum(), w.sum()


@pytest.mark.parametrize(
    ("arguments", "half_life"), [("", 20), ("(half_life=None)", None), ("(2.5)", 2.5)]
)
@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("name", ["bn", "brn"])
def test_state_and_output_follow_the_method(
    name, training, arguments, half_life, moving, learn_phase
):
    norm = randomized(name + arguments)
    weight, bias = norm.weight.detach().numpy(), norm.bias.detach().numpy()
    probe = np.random.default_rng(9).normal(1, 2, (32, FEATURES))
    history = []
    for x in moving(7):
        learn_phase(norm, x)
        history.append(x)
        mean, var, count = weighted_moments(history, half_life)
        np.testing.assert_allclose(norm.running_state[MEAN], mean, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(norm.running_state[VAR], var, rtol=1e-10)
        np.testing.assert_allclose(norm.running_state[COUNT], count, rtol=1e-12)
        np.testing.assert_allclose(norm.gain, weight / np.sqrt(var + EPS), rtol=1e-10)
        with torch.no_grad():
            y = norm.train(training)(torch.from_numpy(probe)).numpy()
        norm.pending_sums.zero_()  # the probe is not of the data
        norm.eval()
        expected = (probe - mean) / np.sqrt(var + EPS) * weight + bias
        np.testing.assert_allclose(y, expected, rtol=1e-9, atol=1e-12)


def gradients(norm, x, cotangent):
    x = torch.from_numpy(x).requires_grad_()
    y = norm(x)
    return torch.autograd.grad(y, (x, norm.weight, norm.bias), torch.from_numpy(cotangent))


@pytest.mark.parametrize("rows", [1, 2, 32])
@pytest.mark.parametrize("case", ["bn training", "bn acting", "brn training", "brn acting"])
def test_gradient_knows_of_the_batch_in_training_brn_alone(case, rows, moving, learn_phase):
    name, mode = case.split()
    norm = randomized(name)
    for phase in moving(4):
        learn_phase(norm, phase)
    rng = np.random.default_rng(9)
    x, g = rng.normal(1, 2, (rows, FEATURES)), rng.normal(size=(rows, FEATURES))
    mean, var, _ = norm.running_state.numpy().copy()
    std = np.sqrt(var + EPS)
    of_input, of_weight, of_bias = gradients(norm.train(mode == "training"), x, g)
    np.testing.assert_allclose(of_bias, g.sum(0), rtol=1e-10)
    np.testing.assert_allclose(of_weight, (g * (x - mean) / std).sum(0), rtol=1e-9, atol=1e-12)
    g = g * norm.weight.detach().numpy()
    expected = g / std
    if case == "brn training":
        # of batch normalization, times r = sigma_B / sigma
        batch_std = np.sqrt(x.var(0) + EPS)
        z = (x - x.mean(0)) / batch_std
        through_the_batch = (g - g.mean(0) - z * (g * z).mean(0)) / batch_std
        expected = through_the_batch * (batch_std / std)
    np.testing.assert_allclose(of_input, expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", ["bn", "brn"])
def test_what_was_seen_has_mean_0_and_variance_1(name):
    [norm] = make_normalizers(name, FEATURES)
    x = 5 + 3 * torch.randn(500, FEATURES)
    norm.train()(x)
    y = norm.eval()(x)
    torch.testing.assert_close(y.mean(0), torch.zeros(FEATURES), rtol=0, atol=1e-5)
    torch.testing.assert_close(y.var(0, correction=0), torch.ones(FEATURES), rtol=1e-4, atol=0)


def test_renormalization_survives_what_the_one_of_sb3_contrib_does_not():
    [norm] = make_normalizers("brn", FEATURES)
    norm.train()(torch.randn(1, FEATURES))
    assert norm.eval().running_state.isfinite().all()
    assert norm(torch.randn(3, FEATURES)).isfinite().all()
