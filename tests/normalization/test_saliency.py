"""Sources and bounds of the prior of saliency normalization; test_oracle.py checks the numbers."""

import math

import pytest
import torch
from torch import nn

from rn_rl.errors import UserError
from rn_rl.normalization import (
    NamedPrior,
    SaliencyNorm,
    class_shares,
    make_normalizers,
    named_priors,
    saliency_prior,
    tail_shares,
)

FEATURES = 4


def test_without_a_prior_it_is_rn_bit_for_bit():
    [sn], [rn] = make_normalizers("sn(3)", FEATURES), make_normalizers("rn(3)", FEATURES)
    for t in range(4):
        x = torch.randn(20, FEATURES) + t
        assert torch.equal(sn.train()(x), rn.train()(x))
        assert torch.equal(sn.eval().running_state, rn.eval().running_state)


def test_images_have_one_prior_for_each_sample():
    norm, s = SaliencyNorm(FEATURES), torch.tensor([0.5, 1.0])
    with saliency_prior(norm, s):
        y = norm(torch.ones(2, FEATURES, 3, 3))
    expected = (1 - s.log())[:, None, None, None].expand(2, FEATURES, 3, 3)
    torch.testing.assert_close(y, expected)


@pytest.mark.parametrize(("s", "moved"), [(0.0, 1.1754943508222875e-38), (-1, 1.2e-38), (7.0, 1)])
def test_a_prior_outside_its_range_is_moved_to_the_nearest_within(s, moved):
    norm = SaliencyNorm(1, prior=lambda x: torch.full((2,), s))
    expected = torch.full((2, 1), 1 - math.log(moved))
    torch.testing.assert_close(norm(torch.ones(2, 1)), expected, rtol=1e-3, atol=0)


@pytest.mark.parametrize("shape", [(3,), (2, 1), (2, FEATURES), ()])
def test_a_prior_of_another_shape_is_named(shape):
    norm = SaliencyNorm(FEATURES)
    with (
        saliency_prior(norm, torch.full(shape, 0.5)),
        pytest.raises(UserError, match=r"expected \(2,\), one number for each sample") as error,
    ):
        norm(torch.ones(2, FEATURES))
    assert str(shape) in str(error.value)


def test_a_module_as_prior_is_a_part_and_learns():
    prior = nn.Sequential(nn.Linear(FEATURES, 1), nn.Sigmoid(), nn.Flatten(0))
    norm = SaliencyNorm(FEATURES, prior=prior)
    norm(torch.randn(5, FEATURES)).sum().backward()
    assert [name for name, p in norm.named_parameters() if p.grad.any()] == [
        "prior.0.weight",
        "prior.0.bias",
    ]


def test_what_is_given_goes_before_the_argument_and_is_taken_back():
    net = nn.Sequential(SaliencyNorm(1, prior=lambda x: torch.ones(len(x))), nn.ReLU())
    x = torch.ones(1, 1)
    with saliency_prior(net, torch.tensor([math.exp(-1)])):
        with saliency_prior(net, lambda: torch.tensor([math.exp(-2)])):
            assert net(x).item() == pytest.approx(3)
        assert net(x).item() == pytest.approx(2)
    with pytest.raises(KeyError), saliency_prior(net, torch.ones(1)):
        raise KeyError
    assert net(x).item() == 1
    assert net[0].given_prior is None


def test_class_shares():
    shares = class_shares(torch.tensor([2, 5, 2, 2]))
    assert shares.tolist() == [0.75, 0.25, 0.75, 0.75]
    several = class_shares(torch.tensor([[True, True], [True, False]]))
    assert several.tolist() == [[1.0, 1.0], [0.5, 0.5]]


def test_tail_shares():
    assert tail_shares(torch.tensor([[0.0, -3.0], [2.0, 2.0]])).tolist() == [[1.0, 0.5], [1.0, 1.0]]
    x = torch.randn(7, 40, dtype=torch.float64)
    expected = (x.abs()[:, :, None] <= x.abs()[:, None]).double().mean(2)
    torch.testing.assert_close(tail_shares(x).double(), expected, rtol=1e-6, atol=0)


def test_rounding_does_not_decide_on_a_tail_share():
    assert tail_shares(torch.tensor([1.0, -1.000001, 1.0001, 1.0])).tolist() == [
        1.0,
        1.0,
        0.25,
        1.0,
    ]


@pytest.mark.parametrize("odd", [math.nan, math.inf])
def test_what_is_not_finite_counts_as_the_largest(odd):
    assert tail_shares(torch.tensor([1.0, odd, 0.0, 2.0])).tolist() == [0.75, 0.25, 1.0, 0.5]


def test_named_priors_are_found_by_name_and_control():
    spec = "sn(prior=td)+sn+sn(prior=td,shuffled=true)"
    one, _, other = make_normalizers(spec, FEATURES)
    found = named_priors(nn.Sequential(one, nn.ReLU(), other))
    assert found == {NamedPrior("td"): [one], NamedPrior("td", True): [other]}
    assert "prior=td, shuffled=True" in str(other) and "prior" not in str(SaliencyNorm(FEATURES))


def test_an_unknown_prior_is_answered_with_the_known_ones():
    with pytest.raises(
        UserError, match=r"unknown prior 'rewards'. Did you mean 'reward'\? \(known: td"
    ):
        SaliencyNorm(FEATURES, prior="rewards")
    with pytest.raises(UserError, match="shuffled=True: expected a named prior beside it"):
        SaliencyNorm(FEATURES, prior=lambda x: torch.ones(len(x)), shuffled=True)
