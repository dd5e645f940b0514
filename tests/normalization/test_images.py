"""Images, features on axis 1: per-feature statistics are over pixels, per-sample ones over an image."""

import math

import pytest
import torch
from torch import nn

from rn_rl.normalization import REGISTRY, make_normalizers, phase_norms

FEATURES = 8
SHAPES = [(6, FEATURES, 5), (6, FEATURES, 3, 2)]
PER_SAMPLE = ["ln", "rms", "gn", "rsn"]
PER_ROW = [
    row.name for row in REGISTRY.values() if row.factory is not None and row.name not in PER_SAMPLE
]


def rows(x):
    return x.movedim(1, -1).reshape(-1, x.shape[1])


def image(rows, shape):
    return rows.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def phases(shape, count=4):
    return [torch.randn(shape, dtype=torch.float64) * (1 + t) + t for t in range(count)]


def output_and_gradient(module, x):
    x = x.clone().requires_grad_()
    y = module(x)
    return y, torch.autograd.grad(y.pow(3).sum(), x)[0]


def randomize(module):
    for parameter in module.double().parameters():
        nn.init.normal_(parameter)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PER_ROW)
def test_every_pixel_is_a_row(name, shape, build):
    of_images, of_rows = build(name), build(name)
    randomize(of_images)
    of_rows.double().load_state_dict(of_images.state_dict())
    for x in phases(shape):
        y, gradient = output_and_gradient(of_images.train(), x)
        expected = output_and_gradient(of_rows.train(), rows(x))
        torch.testing.assert_close(rows(y), expected[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(rows(gradient), expected[1], rtol=1e-9, atol=1e-9)
        of_images.eval(), of_rows.eval()
        for key, value in of_rows.state_dict().items():
            torch.testing.assert_close(of_images.state_dict()[key], value, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(of_images(x), image(of_rows(rows(x)), shape))


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("name", PER_SAMPLE)
def test_every_image_is_one_long_vector(name, shape):
    [of_images] = make_normalizers(name, FEATURES)
    pixels = math.prod(shape[2:])
    # groups are of neighbouring features, with all their pixels
    groups = f"({of_images.num_groups})" if name == "gn" else ""
    [of_vectors] = make_normalizers(name + groups, FEATURES * pixels)
    randomize(of_images), of_vectors.double()
    with torch.no_grad():
        for key, parameter in of_vectors.named_parameters():
            parameter.copy_(of_images.get_parameter(key).repeat_interleave(pixels))
    for x in phases(shape):
        y, gradient = output_and_gradient(of_images.train(), x)
        expected = output_and_gradient(of_vectors.train(), x.flatten(1))
        torch.testing.assert_close(y.flatten(1), expected[0], rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(gradient.flatten(1), expected[1], rtol=1e-9, atol=1e-9)
        of_images.eval(), of_vectors.eval()
        for key, norm in phase_norms(of_vectors).items():
            state = phase_norms(of_images)[key].running_state
            torch.testing.assert_close(state, norm.running_state, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("name", ["wn", "spectral"])
def test_a_convolution_of_one_pixel_is_a_linear_layer_for_every_pixel(name):
    convolution, linear = nn.Conv2d(3, FEATURES, 1).double(), nn.Linear(3, FEATURES).double()
    with torch.no_grad():
        convolution.weight.copy_(linear.weight[..., None, None])
        convolution.bias.copy_(linear.bias)
    for layer in (convolution, linear):
        make_normalizers(name, FEATURES, layer)
    for x in phases((6, 3, 3, 2)):
        for training in (True, False):
            y = convolution.train(training)(x)
            torch.testing.assert_close(rows(y), linear.train(training)(rows(x)))
