"""Functions of tensors that are traced once per set of shapes and then replayed.

Many small networks spend most of their time in Python and in dispatch, not in arithmetic.
:class:`TracedFunction` records the operations of a function, backward pass included, simplifies the graph
(:mod:`~rn_rl.engine.fx_passes`), and from then on executes the graph alone.
"""

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
from rn_rl.engine.fx_passes import in_place, simplify
from rn_rl.engine.ops.products import choose_products
from rn_rl.errors import first_line

aten = torch.ops.aten

_VIEWS = (
    aten.slice.Tensor,
    aten.transpose.int,
    aten.permute.default,
    aten.select.int,
    aten.view.default,
    aten.expand.default,
    aten.unsqueeze.default,
)
_INPUT_FREE = (aten.arange.default, aten.arange.start_step, aten.scalar_tensor.default)
"""Operations without tensor arguments, whose results never change."""

_VALUE_INDEPENDENT = (*_VIEWS, aten.full_like.default)
"""Operations whose results stay valid when the values of their arguments change in place."""


class TracedFunction:
    """A function of tensors, traced once for each set of shapes and replayed from then on.

    The trace is a flat list of operations on stacked tensors, backward pass included: replaying it takes
    no ``vmap``, no autograd and no Python of the network. In-place changes of the inputs are part of it.
    On a GPU the list is launched as one CUDA graph, see :class:`~rn_rl.engine.cuda_graph.CudaGraphed`;
    results then stay valid until the next call only.

    Args:
        function: maps tensors to a tensor or a tuple of tensors. Its Python code runs only while it is
            traced, so control flow must not depend on values.
        compile: also compile the traced graph with ``torch.compile``.
        num_static: number of leading arguments that are the same tensor objects in most calls. Views of
            them are cached between calls.
        cache_invariants: the static tensors also keep their values for many calls, and the function does
            not modify them. What follows from them alone is computed once, until the version counter of
            one of them changes; after a write that does not raise it (a fused optimizer, NumPy), call
            ``torch.autograd.graph.increment_version``.

    Warns:
        UserWarning: ``torch.compile`` failed, and why; the graph then runs without it.
    """

    def __init__(
        self,
        function: Callable[..., Any],
        compile: bool = False,
        num_static: int = 0,
        cache_invariants: bool = False,
    ) -> None:
        self.function = function
        self.compile = compile
        self.num_static = num_static
        self.cache_invariants = cache_invariants
        self._traces: dict[Any, Callable[..., Any]] = {}

    @torch.no_grad()
    def __call__(self, *tensors: Tensor) -> Any:
        key = tuple(t.shape for t in tensors)
        trace = self._traces.get(key)
        if trace is None:
            trace = self._traces[key] = self._trace(*tensors)
        return trace(*tensors)

    def _trace(self, *tensors: Tensor) -> Callable[..., Any]:
        with torch.enable_grad(), no_distribution_validation(), no_batching_warnings():
            # with fake tensors, tracing computes nothing and changes no state
            trace = make_fx(self.function, tracing_mode="fake", _allow_non_fake_inputs=True)
            graph = simplify(trace(*tensors))
        if tensors[0].is_cuda:
            run = try_compile(graph, *tensors) if self.compile else in_place(graph)
            return CudaGraphed(run, self.num_static)
        if self.compile:
            return try_compile(graph, *tensors)
        if self.num_static:
            return PartialEvaluation(graph, self.num_static, self.cache_invariants)
        return choose_products(in_place(graph))


@contextlib.contextmanager
def no_batching_warnings() -> Iterator[None]:
    """Ignore that vmap computes weight_norm, which has no batching rule, in a loop over the seeds."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield


@contextlib.contextmanager
def no_distribution_validation() -> Iterator[None]:
    """Disable the validation of distribution parameters, which have no values while tracing."""
    before = Distribution._validate_args
    Distribution.set_default_validate_args(False)
    try:
        yield
    finally:
        Distribution.set_default_validate_args(before)


def try_compile(graph: GraphModule, *tensors: Tensor) -> Callable[..., Any]:
    """Compile a graph with ``torch.compile``, or return it unchanged if that fails.

    Args:
        graph: the graph to compile.
        tensors: example inputs. Copies of them are passed once, since compilation happens at the first
            call and the graph may change its inputs in place.

    Warns:
        UserWarning: there is no compiler, or it failed, and why.
    """
    compiled = torch.compile(graph, dynamic=False)
    try:
        compiled(*map(_clone_with_strides, tensors))
    except Exception as error:  # compiler backends raise errors of many types
        reason = first_line(error)[:200]
        warnings.warn(f"torch.compile failed ({reason}); going on without it", stacklevel=2)
        return graph
    return compiled


def _clone_with_strides(tensor: Tensor) -> Tensor:
    """Copy a tensor and keep its strides, which are part of what ``torch.compile`` specializes on."""
    options = {"dtype": tensor.dtype, "device": tensor.device}
    return torch.empty_strided(tensor.shape, tensor.stride(), **options).copy_(tensor)  # type: ignore[arg-type]


class PartialEvaluation:
    """A traced graph in two parts: the loop-invariant part, cached by tensor version, and the rest.

    Args:
        graph_module: the whole graph.
        num_static: number of leading inputs that the invariant part is computed from.
        cache_invariants: see :class:`TracedFunction`. If False, the invariant part holds only views of
            static inputs, and constants; it is recomputed when other tensor objects are passed.
    """

    def __init__(self, graph_module: GraphModule, num_static: int, cache_invariants: bool) -> None:
        self.num_static, self.cache_invariants = num_static, cache_invariants
        nodes = list(graph_module.graph.nodes)
        inputs = graph_module.graph.find_nodes(op="placeholder")
        invariant = set(inputs[:num_static])
        for node in nodes:
            cacheable = node.op == "call_function" and (
                cache_invariants or node.target in _VALUE_INDEPENDENT
            )
            if node.target in _INPUT_FREE or (
                cacheable and node.all_input_nodes and invariant.issuperset(node.all_input_nodes)
            ):
                invariant.add(node)
        # invariant values that the rest of the graph reads
        boundary = [n for n in nodes if n in invariant and any(u not in invariant for u in n.users)]
        first, rest = Graph(), Graph()
        copies: dict[Node, Node] = {}
        for node in nodes:
            if node in invariant:
                copies[node] = first.node_copy(node, copies.__getitem__)
        first.output(tuple(copies[node] for node in boundary))
        copies = {node: rest.placeholder(node.name) for node in (*boundary, *inputs[num_static:])}
        for node, copy in copies.items():
            copy.meta = dict(node.meta)
        for node in nodes:
            if node not in invariant and node.op != "placeholder":
                copies[node] = rest.node_copy(node, copies.__getitem__)
        self.invariant_part = choose_products(GraphModule(graph_module, first))
        self.rest = choose_products(in_place(GraphModule(graph_module, rest)))
        self._versions: list[Any] = []
        self._cached: tuple[Any, ...] = ()

    def __call__(self, *tensors: Tensor) -> Any:
        static = tensors[: self.num_static]
        versions = [(id(t), self.cache_invariants and t._version) for t in static]
        if versions != self._versions:
            self._cached, self._versions = self.invariant_part(*static), versions
            self._static = static  # keeps them alive, so that no other tensor gets their ids
        return self.rest(*self._cached, *tensors[self.num_static :])
