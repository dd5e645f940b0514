"""The probe measures what rn would apply, and leaves the network alone."""

import copy

import pytest
import torch
from torch import nn

from rn_rl import CodeLengthProbe
from rn_rl.errors import UserError
from rn_rl.normalization import make_normalizers


def network():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))


@pytest.mark.parametrize("half_life", [None, 3])
def test_code_lengths_are_the_gains_of_rn_on_the_same_outputs(half_life):
    net, spec = network(), "rn" if half_life is None else f"rn({half_life})"
    norms = {"0": make_normalizers(spec, 4)[0], "3": make_normalizers(spec, 2)[0]}
    with CodeLengthProbe(net, half_life) as probe:
        for t in range(5):
            x = torch.randn(20, 3, 5, 5) * (1 + t) + t
            net(x)
            lengths = probe.commit()
            for name, output in (("0", net[0].eval()(x)), ("3", net.eval()(x))):
                norms[name].train()(output)
                norms[name].eval()
            net.train()
            gains = {name: norm.gain.item() for name, norm in norms.items()}
            assert lengths == pytest.approx(gains, rel=1e-6)
    assert all(abs(length - 1) > 0.05 for length in lengths.values())


def test_the_network_computes_what_it_did_and_evaluation_is_not_observed():
    net = network()
    plain, x = copy.deepcopy(net), torch.randn(20, 3, 5, 5)
    with CodeLengthProbe(net) as probe:
        assert torch.equal(net(x), plain(x))
        first = probe.commit()
        net.eval()(100 * x)
        assert probe.commit() == first == pytest.approx({"0": 1.0, "3": 1.0})
    assert not net[0]._forward_hooks and list(net.state_dict()) == list(plain.state_dict())


def test_a_half_life_out_of_range_is_named():
    with pytest.raises(UserError, match="half_life=0: expected a number of phases above 0"):
        CodeLengthProbe(network(), half_life=0)
