"""Pure functions of regularity normalization: chunking, long histories, vmap, compilation."""

import copy
import math
import shutil

import pytest
import torch
from torch import nn
from torch.func import functional_call, stack_module_state, vmap

from rn_rl.normalization import (
    REGISTRY,
    RegularityNorm,
    functional,
    make_normalizers,
    phase_norms,
)
from rn_rl.normalization.functional import COUNT, GAIN, MEAN, PHASES, VAR

PHASE_RULE = [row.name for row in REGISTRY.values() if row.phase_rule]
STATEFUL = [name for name in PHASE_RULE if REGISTRY[name].stateful]
OF_ACTIVATIONS = [name for name in STATEFUL if REGISTRY[name].factory is not None]
WITH_CODES = ["rn", "rln", "rsn", "sn"]


def after_phases(module, phases=3, features=8, dtype=torch.float32):
    module.to(dtype)
    for t in range(phases):
        module.train()(torch.randn(64, features, dtype=dtype) * (1 + t) + t)
        module.eval()
    return module


@pytest.mark.parametrize("num_codes", [1, 5])
def test_commit_without_observations_returns_the_same_bits(num_codes):
    state = torch.randn(6, num_codes, dtype=torch.float64)
    assert torch.equal(functional.commit(state, torch.zeros(4, num_codes).double()), state)


def test_observe_and_commit_leave_their_arguments_alone():
    x, state = torch.randn(9, 4), functional.initial_state(4)
    x_before, state_before = x.clone(), state.clone()
    pending = functional.observe(x, state)
    pending_before = pending.clone()
    functional.commit(state, pending, decay=0.9)
    assert torch.equal(x, x_before)
    assert torch.equal(state, state_before)
    assert torch.equal(pending, pending_before)


@pytest.mark.parametrize("num_codes", [1, 4])
def test_commit_is_the_same_in_numpy_and_in_torch(num_codes):

    state = functional.initial_state(num_codes)
    for t in range(4):
        pending = functional.observe(torch.randn(30, 4) + t, state)
        ours = functional.commit(state.numpy(), pending.numpy(), decay=0.8)
        state = functional.commit(state, pending, decay=0.8)
        torch.testing.assert_close(torch.from_numpy(ours), state, rtol=1e-13, atol=0)


@pytest.mark.parametrize("chunks", [(24, 24), (20, 4, 24), (1,) * 48])
@pytest.mark.parametrize("name", OF_ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "error"), [(torch.float64, 1e-12), (torch.float32, 1e-5)])
def test_state_does_not_depend_on_how_a_phase_is_chunked(name, chunks, dtype, error, build):
    whole, parts = build(name).to(dtype), build(name).to(dtype)
    for t in range(4):
        x = torch.randn(48, 8, dtype=dtype) * (1 + t) + t
        whole.train()(x)
        parts.train()
        for chunk in x.split(chunks):
            parts(chunk)
        whole.eval(), parts.eval()
        for key, value in whole.state_dict().items():
            torch.testing.assert_close(parts.state_dict()[key], value, rtol=error, atol=error)


@pytest.mark.parametrize("axis", ["layer", "neuron"])
def test_a_hundred_million_commits_do_not_saturate_the_state(axis):
    norm = after_phases(RegularityNorm(64, axis), features=64)
    elements = 50 * (64 if axis == "layer" else 1)
    norm.running_state[COUNT] = 1e8 * elements
    norm.running_state[PHASES] = 1e8
    before = norm.running_state.clone()
    x = torch.randn(50, 64) + 7
    norm.train()(x)
    after = norm.eval().running_state
    mean = x.double().mean() if axis == "layer" else x.double().mean(0)
    torch.testing.assert_close(
        after[MEAN] - before[MEAN], (mean - before[MEAN]) / (1e8 + 1), rtol=1e-3, atol=0
    )
    assert torch.equal(after[COUNT], before[COUNT] + elements)
    assert torch.equal(after[PHASES], before[PHASES] + 1)


