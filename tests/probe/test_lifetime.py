"""A probe over its life: what it keeps, the order of hooks, what it warns of."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl import CodeLengthProbe
from rn_rl.normalization import make_normalizers


def network():
    return nn.Sequential(nn.Linear(4, 8), *make_normalizers("rn", 8), nn.ReLU(), nn.Linear(8, 2))


def update(net, optimizer):
    optimizer.zero_grad()
    net(torch.randn(16, 4)).square().mean().backward()
    optimizer.step()


def test_readings_after_the_block_are_those_before():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    found = []
    for early in (False, True):
        torch.manual_seed(0)
        trained, reference = copy.deepcopy(net), torch.randn(8, 4)
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.1)
        with CodeLengthProbe(trained, measures=("code", "step"), reference=reference) as probe:
            for _ in range(3):
                update(trained, optimizer)
                probe.end_phase()
            if early:
                probe.readings()
        found.append(probe.readings().values)
    assert sorted(found[0]) == ["churn", "code", "gain", "residual", "step"] == sorted(found[1])
    for name, values in found[0].items():
        np.testing.assert_array_equal(values, found[1][name], err_msg=name)
    assert np.nanmin(found[0]["step"]) > 0 and np.nanmin(found[0]["churn"]) > 0


def test_the_gain_is_that_of_the_phase_and_not_of_when_it_is_read():
    net = network()
    with CodeLengthProbe(net) as probe:
        for t in range(10):
            net.train()(torch.randn(64, 4) * (1 + t % 2))
            probe.end_phase()
            gain = net[1].gain.item()
            net.eval()  # commits
    assert net[1].gain.item() != gain > 1
    values = probe.readings().values["gain"][0]
    assert values[probe.readings().names.index("1.out")] == pytest.approx(gain)


@pytest.mark.parametrize("every", [1, 2])
def test_hooks_of_others_that_change_an_output_come_before_and_after_as_they_did(every):
    net = nn.Sequential(nn.Linear(4, 8))
    observed = []
    register = net[0].register_forward_hook
    others = [register(lambda module, inputs, output: output * 10)]
    with CodeLengthProbe(net, every=every) as probe:
        others.append(register(lambda module, inputs, output: output * 10))
        for t in range(8):
            if t == 3:
                others.append(register(lambda module, inputs, output: output + 1000))
                others.insert(0, register(lambda *_: None, prepend=True))
            output = net(torch.randn(64, 4)).detach()
            if probe.end_phase():
                later = 1000 if t >= 3 else 0
                sd = float((output - later).std(correction=0)) / 10
                observed.append((probe.readings().values["sd"][0, 0], sd))
    assert list(net[0]._forward_hooks) == [handle.id for handle in others]
    assert len(observed) == 8 // every
    for mine, theirs in observed:
        assert mine == pytest.approx(theirs, rel=1e-5)


def test_a_layer_that_is_replaced_is_warned_of_once_and_has_no_step():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2)))
    with CodeLengthProbe(net, measures=("code", "step")) as probe:

        def phase():
            update(net, torch.optim.SGD(net.parameters(), lr=0.1))
            probe.commit()
            return probe.readings().values["step"][0] > 0

        assert phase().all()
        net[0] = nn.Linear(4, 8)
        with pytest.warns(
            UserWarning, match="layers that are no longer in it: 0; make a new"
        ) as told:
            assert phase().tolist() == [False, True, True]
        assert len(told) == 1 and "\n" not in str(told[0].message)
        assert np.isnan(probe.readings().values["step"][0, 0])
        assert phase().tolist() == [False, True, True]  # a second warning would be an error
        net[1] = nn.Tanh()  # is not observed
        assert phase().tolist() == [False, True, True]
        net[2] = nn.Sequential(net[2][0], nn.Linear(8, 2))
        with pytest.warns(UserWarning, match=r"no longer in it: 2\.1; make"):
            assert phase().tolist() == [False, True, False]


def test_nothing_observed_is_warned_of_in_any_phase():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with CodeLengthProbe(net, every=2) as probe:
        for _ in range(3):
            update(net, optimizer)
            probe.commit()
        update(net, optimizer)  # in a phase that is not observed, of which nothing is known
        with probe.paused():
            update(net, optimizer)
        probe.commit()
        probe.commit()  # nothing changed
        probe.pause()
        update(net, optimizer)
        probe.commit()
        probe.commit()
        probe.resume()
        net.eval()
        update(net, optimizer)
        if not probe.observing:
            probe.commit()
            update(net, optimizer)
        with pytest.warns(UserWarning, match="observed nothing while the weights changed"):
            probe.commit()
        for _ in range(4):
            update(net, optimizer)
            probe.commit()  # a second warning would be an error


# torch.jit.script says that it is deprecated
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_copy_that_is_made_while_paused_has_no_hooks():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    with CodeLengthProbe(net) as probe:
        net(torch.randn(3, 4))
        with probe.paused():
            copied, stored = copy.deepcopy(net), pickle.dumps(net)
        assert b"rn_rl" not in stored and net[0]._forward_hooks
        assert not any(m._forward_hooks or m._forward_pre_hooks for m in copied.modules())
        scripted = torch.jit.script(copied)
        x = torch.randn(5, 4)
        assert torch.equal(scripted(x), net(x))
