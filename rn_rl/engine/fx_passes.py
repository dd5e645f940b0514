"""Optimization passes over a traced graph of ATen operations.

:func:`simplify` removes operations that tracing under ``vmap`` leaves behind and fuses the addition of a
bias into the matrix product before it; :func:`in_place` then lets operations overwrite intermediate
results that have no later use. Both modify the graph that they are given, and return it. Its results
stay the same up to rounding.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.fx import Graph, GraphModule, Node

aten = torch.ops.aten

_RESHAPES = (aten.expand.default, aten.view.default, aten._unsafe_view.default)
_UNARY = (aten._to_copy.default, aten.reciprocal.default)
_IN_PLACE_VARIANTS = {
    aten.add.Tensor: aten.add_.Tensor,
    aten.baddbmm.default: aten.baddbmm_.default,
    aten.div.Tensor: aten.div_.Tensor,
    aten.exp.default: aten.exp_.default,
    aten.exp2.default: aten.exp2_.default,
    aten.index_add.default: aten.index_add_.default,
    aten.mul.Tensor: aten.mul_.Tensor,
    aten.neg.default: aten.neg_.default,
    aten.relu.default: aten.relu_.default,
    aten.scatter_add.default: aten.scatter_add_.default,
    aten.sub.Tensor: aten.sub_.Tensor,
    aten.tanh.default: aten.tanh_.default,
    aten.threshold_backward.default: aten.threshold_backward.grad_input,
}


def simplify(graph_module: GraphModule) -> GraphModule:
    """Apply the peephole passes to each operation, in one traversal, and eliminate dead code.

    To each operation the first pass that matches is applied: :func:`eliminate_noops`,
    :func:`sink_permute`, :func:`hoist_view`, :func:`fuse_bias_add` or :func:`sink_transpose`.

    Args:
        graph_module: a graph of ATen operations whose nodes hold fake tensors in ``meta["val"]``, as
            ``make_fx(function, tracing_mode="fake")`` records it.
    """
    graph = graph_module.graph
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        any(rewrite(graph, node) for rewrite in _PEEPHOLE)
    graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


def eliminate_noops(graph: Graph, node: Node) -> bool:
    """Remove an operation whose result equals its first argument.

    These are reshapes to the same shape, ``detach``, multiplications by 1, and a ``clone`` of the result
    of ``bmm``, which is contiguous and belongs to no other tensor.
    """
    source: Any = node.args[0] if node.args else None
    noop: bool
    if node.target in _RESHAPES:
        noop = _same_type(node, source)
    elif node.target is aten.mul.Scalar:
        noop = bool(node.args[1] == 1) and _same_type(node, source)
    elif node.target is aten.clone.default:
        noop = source.target is aten.bmm.default
    else:
        noop = node.target is aten.detach.default
    if noop:
        _replace(graph, node, source)
    return noop


def sink_permute(graph: Graph, node: Node) -> bool:
    """Rewrite ``select(permute(x))`` as ``select(x)``, where the remaining axes keep their order."""
    if node.target is not aten.select.int:
        return False
    permute: Any = node.args[0]
    dim: Any = node.args[1]
    if permute.target is not aten.permute.default:
        return False
    order: list[int] = list(permute.args[1])
    axis = order.pop(dim)
    if order != sorted(order):
        return False
    with graph.inserting_before(node):
        row = graph.call_function(aten.select.int, (permute.args[0], axis, node.args[2]))
    _replace(graph, node, row)
    return True


def hoist_view(graph: Graph, node: Node) -> bool:
    """Rewrite ``view(f(x))`` as ``f(view(x))`` for a cast or reciprocal f and a view that adds axes of
    length 1.

    A view of an input is then computed once and kept, see
    :class:`~rn_rl.engine.trace.PartialEvaluation`.
    """
    unary: Any = node.args[0] if node.args else None
    if node.target is not aten.view.default or unary.target not in _UNARY:
        return False
    shapes = [[n for n in x.meta["val"].shape if n != 1] for x in (node, unary)]
    if len(unary.users) > 1 or shapes[0] != shapes[1]:
        return False
    source, *others = unary.args
    with graph.inserting_before(unary):
        view = graph.call_function(aten.view.default, (source, node.args[1]))
        view.meta["val"] = source.meta["val"].view(node.meta["val"].shape)
        new = graph.call_function(unary.target, (view, *others), dict(unary.kwargs))
    _replace(graph, node, new)
    graph.erase_node(unary)
    hoist_view(graph, view)
    return True


def fuse_bias_add(graph: Graph, node: Node) -> bool:
    """Rewrite ``bias + bmm(x, w)`` as ``baddbmm(bias, x, w)``."""
    if node.target is not aten.add.Tensor or len(node.args) != 2 or node.kwargs:
        return False
    bias, product = node.args
    if (
        not isinstance(product, Node)
        or product.target is not aten.bmm.default
        or len(product.users) != 1
        or not _same_type(node, product)
    ):
        return False
    with graph.inserting_before(node):
        fused = graph.call_function(aten.baddbmm.default, (bias, *product.args))
    _replace(graph, node, fused)
    graph.erase_node(product)
    return True


def sink_transpose(graph: Graph, node: Node) -> bool:
    """Rewrite the transpose of ``bmm(a^T, b)`` as ``bmm(b^T, a)``.

    The gradient of a linear layer's weight is then contiguous in the weight's own layout.
    """
    product: Any = node.args[0] if node.args else None
    if (
        node.target is not aten.transpose.int
        or product.target is not aten.bmm.default
        or len(product.users) > 1
    ):
        return False
    left, right = product.args
    if left.target is not aten.transpose.int or {*left.args[1:], *node.args[1:]} != {1, 2}:
        return False
    with graph.inserting_before(node):
        right_t = graph.call_function(aten.transpose.int, (right, 1, 2))
        transposed = graph.call_function(aten.bmm.default, (right_t, left.args[0]))
    _replace(graph, node, transposed)
    graph.erase_node(product)
    return True


_PEEPHOLE: tuple[Callable[[Graph, Node], bool], ...] = (
    eliminate_noops,
    sink_permute,
    hoist_view,
    fuse_bias_add,
    sink_transpose,
)


def in_place(graph_module: GraphModule) -> GraphModule:
    """Use an operation's in-place variant when its first argument has no later use.

    Only results of operations in the graph are overwritten: no input, and no tensor of which a view
    exists. For small tensors, allocating and touching new memory costs as much as the arithmetic.
    """
    graph = graph_module.graph
    order = {node: i for i, node in enumerate(graph.nodes)}
    owners: set[Node] = set()  # nodes whose result has memory of its own
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        source = node.args[0] if node.args else None
        variant = _IN_PLACE_VARIANTS.get(node.target)
        if (
            variant is not None
            and source in owners
            and _same_type(node, source)
            and max(source.users, key=order.__getitem__) is node
            and not any(_returns_alias(user) for user in source.users)
        ):
            node.target = variant
            if variant is aten.threshold_backward.grad_input:
                node.kwargs = {"grad_input": source}
        elif _returns_alias(node):
            continue
        owners.add(node)
    graph_module.recompile()
    return graph_module


def _replace(graph: Graph, node: Node, other: Any) -> None:
    """Replace all uses of a node by another one of the same shape and dtype."""
    other.meta.setdefault("val", node.meta.get("val"))
    node.replace_all_uses_with(other)
    graph.erase_node(node)


def _returns_alias(node: Node) -> bool:
    """Return True if the result may share memory with an argument."""
    schema = getattr(node.target, "_schema", None)
    return schema is None or any(out.alias_info is not None for out in schema.returns)


def _same_type(node: Any, other: Any) -> bool:
    """Return True if both nodes have the same shape and dtype, as far as is known."""
    a, b = node.meta.get("val"), getattr(other, "meta", {}).get("val")
    return a is not None and b is not None and a.shape == b.shape and a.dtype == b.dtype
