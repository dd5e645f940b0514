"""DRAW: filters and bound against plain loops and torch's distributions; training; figures' data."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch.distributions import Bernoulli, Independent, Normal, kl_divergence

from rn_rl import CodeLengthProbe, register
from rn_rl.normalization import REGISTRY
from rn_rl.tasks.draw.attention import glimpse
from rn_rl.tasks.draw.network import DrawNetwork
from rn_rl.tasks.draw.objective import divergence, reconstruction
from rn_rl.tasks.draw.task import draw_noise, evaluate, kept, load
from rn_rl.tasks.seeding import seed_torch


def test_filters_are_those_of_the_paper():
    size, points = 12, 4
    parameters = torch.tensor([[0.1, -0.2, 0.5, -0.8, 0.3]], dtype=torch.float64)
    found = glimpse(parameters, size, points)
    gx, gy, log_variance, log_distance, log_gamma = parameters[0].tolist()
    for weights, g in ((found.columns, gx), (found.rows, gy)):
        centre = (size + 1) / 2 * (g + 1)
        distance = (size - 1) / (points - 1) * math.exp(log_distance)
        for i in range(1, points + 1):
            mean = centre + (i - points / 2 - 0.5) * distance
            row = [
                math.exp(-((a - mean) ** 2) / (2 * math.exp(log_variance)))
                for a in range(1, size + 1)
            ]
            expected = np.array(row) / sum(row)
            np.testing.assert_allclose(weights[0, i - 1], expected, rtol=1e-9)
    assert math.isclose(found.intensity.item(), math.exp(log_gamma))


def test_sharp_filters_read_and_write_the_pixels_under_the_grid():
    size, points = 9, 3
    # centre on pixel (x 4, y 4), distance 2, narrow filters
    parameters = torch.tensor([[-0.0, 0.0, -8.0, math.log(2 * 2 / 8), 0.0]])
    found = glimpse(parameters, size, points)
    image = torch.arange(81.0).view(1, 9, 9)
    expected = image[0, 2:7:2, 2:7:2]
    torch.testing.assert_close(found.read(image).view(3, 3), expected)
    written = found.write(expected[None])
    torch.testing.assert_close(written[0, 2:7:2, 2:7:2], expected)
    assert written.count_nonzero() <= 9
    torch.testing.assert_close(found.box[0], torch.tensor([4.0, 4.0, 2.0, math.exp(-4)]))


def test_filters_outside_the_image_are_finite():
    parameters = torch.tensor([[50.0, -50.0, -9.0, 2.0, 0.0]], requires_grad=True)
    found = glimpse(parameters, 28, 5)
    read = found.read(torch.ones(1, 28, 28)).sum() + found.write(torch.ones(1, 5, 5)).sum()
    read.backward()
    assert read.isfinite() and parameters.grad.isfinite().all()


def test_bound_is_that_of_torchs_distributions():
    means, log_sigmas = torch.randn(2, 5, 7, 10, dtype=torch.float64)
    posterior = Independent(Normal(means, log_sigmas.exp()), 1)
    prior = Independent(Normal(torch.zeros_like(means), torch.ones_like(means)), 1)
    expected = kl_divergence(posterior, prior).sum(0)
    torch.testing.assert_close(divergence(means, log_sigmas), expected)
    canvas, image = torch.randn(7, 4, 4), (torch.rand(7, 4, 4) < 0.5).float()
    expected = -Independent(Bernoulli(logits=canvas), 2).log_prob(image)
    torch.testing.assert_close(reconstruction(canvas, image), expected)


def test_divergence_of_the_prior_itself_is_0():
    assert divergence(torch.zeros(5, 3, 10), torch.zeros(5, 3, 10)).tolist() == [0, 0, 0]


@torch.no_grad()
def test_a_drawing_depends_on_its_image_and_noise_alone():
    seed_torch(0)
    net = DrawNetwork("ln+rn", size=12, hidden=16).eval()
    images, noise = (torch.rand(6, 12, 12) < 0.3).float(), torch.randn(5, 6, 10)
    together = net(images, noise)
    alone = net(images[2:3], noise[:, 2:3])
    torch.testing.assert_close(together.reconstruction[2:3], alone.reconstruction)
    torch.testing.assert_close(together.divergence[2:3], alone.divergence)


@torch.no_grad()
def test_samples_are_the_decoder_of_the_drawing():
    seed_torch(0)
    net = DrawNetwork("none", size=12, hidden=16).eval()
    net.posterior.weight.zero_()
    net.posterior.bias.zero_()  # the posterior is then the prior
    noise = torch.randn(5, 3, 10)
    drawing = net(torch.zeros(3, 12, 12), noise)
    torch.testing.assert_close(net.sample(noise), drawing.canvases.sigmoid())


def test_training_lowers_the_bound_by_more_than_100_nats():
    train, test = load(0, None, toy=False)
    train, test = train[::8], test[::10]
    assert set(train.unique().tolist()) == {0.0, 1.0} and len(test) == 100
    seed_torch(0)
    net, source = DrawNetwork("ln"), torch.Generator().manual_seed(0)
    before = sum(evaluate(net, test, 0))
    assert before > 500
    optimizer = torch.optim.Adam(net.parameters(), 5e-3, (0.5, 0.999))
    net.train()
    for step in range(20):
        batch = train[torch.arange(50) + 25 * (step % 18)]
        optimizer.zero_grad()
        drawing = net(batch, draw_noise(net, 50, source))
        (drawing.reconstruction + drawing.divergence).mean().backward()
        optimizer.step()
    assert sum(evaluate(net, test, 0)) < before - 100
    assert sum(evaluate(net, test, 0)) == sum(evaluate(net, test, 0)), "its noise is the seed's"
    shown = kept(net, test, 0)
    assert np.shape(shown["samples"]) == (10, 28, 28)
    assert np.shape(shown["canvases"]) == (5, 2, 28, 28)
    assert np.shape(shown["read_boxes"]) == (5, 2, 4)
    assert np.min(shown["samples"]) >= 0 and np.max(shown["samples"]) <= 255


class Noisy(torch.nn.Module):
    """A normalizer of a user, whose parameters begin at random."""

    def __init__(self, num_features):
        super().__init__()
        self.scale = torch.nn.Parameter(1 + 0.1 * torch.randn(num_features))

    def forward(self, x):
        return self.scale * x


@pytest.fixture
def noisy():
    """Name of a registered normalizer whose construction draws random numbers."""
    register("noisy", Noisy)
    yield "noisy"
    del REGISTRY["noisy"]


def test_a_normalizer_that_draws_random_numbers_leaves_the_weights_of_the_layers(noisy):
    nets = []
    for arm in ("none", noisy):
        seed_torch(0)
        nets.append(DrawNetwork(arm, size=12, hidden=16))
    plain, other = (dict(net.named_parameters()) for net in nets)
    assert len(other) == len(plain) + 10, "encoder and decoder, 5 steps"
    for name, weight in plain.items():
        assert torch.equal(weight, other[name]), name


def test_the_probe_attaches():
    net = DrawNetwork("rn", size=12, hidden=16)
    with CodeLengthProbe(net) as probe:
        net.train()((torch.rand(6, 12, 12) < 0.3).float(), torch.randn(5, 6, 10))
        assert {"posterior", "read", "write"} <= set(probe.commit())