@pytest.mark.parametrize("name", WITH_CODES)
def test_stationary_gain_is_log_t(name):
    [norm], x = make_normalizers(name, 8), torch.randn(64, 8)
    for t in range(60):  # the same data in every phase: as stationary as it gets
        norm.train()(x)
        norm.eval()
        expected = math.log(max(t, 1) + math.e - 1)
        torch.testing.assert_close(norm.gain, torch.full_like(norm.gain, expected))


@pytest.mark.parametrize("half_life", [0.5, 2, 5])
@pytest.mark.parametrize("name", WITH_CODES)
def test_gain_with_a_half_life_is_steady_at_a_known_value(name, half_life):
    [norm], x = make_normalizers(f"{name}({half_life})", 8), torch.randn(64, 8)
    for _ in range(200):
        norm.train()(x)
        norm.eval()
    steady = -math.log(1 - 2 ** (-1 / half_life))
    torch.testing.assert_close(norm.gain, torch.full_like(norm.gain, steady))


def test_gain_on_fresh_samples_of_one_distribution_comes_near_the_stationary_one():
    cumulative, forgetting = RegularityNorm(16), RegularityNorm(16, half_life=5)
    for _ in range(100):
        x = torch.randn(256, 16) * 3 + 1
        for norm in (cumulative, forgetting):
            norm.train()(x)
            norm.eval()
    assert cumulative.gain.item() == pytest.approx(math.log(99 + math.e - 1), abs=0.03)
    assert forgetting.gain.item() == pytest.approx(-math.log(1 - 2 ** (-1 / 5)), abs=0.03)


def test_half_life_is_when_an_observation_counts_half():
    norm = RegularityNorm(4, half_life=3)
    norm.train()(torch.randn(10, 4))
    norm.eval()
    for _ in range(3):
        norm.train()(torch.randn(10, 4))
        norm.eval()
    q = 2 ** (-1 / 3)
    assert norm.running_state[COUNT].item() == pytest.approx(40 * (1 / 2 + q**2 + q + 1))


def test_the_second_commit_leaves_the_gain_at_1():
    norm = after_phases(RegularityNorm(8, "neuron"), phases=2)
    torch.testing.assert_close(norm.gain, torch.ones(8, dtype=torch.float64), rtol=1e-15, atol=0)


def test_variance_includes_what_lies_between_the_phases():
    norm = RegularityNorm(1)
    for value in (-1.0, 1.0):
        norm.train()(torch.full((8, 1), value))
        norm.eval()
    assert norm.running_state[MEAN].item() == pytest.approx(0, abs=1e-12)
    assert norm.running_state[VAR].item() == pytest.approx(1, rel=1e-4)  # as published: 0


# a power of 2 can round differently at the end of a vector of the processor than within
@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float64, 1e-13), (torch.float32, 1e-6)])
@pytest.mark.parametrize("decay", [1.0, 0.7])
@pytest.mark.parametrize("num_codes", [1, 5])
def test_stacked_states_under_vmap_equal_separate_ones(num_codes, decay, dtype, rtol):
    states = [functional.initial_state(num_codes) for _ in range(3)]
    stacked = torch.stack(states)
    for t in range(4):
        x = torch.randn(3, 20, 5, dtype=dtype) * torch.tensor([1.0, 2.0, 3.0])[:, None, None] + t
        weight = torch.rand(3, 20)
        for i in range(3):
            pending = functional.observe(x[i], states[i], weight[i])
            states[i] = functional.commit(states[i], pending, decay)
        pending = vmap(functional.observe)(x, stacked, weight)
        stacked = vmap(lambda s, p: functional.commit(s, p, decay))(stacked, pending)
    torch.testing.assert_close(stacked, torch.stack(states), rtol=rtol, atol=0)
    assert len(set(stacked[:, GAIN, 0].tolist())) == 3


