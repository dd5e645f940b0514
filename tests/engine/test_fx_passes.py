"""Optimization passes over traced graphs: the operations that are left, and equal results."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.fx import GraphModule
from torch.fx.experimental.proxy_tensor import make_fx

from rn_rl.engine.fx_passes import in_place, simplify


def operations(graph: GraphModule) -> list[str]:
    """Names of the operations of a graph, in order."""
    calls = [node for node in graph.graph.nodes if node.op == "call_function"]
    return [str(node.target).split(".")[1] for node in calls]


def double_use(b: Tensor, x: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
    product = x.bmm(w)
    return b + product, product


B, X, W = torch.randn(2, 3, 5), torch.randn(2, 3, 4), torch.randn(2, 4, 5)
NARROW = torch.randn(3, dtype=torch.float64)

CASES: dict[str, tuple[Callable[..., object], tuple[Tensor, ...], list[str]]] = {
    "reshape to the same shape": (lambda x: x.expand(2, 3, 4).exp(), (X,), ["exp"]),
    "reshape to another shape": (lambda x: x.view(6, 4).exp(), (X,), ["view", "exp"]),
    "detach": (lambda x: x.detach().exp(), (X,), ["exp"]),
    "clone of a product": (lambda x, w: x.bmm(w).clone(), (X, W), ["bmm"]),
    "clone of an input": (lambda x: x.clone(), (X,), ["clone"]),
    "select of a permutation": (lambda x: x.permute(1, 0, 2)[1], (X,), ["select"]),
    "select that keeps two axes exchanged": (
        lambda x: x.permute(1, 2, 0)[1],
        (X,),
        ["permute", "select"],
    ),
    "view of a cast": (lambda x: x.float().view(3, 1), (NARROW,), ["view", "_to_copy"]),
    "view of a reciprocal of a cast": (
        lambda x: x.float().reciprocal().view(3, 1),
        (NARROW,),
        ["view", "_to_copy", "reciprocal"],
    ),
    "bias": (lambda b, x, w: b + x.bmm(w), (B, X, W), ["baddbmm"]),
    "bias that is broadcast": (
        lambda b, x, w: b[:, :1] + x.bmm(w),
        (B, X, W),
        ["slice", "baddbmm"],
    ),
    "scaled sum": (
        lambda b, x, w: torch.add(b, x.bmm(w), alpha=2),
        (B, X, W),
        ["bmm", "add"],
    ),
    "product with another use": (double_use, (B, X, W), ["bmm", "add"]),
    "transpose of a product": (
        lambda a, b: a.transpose(1, 2).bmm(b).transpose(1, 2),
        (X, B),
        ["transpose", "bmm"],
    ),
    "transpose of a product of inputs": (
        lambda x, w: x.bmm(w).transpose(1, 2),
        (X, W),
        ["bmm", "transpose"],
    ),
}


@pytest.mark.parametrize(("function", "inputs", "expected"), CASES.values(), ids=CASES)
def test_simplify(function, inputs, expected):
    graph = simplify(make_fx(function, tracing_mode="fake")(*inputs))
    assert operations(graph) == expected
    torch.testing.assert_close(graph(*inputs), function(*inputs))


def test_the_transpose_of_a_product_is_contiguous_after_simplify():
    def gradient(x: Tensor, d_y: Tensor) -> Tensor:
        return x.transpose(1, 2).bmm(d_y).transpose(1, 2)

    graph = simplify(make_fx(gradient, tracing_mode="fake")(X, B))
    assert graph(X, B).is_contiguous() and not gradient(X, B).is_contiguous()


def test_in_place_overwrites_neither_inputs_nor_results_with_later_uses():
    def function(x: Tensor) -> tuple[Tensor, Tensor]:
        y = x.exp()  # x is an input
        z = y * 2  # y is used below
        return z.neg(), y

    graph = in_place(make_fx(function, tracing_mode="fake")(X))
    assert operations(graph) == ["exp", "mul", "neg_"]
    before = X.clone()
    torch.testing.assert_close(graph(X), function(X))
    assert torch.equal(X, before)
