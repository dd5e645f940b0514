"""The kernel for products of stacked matrices: equal to torch's, alone and in traced updates."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from itertools import product as combinations
from typing import Any

import pytest
import torch
from torch import nn

from rn_rl.engine.ensemble import ModuleStack, clip_gradients
from rn_rl.engine.ops import products
from rn_rl.engine.ops.products import VARIABLE, product
from rn_rl.engine.trace import PartialEvaluation, TracedFunction
from rn_rl.errors import UserError

needs_compiler = pytest.mark.skipif(
    not any(map(shutil.which, products.COMPILERS)), reason="no C++ compiler"
)


@pytest.fixture
def choose(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """Choose the kernel by the environment variable; one thread, as the kernel has."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)

    def chosen(value: str) -> None:
        monkeypatch.setenv(VARIABLE, value)
        products.kernel.cache_clear()

    yield chosen
    torch.set_num_threads(threads)
    products.kernel.cache_clear()


@needs_compiler
@pytest.mark.parametrize("transposed", list(combinations((False, True), repeat=2)))
def test_products_are_those_of_torch(choose: Any, transposed: tuple[bool, bool]):
    choose("native")
    torch.manual_seed(0)
    for m, n, k in combinations((1, 3, 4, 5, 23, 50), (1, 2, 5, 16, 33, 64), (1, 2, 16, 17, 300)):
        a = torch.randn(2, k, m).mT if transposed[0] else torch.randn(2, m, k)
        b = torch.randn(2, n, k).mT if transposed[1] else torch.randn(2, k, n)
        bias, mask = torch.randn(2, 1, n), torch.randn(2, m, n)
        plain = a.double() @ b.double()
        rows = torch.full((2, 7 + m * n), 9.0)
        assert product(a, b, rows=rows, first=5) is rows
        assert (rows[:, :5] == 9).all() and (rows[:, -2:] == 9).all()
        for found, expected in (
            (product(a, b), plain),
            (product(a, b, bias), plain + bias),
            (product(a, b, bias, relu=True), (plain + bias).relu()),
            (product(a, b, mask=mask), plain * (mask > 0)),
            (rows[:, 5:-2], plain.flatten(1)),
        ):
            torch.testing.assert_close(found.double(), expected, rtol=0, atol=2e-4)


@needs_compiler
def test_numbers_that_are_not_finite_stay(choose: Any):
    choose("native")
    a, b = torch.ones(1, 20, 20), torch.ones(1, 20, 40)
    a[0, 3, 4] = torch.nan
    a[0, 5, 0], b[0, 0, 7] = torch.inf, 0
    expected = torch.baddbmm(torch.zeros(1, 1, 1), a, b)
    assert expected.isnan().any() and expected.isinf().any()
    for relu in (False, True):
        found = product(a, b, torch.zeros(1, 1, 1), relu=relu)
        torch.testing.assert_close(found, expected, equal_nan=True)


@needs_compiler
def test_the_update_of_a_seed_does_not_depend_on_the_others(choose: Any):
    choose("native")
    torch.manual_seed(0)
    stack, update = stacked_update(nn.ReLU)
    x, y = torch.randn(4, 50, 40), torch.randn(4, 50, 30)
    gradients, losses = update(*stack.tensors, x, y)
    fewer = [t[:2].contiguous() for t in (*stack.tensors, x, y)]
    some, others = update(*fewer)
    assert torch.equal(some, gradients[:2]) and torch.equal(others, losses[:2])


@needs_compiler
def test_the_product_of_a_seed_does_not_depend_on_the_others(choose: Any):
    choose("native")
    torch.manual_seed(0)
    for m, n, k in ((1, 64, 64), (50, 64, 64), (33, 40, 300), (64, 1, 70)):
        a, b = torch.randn(7, m, k), torch.randn(7, n, k).mT
        together = product(a, b)
        for seed in range(7):
            assert torch.equal(product(a[seed : seed + 1], b[seed : seed + 1])[0], together[seed])