@pytest.mark.filterwarnings("ignore:There is a performance drop:UserWarning")  # torch, for wn
@pytest.mark.parametrize("name", REGISTRY)
def test_stacked_modules_equal_separate_ones(name, build):
    nets, moving = [], "pending_sums" if REGISTRY[name].phase_rule else "running_state"
    for i in range(3):
        net = nn.Sequential(nn.Linear(8, 8), build(name), nn.ReLU())
        nets.append(after_phases(net, phases=3 + i, dtype=torch.float64).train())
    parameters, buffers = stack_module_state(nets)
    x = torch.randn(3, 20, 8).double()

    def call(p, b, batch):
        return functional_call(nets[0], (p, b), (batch,))

    with torch.no_grad():
        separate = torch.stack([net(batch) for net, batch in zip(nets, x, strict=True)])
        for key in buffers:  # the separate forwards have observed, these not yet
            expected = torch.stack([net.state_dict()[key] for net in nets])
            assert torch.equal(buffers[key], expected) == (not key.endswith(moving))
        torch.testing.assert_close(vmap(call)(parameters, buffers, x), separate)
    for key in buffers:
        expected = torch.stack([net.state_dict()[key] for net in nets])
        torch.testing.assert_close(buffers[key], expected)


class NextState(nn.Module):
    """A module whose forward returns the state of a normalizer after a commit."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self):
        return self.norm.next_state()


# on the CPU those with codes commit in NumPy; functional.commit is stacked in a test above
@pytest.mark.parametrize("name", [n for n in STATEFUL if n not in WITH_CODES])
def test_stacked_commits_equal_separate_ones(name, build):
    norms = []
    for i in range(3):
        module = after_phases(build(name), phases=i).train()
        if i != 1:  # one of them has nothing pending
            module(torch.randn(20, 8))
        norms.extend(map(NextState, phase_norms(module).values()))
    _, buffers = stack_module_state(norms)
    stacked = vmap(lambda state: functional_call(norms[0], state, ()))(buffers)
    assert len(norms) == 3
    for norm, state in zip(norms, stacked, strict=True):
        torch.testing.assert_close(state, norm(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("name", REGISTRY)
def test_a_compiled_module_has_one_graph_and_the_same_numbers(name, build):
    torch.compiler.reset()
    plain = after_phases(nn.Sequential(nn.Linear(8, 8), build(name)), dtype=torch.float64)
    twin = copy.deepcopy(plain)
    compiled = torch.compile(twin, backend="eager", fullgraph=True)
    x = torch.randn(20, 8).double()
    for training in (True, False):  # with what it observed, and then with the state that gave
        outputs, gradients = [], []
        for net in (plain, compiled):
            copied = x.clone().requires_grad_()
            outputs.append(net.train(training)(copied))
            gradients.append(torch.autograd.grad(outputs[-1].square().sum(), copied)[0])
        torch.testing.assert_close(outputs[1], outputs[0])
        torch.testing.assert_close(gradients[1], gradients[0])
        for key, value in plain.state_dict().items():
            torch.testing.assert_close(twin.state_dict()[key], value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.skipif(" " in torch.__file__, reason="inductor does not quote the path of torch")
@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_gives_the_same_numbers(build):
    """Only the training forward: each graph takes the C++ compiler seconds."""
    torch.compiler.reset()
    plain = after_phases(build("rln"), dtype=torch.float64).train()
    twin = copy.deepcopy(plain)
    x = torch.randn(20, 8).double()
    torch.testing.assert_close(torch.compile(twin, fullgraph=True)(x), plain(x))
    for key, value in plain.state_dict().items():
        torch.testing.assert_close(twin.state_dict()[key], value)
    assert plain[0].pending_sums.any()


def test_code_length_is_a_difference_of_logarithms():
    mass, density = torch.tensor([8.0, 2.0]), torch.tensor([2.0, 2.0])
    length = functional.code_length(mass.log(), density.log())
    torch.testing.assert_close(length, torch.tensor([math.log(4), 0.0]))
