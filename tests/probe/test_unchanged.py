"""A probe changes no bit, random number or mode, in whatever way the network is used."""

import copy
import pickle

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from rn_rl import CodeLengthProbe
from rn_rl.normalization import make_normalizers

EVERYTHING = ("code", "moments", "dead", "rank", "neurons", "step")


def network():
    return nn.Sequential(
        nn.Conv2d(1, 3, 3),
        *make_normalizers("bn", 3),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(27, 8),
        *make_normalizers("ln+rn", 8),
        nn.Dropout(0.3),
        nn.Linear(8, 2),
    )


def trained(net, probe=None, steps=12):
    """Losses and weights of a training, with the random numbers that follow it."""
    torch.manual_seed(1)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-2)
    losses = []
    for _ in range(steps):
        net.train()
        x = torch.randn(16, 1, 5, 5)
        loss = net(x).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        net.eval()
        losses += [loss.detach(), net(x).detach().mean()]
        if probe is not None:
            probe.commit()
    return torch.stack(losses), torch.nn.utils.parameters_to_vector(net.parameters()), torch.rand(3)


@pytest.mark.parametrize("every", [1, 3])
def test_a_training_is_the_same_to_the_bit(every):
    net = network()
    plain = copy.deepcopy(net)
    with CodeLengthProbe(
        net, every=every, measures=EVERYTHING, reference=torch.randn(4, 1, 5, 5)
    ) as probe:
        mine = trained(net, probe)
        readings = probe.readings()
    theirs = trained(plain)
    for one, other in zip(mine, theirs, strict=True):
        assert torch.equal(one, other)
    for name, value in net.state_dict().items():
        assert torch.equal(value, plain.state_dict()[name]), name
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())
    assert {"churn", "step", "gain", "neuron_median"} < set(readings.values)
    change = readings.values["step"][0, readings.names.index("8")]
    churn = readings.values["churn"][0, readings.names.index("8")]
    assert 0 < change < 1 and churn > 0


def test_modes_choose_what_is_observed():
    net = network()
    with CodeLengthProbe(net, modes=("eval",)) as probe:
        net.train()(torch.randn(4, 1, 5, 5))
        assert not probe._states.slots
        net.eval()(torch.randn(4, 1, 5, 5))
        assert "4" in probe.commit()


def test_copies_and_pickles_of_the_network_are_not_observed_and_those_of_the_probe_are_detached():
    net = network()
    x = torch.randn(4, 1, 5, 5)
    with CodeLengthProbe(net) as probe:
        net(x)
        first = probe.commit()
        for copied in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            copied.load_state_dict(net.state_dict())
            assert torch.equal(copied.eval()(x), net.eval()(x))
            copied.train()(100 * x)
        assert not probe._states.pending.any()
        net.train()
        for kept in (copy.deepcopy(probe), pickle.loads(pickle.dumps(probe))):
            assert kept.code_lengths() == first
            assert list(kept.readings().values) == list(probe.readings().values)
            net(x)
            assert not kept._states.pending.any() and probe._states.pending.any()


def test_hooks_leave_when_the_network_fails():
    net = nn.Sequential(nn.Linear(4, 4), nn.Linear(3, 4))
    with pytest.raises(RuntimeError), CodeLengthProbe(net):
        net(torch.randn(2, 4))
    assert not any(part._forward_hooks or part._forward_pre_hooks for part in net.modules())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_half_and_double_precision(dtype):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)).to(dtype)
    plain, x = copy.deepcopy(net), torch.randn(32, 4, dtype=dtype)
    with CodeLengthProbe(net, measures=EVERYTHING) as probe, torch.inference_mode():
        for _ in range(3):
            assert torch.equal(net(x), plain(x))
            lengths = probe.commit()
    with CodeLengthProbe(plain) as other, torch.autocast("cpu", torch.bfloat16):
        assert plain.float()(x.float()).dtype is torch.bfloat16
        assert other.commit()
    assert all(0.5 < length < 2 for length in lengths.values())


# PyTorch's own at any graph break
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("every", [1, 2])
def test_under_compile_values_are_those_without_it(every):
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    plain = copy.deepcopy(net)
    with CodeLengthProbe(net, every=every) as probe, CodeLengthProbe(plain, every=every) as other:
        compiled = torch.compile(net, backend="eager")
        for t in range(6):
            x = torch.randn(16, 4) * (1 + t)
            assert torch.equal(compiled(x), plain(x))
            assert probe.commit() == pytest.approx(other.commit(), rel=1e-6)
        assert max(probe.code_lengths().values()) > 1.01
    torch._dynamo.reset()


