"""LayerNorm, RMSNorm, GroupNorm and weight normalization, against their formulas in NumPy."""

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl.errors import UserError
from rn_rl.normalization import make_normalizers

FEATURES = 8


def standardized(x, axes, eps):
    return (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + eps)


def layer_norm(x):
    return standardized(x, tuple(range(1, x.ndim)), 1e-5)


def root_mean_square_norm(x):
    axes = tuple(range(1, x.ndim))
    return x / np.sqrt((x**2).mean(axes, keepdims=True) + 1e-5)


def group_norm(groups):
    def norm(x):
        split = x.reshape(len(x), groups, x.shape[1] // groups, -1)
        return standardized(split, (2, 3), 1e-5).reshape(x.shape)

    return norm


@pytest.mark.parametrize("shape", [(5, 8), (5, 8, 3), (5, 8, 3, 2)])
@pytest.mark.parametrize(
    ("spec", "formula"),
    [
        ("ln", layer_norm),
        ("rms", root_mean_square_norm),
        ("gn", group_norm(2)),
        ("gn(1)", layer_norm),
        ("gn(4)", group_norm(4)),
        ("gn(groups=8)", group_norm(8)),
    ],
)
def test_the_formula_with_a_weight_and_a_bias_for_each_feature(spec, formula, shape):
    [norm] = make_normalizers(spec, FEATURES)
    norm.double()
    x = np.random.default_rng(0).normal(2, 3, shape)
    column = (FEATURES,) + (1,) * (len(shape) - 2)
    expected = formula(x)
    for parameter, combine in ((norm.weight, np.multiply), (getattr(norm, "bias", None), np.add)):
        if parameter is not None:
            nn.init.normal_(parameter)
            expected = combine(expected, parameter.detach().numpy().reshape(column))
    y = norm(torch.from_numpy(x)).detach()
    np.testing.assert_allclose(y, expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("features", "groups"), [(64, 8), (24, 4), (12, 2), (7, 1), (4, 1), (1, 1)]
)
def test_a_group_has_at_least_4_features_by_default_if_there_are_as_many(features, groups):
    assert make_normalizers("gn", features)[0].num_groups == groups


@pytest.mark.parametrize("groups", [3, 0, -2, 16, 0.5])
def test_groups_that_do_not_divide_the_features_are_named(groups):
    with pytest.raises(UserError, match=rf"gn groups={groups}: expected a divisor .*: 1, 2, 4, 8"):
        make_normalizers(f"gn({groups})", FEATURES)
    with pytest.raises(UserError, match=r"gn groups=2.5: expected a divisor .*: 1, 2, 5, 10"):
        make_normalizers("gn(2.5)", 10)


@pytest.mark.parametrize("layer", [nn.Linear(6, FEATURES), nn.Conv2d(2, FEATURES, (1, 3))])
def test_weight_normalization_is_a_length_and_a_direction_for_each_unit(layer):
    before = layer.weight.detach().clone()
    assert make_normalizers("wn", FEATURES, layer) == []
    torch.testing.assert_close(layer.weight, before)  # wrapping alone changes nothing
    length, direction = layer.parametrizations.weight.parameters()
    for parameter in layer.double().parameters():
        nn.init.normal_(parameter)
    g, v = length.detach().numpy().reshape(-1, 1), direction.detach().numpy().reshape(FEATURES, 6)
    expected = g * v / np.linalg.norm(v, axis=1, keepdims=True)
    x = np.random.default_rng(0).normal(size=(5, 6))
    y = layer(torch.from_numpy(x.reshape(5, *before.shape[1:]))).reshape(5, FEATURES)
    bias = layer.bias.detach().numpy()
    np.testing.assert_allclose(y.detach(), x @ expected.T + bias, rtol=1e-10, atol=1e-12)
