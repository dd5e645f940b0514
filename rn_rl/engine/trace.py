"""Functions of tensors, recorded once as a flat list of operations, made leaner, and replayed."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution
from torch.fx import Graph, GraphModule, Node
from torch.fx.experimental.proxy_tensor import make_fx

from rn_rl.engine.cuda_graph import CudaGraphed
from rn_rl.errors import first_line

aten = torch.ops.aten


class TracedFunction:
    """A function of tensors, recorded once for each set of shapes and from then on replayed.

    What is replayed is a flat list of operations on stacked tensors, backward pass included: no
    ``vmap``, no autograd and no Python of the network, which for networks of this size take most of
    the time. In-place changes of the inputs are part of it. On a GPU the list is launched as a whole,
    see :class:`~rn_rl.engine.cuda_graph.CudaGraphed`; there results last until the next call.

    Args:
        function: from tensors to a tuple of tensors; its Python runs while it is recorded alone.
        compile: also compile what was recorded, with ``torch.compile``.
        constant: how many of the first tensors are the same objects in many calls. Views of them are
            kept from call to call.
        values: these tensors also keep their values for many calls, and the function changes none:
            all that follows from them alone is kept, until the version of one of them is another.
            Whoever changes one in a way that does not raise it (a fused optimizer, NumPy) has to.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        compile: bool = False,
        constant: int = 0,
        values: bool = False,
    ) -> None:
        self.function = function
        self.compile = compile
        self.constant = constant
        self.values = values
        self._recorded: dict[Any, Callable[..., Any]] = {}

    @torch.no_grad()
    def __call__(self, *tensors: Tensor) -> Any:
        key = tuple(t.shape for t in tensors)
        recorded = self._recorded.get(key)
        if recorded is None:
            recorded = self._recorded[key] = self._record(*tensors)
        return recorded(*tensors)

    def _record(self, *tensors: Tensor) -> Callable[..., Any]:
        with torch.enable_grad(), unchecked(), warnings.catch_warnings():
            # weight_norm has no rule for vmap, which then goes through the seeds one by one
            warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
            # on fake tensors: recording computes nothing, and changes no state
            trace = make_fx(self.function, tracing_mode="fake", _allow_non_fake_inputs=True)
            graph = tidy(trace(*tensors))
        if tensors[0].is_cuda:
            lean = compiled(graph, *tensors) if self.compile else reuse_memory(graph)
            return CudaGraphed(lean, self.constant)
        if self.compile:
            return compiled(graph, *tensors)
        return (
            PartialEvaluation(graph, self.constant, self.values)
            if self.constant
            else reuse_memory(graph)
        )