def stacked_update(activation: type[nn.Module]) -> tuple[ModuleStack, TracedFunction]:
    """Return four networks, and their traced gradients and losses."""

    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(
            nn.Linear(40, 64), activation(), nn.Linear(64, 64), activation(), nn.Linear(64, 30)
        )

    stack = ModuleStack([network(seed) for seed in range(4)])
    own = len(stack.tensors)

    def gradients(*tensors: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        leaves = [t.detach().requires_grad_() for t in tensors[:own]]
        x, y = tensors[own:]
        found = stack.vmap_modules(lambda net, x: net(x), leaves, x, training=True)
        losses = (found - y).square().mean((1, 2))
        parts = torch.autograd.grad(losses.sum(), leaves)
        row = torch.cat([part.flatten(1) for part in parts], 1)
        return clip_gradients(row, 0.1), losses.detach()

    return stack, TracedFunction(gradients, num_static=own)


@needs_compiler
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_updates_with_the_kernel_are_those_without(choose: Any, activation: type[nn.Module]):
    torch.manual_seed(0)
    inputs = torch.randn(4, 50, 40), torch.randn(4, 50, 30)
    found = {}
    for kind in ("torch", "native"):
        choose(kind)
        stack, update = stacked_update(activation)
        found[kind] = update(*stack.tensors, *inputs)
        [trace] = update._traces.values()
        assert isinstance(trace, PartialEvaluation)
        calls = [node for node in trace.rest.graph.nodes if node.target is product]
        assert len(calls) == (0 if kind == "torch" else 8)
        fused = [{name for name, given in call.kwargs.items() if given} for call in calls]
        relus = activation is nn.ReLU and kind == "native"
        assert sum("relu" in each for each in fused) == (2 if relus else 0)
        assert sum("mask" in each for each in fused) == (2 if relus else 0)
        assert sum("rows" in each for each in fused) == (3 if calls else 0)
        again = update(*stack.tensors, *inputs)
        assert all(map(torch.equal, found[kind], again))
    for mine, theirs in zip(found["native"], found["torch"], strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-6)


def test_small_products_other_types_and_more_threads_stay_with_torch(choose: Any):
    choose("native")
    for options in ({"dtype": torch.float64}, {"rows": 1}, {"threads": 2}):
        torch.set_num_threads(options.get("threads", 1))
        stack, update = stacked_update(nn.ReLU)
        rows = options.get("rows", 50)
        inputs = torch.randn(4, rows, 40), torch.randn(4, rows, 30)
        dtype = options.get("dtype", torch.float32)
        update(*(t.to(dtype) for t in (*stack.tensors, *inputs)))
        [trace] = update._traces.values()
        assert not [node for node in trace.rest.graph.nodes if node.target is product]


@needs_compiler
@pytest.mark.parametrize("kind", ["folded", "twice", "float64", "regrouped"])
def test_other_concatenations_of_products_stay_as_they_are(choose: Any, kind: str):
    choose("native")
    torch.manual_seed(0)
    x, w, z = torch.randn(4, 50, 40), torch.randn(4, 40, 64), torch.randn(200, 3)
    z = {"float64": torch.randn(4, 3).double(), "regrouped": torch.randn(2, 3)}.get(kind, z)

    def function(x: torch.Tensor, w: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
        product = torch.bmm(x, w)
        if kind == "folded":
            return torch.cat([product.view(200, 64), z], 1)
        if kind == "twice":
            flat = product.flatten(1)
            return torch.cat([flat, flat], 1)
        return torch.cat([product.view(len(z), -1), z], 1)

    found, expected = TracedFunction(function)(x, w, z), function(x, w, z)
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_without_a_compiler_torch_multiplies(choose: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    choose("native")
    with pytest.warns(UserWarning, match=r"RN_RL_PRODUCTS=native: there is no C\+\+ compiler"):
        assert products.kernel() is None
    choose("")
    monkeypatch.setattr(products, "is_faster_here", lambda: True)
    assert products.kernel() is None  # nobody asked, so nobody is told


@needs_compiler
def test_a_kernel_with_wrong_results_is_not_used(choose: Any, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(products, "compiled", lambda: lambda *given: None)
    choose("native")
    with pytest.warns(UserWarning, match="are wrong; torch's products are used"):
        assert products.kernel() is None


def test_an_unknown_choice_is_one_line(choose: Any):
    choose("mkl")
    with pytest.raises(UserError, match="RN_RL_PRODUCTS=mkl: expected torch, native or nothing"):
        products.kernel()


@needs_compiler
def test_the_kernel_is_compiled_once(choose: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Any):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    choose("native")
    assert products.kernel() is not None
    [library] = (tmp_path / "rn-rl").iterdir()
    before = library.stat().st_mtime_ns
    choose("native")
    assert products.kernel() is not None and library.stat().st_mtime_ns == before
    assert (tmp_path / "rn-rl").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("transposed", list(combinations((False, True), repeat=2)))
def test_the_vector_of_one_seed_is_multiplied_as_those_of_several(
    choose: Any, transposed: tuple[bool, bool]
):
    """torch has another routine for one matrix and one vector, which rounds otherwise."""
    choose("torch")
    torch.manual_seed(0)
    for m, n in ((1, 64), (40, 1), (1, 1)):
        for k in (17, 64, 256):
            a = torch.randn(3, k, m).mT if transposed[0] else torch.randn(3, m, k)
            b = torch.randn(3, n, k).mT if transposed[1] else torch.randn(3, k, n)
            bias = torch.randn(3, 1, n)
            for function, inputs in (
                (torch.bmm, (a, b)),
                (torch.baddbmm, (bias.expand(3, m, n), a, b)),
                (lambda c, x, y: (c * 2).baddbmm_(x, y), (bias.expand(3, m, n), a, b)),
            ):
                whole = TracedFunction(function)(*inputs)
                for seed in range(3):
                    alone = TracedFunction(function)(*(x[seed : seed + 1] for x in inputs))
                    assert torch.equal(alone[0], whole[seed]), (m, n, k)
