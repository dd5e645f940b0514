"""Unsupervised adaptive normalization, against the formula of its paper in NumPy."""

import numpy as np
import pytest
import torch

from rn_rl.normalization import make_normalizers
from rn_rl.normalization.functional import COUNT, MEAN, VAR
from tests.normalization.mixture import EPS, Mixture

FEATURES = 8


def randomized(spec):
    """A module in double precision, with another mixture for each feature."""
    [norm] = make_normalizers(spec, FEATURES)
    learn(norm.double())
    return norm


def learn(norm):
    """Change the parameters of the mixture, as an optimizer does."""
    for parameter in norm.parameters():
        parameter.data += torch.randn(parameter.shape)


@pytest.mark.parametrize(
    ("arguments", "half_life"), [("", 20), ("(half_life=None)", None), ("(2.5)", 2.5)]
)
def test_state_and_output_follow_the_method(arguments, half_life, moving, learn_phase):
    norm = randomized("uan" + arguments)
    q = 1 if half_life is None else 0.5 ** (1 / half_life)
    probe = np.random.default_rng(9).normal(1, 2, (32, FEATURES))
    values, weights = np.zeros((0, FEATURES)), np.zeros((3, 0, FEATURES))
    for x in moving(6):
        learn_phase(norm, x)
        values = np.concatenate((values, x))
        weights = np.concatenate((q * weights, Mixture(norm).responsibilities(x)), axis=1)
        count = weights.sum(1)
        mean = (weights * values).sum(1) / count
        var = (weights * (values - mean[:, None]) ** 2).sum(1) / count
        np.testing.assert_allclose(norm.running_state[COUNT], count, rtol=1e-9)
        np.testing.assert_allclose(norm.running_state[MEAN], mean, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(norm.running_state[VAR], var, rtol=1e-8)
        learn(norm)  # the state stays, the responsibilities do not
        y = norm(torch.from_numpy(probe)).detach()
        expected = Mixture(norm).output(probe, mean, var)
        np.testing.assert_allclose(y, expected, rtol=1e-8, atol=1e-9)
        factor = (np.sqrt(Mixture(norm).weight) / np.sqrt(var + EPS)).sum(0)
        np.testing.assert_allclose(norm.gain, factor, rtol=1e-8)


def test_after_one_phase_its_data_gives_what_the_paper_computes_of_the_batch(learn_phase):
    norm = randomized("uan")
    x = np.random.default_rng(0).normal(1, 2, (48, FEATURES))
    learn_phase(norm, x)
    y = norm(torch.from_numpy(x)).detach()
    np.testing.assert_allclose(y, Mixture(norm).published(x), rtol=1e-9, atol=1e-10)


def test_standard_normal_input_gives_mean_0_and_a_deviation_above_1():
    [norm] = make_normalizers("uan", 4)
    x = torch.randn(20_000, 4)
    norm.train()(x)
    y = norm.eval()(x)
    assert (y.mean(0).abs() < 1e-5).all()
    assert ((y.std(0) > 1.3) & (y.std(0) < 1.5)).all()


def test_the_mixture_is_learned():
    [norm] = make_normalizers("uan", FEATURES)
    x = torch.randn(200, FEATURES) + 3 * torch.randint(0, 2, (200, FEATURES))
    norm.train()(x)
    norm.eval()(x).pow(3).sum().backward()
    for name, parameter in norm.named_parameters():
        assert (parameter.grad != 0).all(), name


def test_far_from_every_cluster_the_nearest_takes_all():
    [norm] = make_normalizers("uan", FEATURES)
    tau = norm.log_responsibilities(torch.tensor([[-100.0], [100.0]]).expand(2, FEATURES)).exp()
    nearest = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    torch.testing.assert_close(tau, nearest[..., None].expand(3, 2, FEATURES))