@contextlib.contextmanager
def unchecked() -> Iterator[None]:
    """Distributions do not look at their parameters, which have no values yet."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def compiled(graph: GraphModule, *tensors: Tensor) -> Callable[..., Any]:
    """The program through ``torch.compile``, or as it is where that cannot be done.

    Warns:
        UserWarning: there is no compiler, or it failed, and why.
    """
    program = torch.compile(graph, dynamic=False)
    try:
        program(*map(twin, tensors))  # which is when it is compiled
    except Exception as error:  # whatever a compiler can run into
        reason = first_line(error)[:200]
        warnings.warn(f"torch.compile failed ({reason}); going on without it", stacklevel=2)
        return graph
    return program


def twin(tensor: Tensor) -> Tensor:
    """A copy that lies in memory as the tensor does."""
    options = {"dtype": tensor.dtype, "device": tensor.device}
    return torch.empty_strided(tensor.shape, tensor.stride(), **options).copy_(tensor)  # type: ignore[arg-type]


class PartialEvaluation:
    """A recorded program in two: what follows from constant inputs, kept, and the rest.

    Args:
        whole: see :class:`TracedFunction`.
        constant: see :class:`TracedFunction`.
        values: see :class:`TracedFunction`.
    """

    def __init__(self, whole: GraphModule, constant: int, values: bool) -> None:
        self.constant, self.values = constant, values
        inputs = whole.graph.find_nodes(op="placeholder")
        known = set(inputs[:constant])
        for node in whole.graph.nodes:
            keep = node.op == "call_function" and (values or node.target in _SAME_FOR_ALL_VALUES)
            if node.target in _CONSTANTS or (
                keep and node.all_input_nodes and known.issuperset(node.all_input_nodes)
            ):
                known.add(node)
        edge = [n for n in whole.graph.nodes if n in known and any(u not in known for u in n.users)]
        first, rest = Graph(), Graph()
        made: dict[Node, Node] = {}
        for node in whole.graph.nodes:
            if node in known:
                made[node] = first.node_copy(node, made.__getitem__)
        first.output(tuple(made[node] for node in edge))
        made = {node: rest.placeholder(node.name) for node in (*edge, *inputs[constant:])}
        for node in whole.graph.nodes:
            if node not in known and node.op != "placeholder":
                made[node] = rest.node_copy(node, made.__getitem__)
        self.first, self.rest = GraphModule({}, first), reuse_memory(GraphModule({}, rest))
        self._versions: list[Any] = []
        self._kept: tuple[Any, ...] = ()

    def __call__(self, *tensors: Tensor) -> Any:
        given = tensors[: self.constant]
        versions = [(id(t), self.values and t._version) for t in given]
        if versions != self._versions:
            self._kept, self._versions = self.first(*given), versions
            self._alive = given  # so that no other tensor gets its id
        return self.rest(*self._kept, *tensors[self.constant :])


def tidy(graph_module: GraphModule) -> GraphModule:
    """Leave out what ``vmap`` recorded and what changes nothing; add biases where they multiply."""
    graph = graph_module.graph
    graph.eliminate_dead_code()
    for node in list(graph.nodes):
        target = node.target
        if (target in _RESHAPES and _alike(node, node.args[0])) or (
            target is aten.detach.default
            or (target is aten.mul.Scalar and node.args[1] == 1 and _alike(node, node.args[0]))
        ):
            _replace(graph, node, node.args[0])
        elif target is aten.select.int and node.args[0].target is aten.permute.default:
            _select_before_permute(graph, node)
        elif target is aten.view.default and node.args[0].target in _UNARY:
            _reshape_first(graph, node)
        elif target is aten.add.Tensor and len(node.args) == 2 and not node.kwargs:
            _add_bias_where_it_multiplies(graph, node)
        elif target is aten.transpose.int:
            _multiply_the_other_way(graph, node)
        elif target is aten.clone.default and node.args[0].target is aten.bmm.default:
            _replace(graph, node, node.args[0])  # that one is contiguous
    graph.eliminate_dead_code()
    graph_module.recompile()
    return graph_module


def _replace(graph: Graph, node: Node, other: Any) -> None:
    """Use another node, of the same shape and type, in place of one."""
    other.meta.setdefault("val", node.meta.get("val"))
    node.replace_all_uses_with(other)
    graph.erase_node(node)


def _select_before_permute(graph: Graph, node: Node) -> None:
    """A row of a state whose axes were exchanged: look it up where it lies."""
    permute: Any = node.args[0]
    dim: Any = node.args[1]
    order: list[int] = list(permute.args[1])
    axis = order.pop(dim)
    if order != sorted(order):
        return
    with graph.inserting_before(node):
        row = graph.call_function(aten.select.int, (permute.args[0], axis, node.args[2]))
    _replace(graph, node, row)


def _reshape_first(graph: Graph, node: Node) -> None:
    """Axes of length 1 are added before a number is worked on, where that is what never changes."""
    unary: Any = node.args[0]
    shapes = [[n for n in x.meta["val"].shape if n != 1] for x in (node, unary)]
    if len(unary.users) > 1 or shapes[0] != shapes[1]:
        return
    given, *others = unary.args
    with graph.inserting_before(unary):
        seen = graph.call_function(aten.view.default, (given, node.args[1]))
        seen.meta["val"] = given.meta["val"].view(node.meta["val"].shape)
        new = graph.call_function(unary.target, (seen, *others), dict(unary.kwargs))
    _replace(graph, node, new)
    graph.erase_node(unary)
    if given.target in _UNARY:
        _reshape_first(graph, seen)


def _add_bias_where_it_multiplies(graph: Graph, node: Node) -> None:
    """``bias + bmm(x, w)`` as one operation."""
    bias, product = node.args
    if (
        getattr(product, "target", None) is aten.bmm.default
        and len(product.users) == 1  # type: ignore[union-attr]
        and _alike(node, product)
    ):
        with graph.inserting_before(node):
            fused = graph.call_function(aten.baddbmm.default, (bias, *product.args))  # type: ignore[union-attr]
        _replace(graph, node, fused)
        graph.erase_node(product)  # type: ignore[arg-type]


def _multiply_the_other_way(graph: Graph, node: Node) -> None:
    """The transpose of ``a^T b`` as ``b^T a``, which lies in memory as a weight's gradient should."""
    product: Any = node.args[0]
    if product.target is not aten.bmm.default or len(product.users) > 1:
        return
    left, right = product.args
    if left.target is not aten.transpose.int or {*left.args[1:], *node.args[1:]} != {1, 2}:
        return
    with graph.inserting_before(node):
        turned = graph.call_function(aten.transpose.int, (right, 1, 2))
        other = graph.call_function(aten.bmm.default, (turned, left.args[0]))
    _replace(graph, node, other)
    graph.erase_node(product)


def reuse_memory(graph_module: GraphModule) -> GraphModule:
    """Let operations write over what nobody looks at after them: fresh memory costs as much."""
    graph = graph_module.graph
    place = {node: i for i, node in enumerate(graph.nodes)}
    owners: set[Node] = set()
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        given = node.args[0] if node.args else None
        over = _OVERWRITING.get(node.target)
        if (
            over is not None
            and given in owners
            and _alike(node, given)
            and max(given.users, key=place.__getitem__) is node
            and not any(_returns_alias(user) for user in given.users)
        ):
            node.target = over
            if over is aten.threshold_backward.grad_input:
                node.kwargs = {"grad_input": given}
        elif _returns_alias(node):
            continue
        owners.add(node)
    graph_module.recompile()
    return graph_module


def _returns_alias(node: Node) -> bool:
    """Whether what it gives lies in memory of its arguments."""
    schema = getattr(node.target, "_schema", None)
    return schema is None or any(out.alias_info is not None for out in schema.returns)


_OVERWRITING = {
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
_UNARY = (aten._to_copy.default, aten.reciprocal.default)
_VIEWS = (
    aten.slice.Tensor,
    aten.transpose.int,
    aten.permute.default,
    aten.select.int,
    aten.view.default,
    aten.expand.default,
    aten.unsqueeze.default,
)
_CONSTANTS = (aten.arange.default, aten.arange.start_step, aten.scalar_tensor.default)
_SAME_FOR_ALL_VALUES = (*_VIEWS, aten.full_like.default)
_RESHAPES = (aten.expand.default, aten.view.default, aten._unsafe_view.default)


def _alike(node: Any, other: Any) -> bool:
    """Whether two nodes have one shape and type."""
    a, b = node.meta.get("val"), getattr(other, "meta", {}).get("val")
    return a is not None and b is not None and a.shape == b.shape and a.dtype == b.dtype
