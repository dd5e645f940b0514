"""Stacked networks and traced functions compute the same numbers as single networks."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from rn_rl.engine.ensemble import ModuleStack
from rn_rl.engine.trace import TracedFunction
from rn_rl.normalization import REGISTRY, make_normalizers


def network(norm: str, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    first = nn.Linear(5, 8)
    return nn.Sequential(first, *make_normalizers(norm, 8, layer=first), nn.ReLU(), nn.Linear(8, 3))


@pytest.mark.parametrize("spec", REGISTRY, indirect=True)
def test_a_stack_observes_commits_and_predicts_as_single_networks(spec: str):
    single = [network(spec, seed).double() for seed in range(4)]
    stack = ModuleStack(copy.deepcopy(single))
    predict = TracedFunction(
        lambda *t: stack.vmap_modules(lambda m, x: m(x), t[:-1], t[-1]),
        num_static=len(stack.tensors),
        cache_invariants=True,
    )
    learn = TracedFunction(
        lambda *t: stack.vmap_modules(lambda m, x: m(x), t[:-1], t[-1], training=True)
    )
    for phase in range(4):
        for _ in range(2):
            x = 2**phase * torch.randn(4, 16, 5, dtype=torch.float64)
            stack.set_training_mode(True)
            actual = learn(*stack.tensors, x)
            reference = torch.stack([m.train()(row) for m, row in zip(single, x, strict=True)])
            torch.testing.assert_close(actual, reference.detach(), rtol=1e-11, atol=1e-11)
        stack.set_training_mode(False)
        for module in single:
            module.eval()
        x = torch.randn(4, 3, 5, dtype=torch.float64)
        reference = torch.stack([m(row) for m, row in zip(single, x, strict=True)]).detach()
        for _ in range(2):
            torch.testing.assert_close(
                predict(*stack.tensors, x), reference, rtol=1e-11, atol=1e-11
            )
    for seed, module in enumerate(single):
        fresh = network(spec, 99).double()
        stack.load_into(seed, fresh)
        for name, value in module.state_dict().items():
            torch.testing.assert_close(fresh.state_dict()[name], value, rtol=1e-11, atol=1e-11)


def test_cached_invariants_are_recomputed_when_a_static_tensor_changes():
    def function(weight: Tensor, x: Tensor) -> Tensor:
        return x * (weight * 2).exp()

    traced = TracedFunction(function, num_static=1, cache_invariants=True)
    weight, x = torch.zeros(3), torch.ones(3)
    assert torch.equal(traced(weight, x), x)
    traced.function = None  # type: ignore[assignment]  # it is not traced again
    weight.add_(1)
    torch.testing.assert_close(traced(weight, x), torch.full((3,), 2.0).exp())
    weight[:2].zero_()  # through a view
    torch.testing.assert_close(traced(weight, 2 * x)[:2], torch.full((2,), 2.0))
    torch.testing.assert_close(traced(torch.ones(3), x), torch.full((3,), 2.0).exp())


def test_tracing_changes_nothing_and_a_replay_changes_its_inputs():
    def function(state: Tensor, x: Tensor) -> Tensor:
        state.add_(x.detach().sum())
        return x * state

    traced = TracedFunction(function)
    state, x = torch.zeros(()), torch.ones(4)
    assert torch.equal(traced(state, x), 4 * x) and state == 4
    assert torch.equal(traced(state, x), 8 * x) and state == 8


@pytest.mark.parametrize("cache_invariants", [False, True])
def test_constants_that_a_function_makes_keep_their_values(cache_invariants):
    def function(mask, x):
        return torch.where(mask, x, torch.tensor(-1e8)).exp_() + torch.tensor([1.0, 2.0])

    traced = TracedFunction(function, num_static=1, cache_invariants=cache_invariants)
    mask = torch.tensor([True, False])
    for x in (torch.tensor([0.0, 3.0]), torch.tensor([1.0, -2.0])):
        torch.testing.assert_close(traced(mask, x.clone()), function(mask, x.clone()))


def test_without_a_compiler_the_traced_graph_runs_uncompiled(monkeypatch):
    def fails(graph, **kwargs):
        def compiled(*tensors):
            raise RuntimeError("no C++ compiler here")

        return compiled

    monkeypatch.setattr(torch, "compile", fails)
    traced = TracedFunction(lambda x: x * 2, compile=True)
    with pytest.warns(UserWarning, match="no C\\+\\+ compiler here.*going on without it"):
        assert torch.equal(traced(torch.ones(3)), torch.full((3,), 2.0))
    assert torch.equal(traced(torch.zeros(3)), torch.zeros(3))


@pytest.mark.parametrize("training", [True, False])
def test_gradients_of_stacked_convolutions_equal_those_of_single_networks(training: bool):
    def build(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        layers = [
            nn.Conv2d(3, 4, 2, stride=2, bias=False),
            nn.ReLU(),
            nn.Conv2d(4, 6, 3, padding=1),
        ]
        return nn.Sequential(*layers, nn.Tanh(), nn.Flatten(), nn.Linear(24, 2)).double()

    single = [build(seed) for seed in range(3)]
    stack = ModuleStack(single)
    count = len(stack.tensors)

    def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = [t.detach().requires_grad_() for t in tensors[:count]]
        y = stack.vmap_modules(lambda m, x: m(x), leaves, tensors[count], training=training)
        return torch.autograd.grad(y.square().sum(), leaves)

    x = torch.randn(3, 5, 3, 4, 4, dtype=torch.float64)
    traced = TracedFunction(gradients, num_static=count)
    for scale in (1, 2):
        actual = traced(*stack.tensors, scale * x)
        for i, module in enumerate(single):
            reference = torch.autograd.grad(
                module(scale * x[i]).square().sum(), module.parameters()
            )
            for gradient, reference_gradient in zip(actual, reference, strict=True):
                torch.testing.assert_close(gradient[i], reference_gradient, rtol=1e-11, atol=1e-11)


def test_views_are_hoisted_before_casts():
    """Views of static tensors are computed once; results with other uses keep their shape."""

    def function(state: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        narrow = state.reciprocal().float()
        other = state.float()
        return x * narrow.view(3, 1), other.view(1, 3) + x, other * 2, x * state.float().view(3, 1)

    traced = TracedFunction(function, num_static=1)
    state, x = torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64), torch.randn(3, 3)
    for scale in (1, 3):
        state *= scale
        for actual, reference in zip(traced(state, x), function(state, x), strict=True):
            assert torch.equal(actual, reference)
    [trace] = traced._traces.values()
    views = trace.rest.graph.find_nodes(op="call_function", target=torch.ops.aten.view.default)
    assert len(views) == 1


def test_in_place_operations_overwrite_nothing_that_is_used_later():
    def function(kept: Tensor, x: Tensor) -> tuple[Tensor, ...]:
        a = x * 2
        b = a + kept  # the last use of a
        view = b[:2]
        c = b * 3  # b is still used through its view
        d = (kept * 5) * x  # the first factor is cached between calls
        e = d * d
        f = torch.relu(e - 1)
        return b.clone(), view * 1.5, c, d, e.exp(), f, x * f

    traced = TracedFunction(function, num_static=1, cache_invariants=True)
    kept, x = torch.randn(4), torch.randn(4)
    expected = [t.clone() for t in function(kept, x)]
    copies = kept.clone(), x.clone()
    for _ in range(3):
        for actual, reference in zip(traced(kept, x), expected, strict=True):
            assert torch.equal(actual, reference)
        assert torch.equal(kept, copies[0]) and torch.equal(x, copies[1])
    [trace] = traced._traces.values()
    targets = {str(node.target) for node in trace.rest.graph.nodes}
    assert {"aten.add_.Tensor", "aten.relu_.default"} <= targets


@pytest.mark.parametrize(
    ("spec", "groups"),
    [("rn", 1), ("rn+rsn", 1), ("rn+rn(half_life=5)", 2), ("rln+rn", 2), ("bn", 3), ("none", 0)],
)
def test_normalizers_that_commit_alike_commit_together(spec, groups):
    """Every state equals that of a normalizer in a single network."""
    single = [
        nn.Sequential(
            *(m for _ in range(3) for m in (nn.Linear(5, 5), *make_normalizers(spec, 5)))
        ).double()
        for _ in "ab"
    ]
    stack = ModuleStack(single)
    assert len(stack.commit_groups) == groups
    x = torch.randn(2, 9, 5).double()
    for _ in range(4):
        x = x + 1
        before = [state.clone() for state in stack.running_state()]
        stack.set_training_mode(True)
        stack.vmap_modules(lambda module, x: module(x), stack.tensors, x, training=True)
        stack.set_training_mode(False)
        named = dict(zip(stack.names, stack.tensors_before_commit(), strict=True))
        kept = [named[name] for name in stack.names if "running_" in name]
        assert all(torch.equal(a, b) for a, b in zip(kept, before, strict=True))
        for seed, module in enumerate(single):
            module.train()(x[seed])
            module.eval()
            actual, reference = stack.unstack(seed), module.state_dict()
            for name, value in reference.items():
                torch.testing.assert_close(actual[name], value, rtol=1e-10, atol=1e-10)
