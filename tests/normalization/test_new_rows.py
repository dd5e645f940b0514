"""Dynamic tanh, running statistics, fixed norms and PopArt: formulas, and what their docstrings say."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl.engine.ensemble import ModuleStack
from rn_rl.errors import UserError
from rn_rl.normalization import (
    PopArt,
    canonical_spec,
    constraints,
    make_normalizers,
    parse_spec,
    project,
    state_before_commit,
)
from rn_rl.normalization.projection import UnitRows, project_after_steps


def test_dynamic_tanh_is_its_formula():
    [norm] = make_normalizers("dyt(alpha=0.25)", 3)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, 2.0, -1.0]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, 5.0]))
    x = torch.tensor([[4.0, -4.0, 0.0]])
    t = float(np.tanh(1.0))
    torch.testing.assert_close(norm(x), torch.tensor([[t, 1 - 2 * t, 5.0]]))
    assert sum(p.numel() for p in make_normalizers("dyt", 64)[0].parameters()) == 129
    with pytest.raises(UserError, match="dyt alpha=0: expected a number above 0"):
        make_normalizers("dyt(alpha=0)", 3)


def test_running_statistics_are_those_of_all_samples_so_far():
    rng = np.random.default_rng(0)
    phases = [5 + 2**t * rng.normal(size=(30 + 7 * t, 4)) for t in range(5)]
    [norm] = make_normalizers("rsnorm", 4)
    assert not list(norm.parameters())
    x = torch.from_numpy(phases[0])
    torch.testing.assert_close(norm.eval()(x), x / np.sqrt(1 + 1e-5))  # before the first commit
    for t, phase in enumerate(phases):
        norm.train()
        for part in np.array_split(phase, 3):
            norm(torch.from_numpy(part))
        norm.eval()
        seen = np.concatenate(phases[: t + 1])
        expected = (phase - seen.mean(0)) / np.sqrt(seen.var(0) + 1e-5)
        np.testing.assert_allclose(norm(torch.from_numpy(phase)), expected, rtol=1e-9, atol=1e-9)


def test_large_means_lose_no_digits_of_running_statistics():
    [norm] = make_normalizers("rsnorm", 1)
    x = 1e6 + torch.arange(100.0)[:, None] / 4  # exact in float32
    norm.train()(x)
    y = norm.eval()(x)
    assert abs(y.mean()) < 1e-5 and abs(y.std(unbiased=False) - 1) < 1e-5


def small_network(seed=0, spec="ln+nap"):
    torch.manual_seed(seed)
    layer = nn.Linear(5, 8)
    return nn.Sequential(layer, *make_normalizers(spec, 8, layer=layer), nn.ReLU(), nn.Linear(8, 2))


def step(network, optimizer, x):
    optimizer.zero_grad()
    network(x).square().mean().backward()
    optimizer.step()


def test_nap_keeps_norms_and_changes_no_output_of_a_scale_invariant_layer():
    network, free = small_network(), small_network()
    weight = network[0].parametrizations.weight.original
    before = weight.norm().item()
    project_after_steps(network, optimizer := torch.optim.Adam(network.parameters(), 0.1))
    other = torch.optim.Adam(free.parameters(), 0.1)
    for t in range(20):
        x = torch.randn(16, 5)
        step(network, optimizer, x)
        step(free, other, x)
        norm = network[1]
        assert abs(weight.norm().item() / before - 1) < 1e-6, t
        joint = torch.cat((norm.weight, norm.bias)).norm()
        assert abs(joint.item() / 8**0.5 - 1) < 1e-6
    unprojected = free[0].parametrizations.weight.original.norm().item()
    assert unprojected > 1.5 * before  # which is what it prevents


def test_projecting_only_the_weight_leaves_the_function_where_biases_are_zero():
    network = small_network().double()
    with torch.no_grad():
        network[0].bias.zero_()
        x = torch.randn(16, 5, dtype=torch.float64)
        before = network(x)
        network[0].parametrizations.weight.original.mul_(7)
        network[0].parametrizations.weight[0].fixed_norm.mul_(1)
        project([c for c in constraints(network) if "original" in c.names[0]], get(network))
        torch.testing.assert_close(network(x), before, rtol=1e-9, atol=1e-4)


def get(module):
    tensors = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    return tensors.__getitem__


def test_an_initialization_sets_the_norm_to_keep():
    network = small_network()
    [fixed] = [c for c in constraints(network) if "original" in c.names[0]]
    network[0].weight = 3 * torch.ones(8, 5)
    torch.testing.assert_close(get(network)(fixed.norm), torch.tensor(3 * 40**0.5))


def test_a_stack_is_projected_as_its_networks_are():
    singles = [small_network(seed) for seed in range(3)]
    stack = ModuleStack(copy.deepcopy(singles))
    with torch.no_grad():
        stack.weights.mul_(torch.tensor([[2.0], [3.0], [4.0]]))
    tensors = dict(zip(stack.names, stack.tensors, strict=True))
    project(constraints(stack.module), tensors.__getitem__, stacked=True)
    for seed, single in enumerate(singles):
        with torch.no_grad():
            for parameter in single.parameters():
                parameter.mul_(seed + 2)
        project(constraints(single), get(single))
        for name, value in stack.unstack(seed).items():
            torch.testing.assert_close(value, single.state_dict()[name], msg=name)


def test_unit_rows_stay_unit_rows_and_only_the_optimized_ones_are_projected():
    torch.manual_seed(0)
    network, target = nn.Sequential(UnitRows(6, 4)), nn.Sequential(UnitRows(6, 4))
    optimizer = torch.optim.SGD(network.parameters(), 0.5)
    both = nn.ModuleList([network, target])
    project_after_steps(both, optimizer)
    with torch.no_grad():
        target[0].weight.mul_(2)
    for _ in range(3):
        step(network, optimizer, torch.randn(8, 6))
    torch.testing.assert_close(network[0].weight.norm(dim=1), torch.ones(4))
    torch.testing.assert_close(target[0].weight.norm(dim=1), torch.full((4,), 2.0))
    assert network[0].bias.abs().min() > 0


def test_nap_without_a_scale_invariant_normalizer_is_warned_of():
    for spec in ("rn+nap", "dyt+nap"):
        with pytest.warns(UserWarning, match=r"nap fixes the norm .* expected one beside it"):
            make_normalizers(spec, 8, layer=nn.Linear(8, 8))
    assert canonical_spec("nap+ln") == "ln+nap" and canonical_spec("rn+wn") == "wn+rn"
    with pytest.raises(UserError, match="at most one term that changes the weights"):
        parse_spec("ln+wn+nap")
    with pytest.raises(UserError, match="rsnorm twice"):
        parse_spec("rsnorm+ln+rsnorm")


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_outputs_stay_when_popart_moves(dtype):
    torch.manual_seed(0)
    layer = PopArt(nn.Linear(6, 3).to(dtype), half_life=3).to(dtype)
    x = torch.randn(50, 6, dtype=dtype)
    for t in range(12):
        before = layer.eval()(x).detach()
        layer.train()
        layer.observe_targets(10.0**t / 1e4 * torch.randn(40) + 3 * t)
        sigma_before = layer.gain.item()
        layer.eval()
        after = layer(x).detach()
        scale = before.abs().max() + layer.gain.to(dtype)
        assert ((after - before).abs().max() / scale).item() < 1e-6, t
        assert t == 0 or layer.gain.item() != sigma_before


def test_outputs_stay_when_popart_is_reset():
    layer = PopArt(nn.Linear(4, 2)).double()
    layer.train().observe_targets(100 + 50 * torch.randn(500))
    layer.eval()
    x = torch.randn(5, 4, dtype=torch.float64)
    before = layer(x)
    layer.reset_running_state()
    assert layer.gain.item() == 1 and layer.running_state[:2, 0].tolist() == [0, 1]
    torch.testing.assert_close(layer(x), before, rtol=1e-12, atol=1e-12)
    with state_before_commit(layer):
        torch.testing.assert_close(layer(x), before, rtol=1e-12, atol=1e-12)


def test_popart_learns_the_normalized_error():
    """One SGD step of PopArt is that of a plain layer on standardized targets."""
    torch.manual_seed(0)
    plain = nn.Linear(4, 1).double()
    layer = PopArt(copy.deepcopy(plain)).double()
    targets = 50 + 20 * torch.randn(64, dtype=torch.float64)
    layer.train().observe_targets(targets)
    layer.eval()
    mean, std = targets.mean(), targets.std(unbiased=False)
    x = torch.randn(64, 4, dtype=torch.float64)
    reference = copy.deepcopy(layer.linear)
    for parameters, loss in (
        (layer.parameters(), (layer.train()(x)[:, 0] - targets).square().mean()),
        (reference.parameters(), (reference(x)[:, 0] - (targets - mean) / std).square().mean()),
    ):
        loss.backward()
        torch.optim.SGD(parameters, 0.1).step()
    torch.testing.assert_close(layer.linear.weight, reference.weight, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(layer.linear.bias, reference.bias, rtol=1e-10, atol=1e-12)


def test_popart_without_targets_is_an_error_and_a_target_network_keeps_its_outputs():
    layer = PopArt(nn.Linear(4, 2))
    layer.train()(torch.randn(3, 4))
    with pytest.raises(UserError, match=r"no targets were observed .*ValueTargets"):
        layer.eval()
    target = PopArt(nn.Linear(4, 2))
    x = torch.randn(5, 4)
    before = target(x)
    target.adopt(torch.tensor([[7.0], [25.0], [9.0]], dtype=torch.float64))
    torch.testing.assert_close(target(x), before, rtol=1e-5, atol=1e-5)
    assert target.gain.item() == 5