def test_a_probe_that_was_attached_after_compiling_says_so_in_one_line():
    net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
    compiled = torch.compile(net, backend="eager")
    x = torch.randn(16, 4)
    compiled(x).sum().backward()
    optimizer = torch.optim.SGD(net.parameters())
    with CodeLengthProbe(net) as probe:
        with pytest.warns(UserWarning, match="observed nothing while the weights.*compile") as told:
            compiled(x).sum().backward()
            optimizer.step()
            probe.commit()
        assert len(told) == 1 and "\n" not in str(told[0].message)
        compiled(x).sum().backward()
        optimizer.step()
        probe.commit()  # a second warning would be an error
    torch._dynamo.reset()


def test_networks_under_nested_vmap_are_observed_as_one_row_of_networks():
    net = nn.Linear(3, 2)
    x = torch.randn(2, 4, 16, 3)

    def call(rows, scale):
        return net(rows * scale)

    scales = torch.arange(1.0, 9.0).reshape(2, 4)
    plain = torch.stack([net(x[i, j] * scales[i, j]) for i in range(2) for j in range(4)])
    with CodeLengthProbe(net) as probe:
        # the axes of the inner and of the outer vmap are not the first ones
        found = vmap(vmap(call, in_dims=(1, 0)), in_dims=(0, 0))(x.transpose(1, 2), scales)
        probe.commit()
        readings = probe.readings()
    torch.testing.assert_close(found.flatten(0, 1), plain)
    mean = readings.values["mean"][:, 0]
    np.testing.assert_allclose(mean, plain.detach().mean((1, 2)), rtol=1e-5)


def test_networks_under_vmap_are_observed_at_once_each_by_itself():
    nets = [nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2)) for _ in range(3)]
    base = copy.deepcopy(nets[0])
    parameters, buffers = stack_module_state(nets)

    def loss(own, state, x):
        return functional_call(base, (own, state), x).square().mean()

    with CodeLengthProbe(base, measures=EVERYTHING[:-1]) as together:
        single = [CodeLengthProbe(net, measures=EVERYTHING[:-1]) for net in nets]
        for t in range(4):
            x = torch.randn(3, 16, 4) * (1 + t) + t
            vmap(torch.func.grad(loss))(parameters, buffers, x)
            for net, own in zip(nets, x, strict=True):
                net(own)
            lengths = together.commit()
            for seed, probe in enumerate(single):
                one = probe.commit()
                assert {name: each[seed] for name, each in lengths.items()} == pytest.approx(one)
                for name, values in probe.readings().values.items():
                    mine = together.readings().values[name][seed]
                    assert mine == pytest.approx(values[0], rel=1e-5, abs=1e-6, nan_ok=True), name
        for probe in single:
            probe.close()


def test_the_fused_path_of_an_encoder_is_not_left():
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
    net = nn.Sequential(nn.Linear(4, 8), nn.TransformerEncoder(layer, 2))
    plain, x = copy.deepcopy(net).eval(), torch.randn(3, 5, 4)
    with CodeLengthProbe(net) as probe:
        net(x)
        assert len(probe.commit()) == 15
        with torch.no_grad():
            assert torch.equal(net.eval()(x), plain(x))
    assert not nn.modules.module._global_forward_hooks


def test_a_phase_with_nothing_observed_changes_nothing():
    net = nn.Linear(4, 2)
    with CodeLengthProbe(net) as probe:
        assert probe.commit() == {"Linear": 1.0}
        net(torch.randn(8, 4))
        before = probe.commit()
        state = probe._states.state.clone()
        with probe.paused():
            net(torch.randn(8, 4))
        assert probe.commit() == before and torch.equal(probe._states.state, state)
        net(torch.full((8, 4), float("nan")))
        assert probe.commit() == before and torch.equal(probe._states.state, state)


def test_a_probe_continues_exactly_from_its_state():
    net, x = nn.Sequential(nn.Linear(4, 8), nn.GRU(8, 3)), torch.randn(9, 5, 4)
    with CodeLengthProbe(net, every=2) as probe:
        for t in range(7):
            net(x * (1 + t))
            probe.commit()
        stored = pickle.loads(pickle.dumps(probe.state()))
        with CodeLengthProbe(net, every=2) as other:
            other.restore(stored)
            for t in range(4):
                net(x - t)
                assert other.commit() == probe.commit()
