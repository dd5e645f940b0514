"""Adapting: statistics follow the target without labels or gradients; corruptions; one line of error."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from rn_rl import CodeLengthProbe
from rn_rl.normalization.functional import MEAN, VAR
from rn_rl.tasks.adaptation.domains import CORRUPTIONS, SIZE, load, prepared
from rn_rl.tasks.adaptation.network import ConvolutionalNetwork
from rn_rl.tasks.adaptation.task import adapt
from rn_rl.tasks.seeding import seed_torch


def test_statistics_become_those_of_the_target():
    seed_torch(0)
    net = ConvolutionalNetwork("bn(half_life=2)")
    adapt(net, torch.rand(64, 1, SIZE, SIZE))
    target = 3 * torch.rand(64, 1, SIZE, SIZE) - 5
    for _ in range(20):
        adapt(net, target)
    convolved = net.layers[0](target).detach().double()
    state = net.layers[1].running_state
    torch.testing.assert_close(state[MEAN], convolved.mean((0, 2, 3)), rtol=0, atol=0.01)
    variance = convolved.var((0, 2, 3), unbiased=False)
    torch.testing.assert_close(state[VAR], variance, rtol=0.05, atol=0.01)


@pytest.mark.parametrize("norm", ["none", "gn", "bn(half_life=2)", "uan(half_life=2)", "rn"])
def test_adapting_changes_statistics_alone(norm):
    net = ConvolutionalNetwork(norm)
    parameters = [p.detach().clone() for p in net.parameters()]
    x = torch.rand(64, 1, SIZE, SIZE)
    before = net.eval()(x)
    for _ in range(3):
        adapt(net, 0.3 * x + 0.35)
    assert all((p == q).all() for p, q in zip(net.parameters(), parameters, strict=True))
    assert (net(x) != before).any() == (norm not in ("none", "gn"))


def test_domains():
    domains, again, other = (load(seed, None, toy=True) for seed in (0, 0, 1))
    assert set(domains.targets) == {"digits", *CORRUPTIONS}
    for name, target in domains.targets.items():
        assert target.unlabelled.shape == (50, 1, SIZE, SIZE)
        assert target.test.images.shape[1:] == (1, SIZE, SIZE)
        assert len(target.test.images) == len(target.test.labels) >= 50
        assert target.test.images.dtype == torch.float32
        assert (target.test.images == again.targets[name].test.images).all()
    assert (domains.source.images != other.source.images).any()
    seen = domains.targets["digits"].unlabelled.flatten(1)
    distances = torch.cdist(seen, domains.targets["digits"].test.images.flatten(1))
    assert distances.min() > 0, "no unlabelled image is tested"


def test_corruptions_are_what_they_say():
    rng, image = np.random.default_rng(0), torch.zeros(1, 1, SIZE, SIZE)
    image[0, 0, 8, 8] = 1
    contrast = CORRUPTIONS["contrast"](image, rng)
    torch.testing.assert_close(contrast.unique(), torch.tensor([0.35, 0.65]))
    blurred = CORRUPTIONS["blur"](image, rng)[0, 0]
    torch.testing.assert_close(blurred.sum(), torch.tensor(1.0))
    assert blurred.argmax() == 8 * SIZE + 8 and 0.05 < blurred.max() < 0.1
    torch.testing.assert_close(blurred[8, 5:12], blurred[5:12, 8])
    noisy = CORRUPTIONS["noise"](torch.zeros(100, 1, SIZE, SIZE), rng)
    assert abs(noisy.mean()) < 0.02 and abs(noisy.std() - 0.5) < 0.02


def test_borders_are_cut_and_grey_values_scaled():
    white = np.full((1, 28, 28), 255, np.uint8)
    white[:, :4] = white[:, -4:] = white[:, :, :4] = white[:, :, -4:] = 0
    torch.testing.assert_close(prepared(white, 255), torch.ones(1, SIZE, SIZE))
    small = prepared(np.full((2, 8, 8), 16, np.uint8), 16)
    torch.testing.assert_close(small, torch.ones(2, SIZE, SIZE))


def test_the_probe_attaches():
    net = ConvolutionalNetwork("rn")
    with CodeLengthProbe(net) as probe:
        adapt(net, torch.rand(8, 1, SIZE, SIZE))
        observed = probe.commit()
    layers = [name for name in observed if not name.endswith((".in", ".out"))]
    assert len(layers) == 3 and len(observed) == 7  # two normalizers have an input and an output
