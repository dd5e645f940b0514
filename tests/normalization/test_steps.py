"""Commits counted in optimizer steps, in plain loops and in loops that somebody else writes."""

import copy
import gc

import pytest
import torch
from torch import nn

from rn_rl import CodeLengthProbe
from rn_rl.errors import UserError
from rn_rl.normalization import commit_every, make_normalizers, phase_norms


def network(spec="rn"):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), *make_normalizers(spec, 8), nn.ReLU(), nn.Linear(8, 1))


def batches(count, seed=1):
    rng = torch.Generator().manual_seed(seed)
    return [torch.randn(16, 4, generator=rng) for _ in range(count)]


def step(net, optimizer, x):
    optimizer.zero_grad()
    net(x).square().mean().backward()
    optimizer.step()


def state(net):
    return {name: value.clone() for name, value in net.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize("spec", ["rn", "rln", "ln+rn(half_life=3)", "logt", "bn"])
def test_phases_are_those_of_a_loop_that_switches_modes_by_hand(spec):
    counted, by_hand = network(spec), network(spec)
    optimizer, other = (torch.optim.SGD(net.parameters(), lr=0.1) for net in (counted, by_hand))
    with commit_every(counted, 3) as handle:
        for x in batches(10):
            step(counted, optimizer, x)
    for number, x in enumerate(batches(10), 1):
        by_hand.train()
        step(by_hand, other, x)
        if number % 3 == 0:
            by_hand.eval()
    assert (handle.commits, handle.counted) == (3, 1)
    assert same(state(counted), state(by_hand))
    assert same(state(counted.eval()), state(by_hand.eval()))  # what was pending


def test_an_epoch_of_one_phase_has_gain_one_and_counted_steps_do_not():
    whole, counted = network(), network()
    for net, steps in ((whole, 1000), (counted, 1)):
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
        with commit_every(net, steps):
            for x in batches(20):
                step(net, optimizer, x)
        net.eval()
    (one,), (many,) = (phase_norms(net).values() for net in (whole, counted))
    assert float(one.gain) == pytest.approx(1) and many.gain > 2


class Trainer:
    """Steps the optimizer itself, as Lightning does; users write hooks."""

    def fit(self, net, optimizer, data, accumulate):
        net.train()
        hooks = net.on_fit_start()
        for number, x in enumerate(data, 1):
            net(x).square().mean().backward()
            if number % accumulate == 0:
                optimizer.step()
                optimizer.zero_grad()
        hooks.remove()
        net.eval()


class Lit(nn.Sequential):
    def on_fit_start(self):
        self.handle = commit_every(self, 2)
        return self.handle


@pytest.mark.parametrize(("accumulate", "commits"), [(1, 6), (3, 2)])
def test_a_trainer_that_steps_the_optimizer_itself(accumulate, commits):
    net = Lit(*network())
    optimizer = torch.optim.Adam(net.parameters())
    Trainer().fit(net, optimizer, batches(12), accumulate)
    assert net.handle.commits == commits
    step(net.train(), optimizer, batches(1)[0])
    assert net.handle.counted == 0  # removed


def test_only_optimizers_of_the_module_count_and_each_of_them():
    net, other = network(), network()
    first = torch.optim.SGD(net[0].parameters(), lr=0.1)
    last = torch.optim.SGD(net[-1].parameters(), lr=0.1)
    foreign = torch.optim.SGD(other.parameters(), lr=0.1)
    with commit_every(net, 4) as handle:
        for x in batches(3):
            step(other, foreign, x)
            net(x).square().mean().backward()
            first.step()
            last.step()
    assert (handle.commits, handle.counted) == (1, 2)


def test_a_step_that_a_gradient_scaler_skips_counts_nothing():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    scaler = torch.amp.GradScaler("cpu")
    with commit_every(net, 1) as handle:
        for scale in (1.0, float("inf")):
            optimizer.zero_grad()
            scaler.scale(net(batches(1)[0]).square().mean() * scale).backward()
            scaler.step(optimizer)
            scaler.update()
    assert handle.commits == 1


def test_the_phases_of_a_probe_can_be_the_same():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.01)
    lengths = []
    with (
        CodeLengthProbe(net) as probe,
        commit_every(net, 2, lambda: lengths.append(probe.commit())),
    ):
        for x in batches(9):
            step(net, optimizer, x)
    assert len(lengths) == 4


def test_eval_after_a_commit_changes_no_bit():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    with commit_every(net, 1):
        for x in batches(4):
            step(net, optimizer, x)
    before = state(net)
    assert same(before, state(net.eval()))


def test_a_handle_that_is_garbage_counts_no_more():
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    handle = commit_every(net, 1)
    step(net, optimizer, batches(1)[0])
    assert handle.commits == 1
    del handle
    gc.collect()
    before = copy.deepcopy(phase_norms(net)["1"].running_state)
    step(net, optimizer, batches(1)[0])
    assert torch.equal(before, phase_norms(net)["1"].running_state)


@pytest.mark.parametrize("steps", [0, -1, 1.5, True, "2"])
def test_steps_are_a_whole_number(steps):
    with pytest.raises(UserError, match="expected a whole number of at least 1"):
        commit_every(network(), steps)
