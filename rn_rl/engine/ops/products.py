"""Products of stacked matrices by a kernel of this project, where it is faster than the one in torch.

torch's wheels multiply matrices with Intel's MKL, which uses half of the vector width of an AMD processor
with AVX-512. ``products.cpp`` uses all of it, and products of many small matrices take half the time. It
is compiled once for a machine, into the user's cache; without a compiler torch's own products are used.
The environment variable ``RN_RL_PRODUCTS`` chooses: ``torch`` or ``native``, whatever the processor is.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.fx import Graph, GraphModule, Node

from rn_rl.errors import UserError, first_line

aten = torch.ops.aten

VARIABLE = "RN_RL_PRODUCTS"
"""Environment variable that chooses the kernel."""

SOURCE = Path(__file__).with_name("products.cpp")
COMPILERS = ("c++", "g++", "clang++")
FLAGS = ("-O3", "-march=native", "-std=c++17", "-shared", "-fPIC")

LEAST = 5_000
"""Fewest multiplications, of one seed, for which the kernel pays; below, calls take the time.

It counts those of a seed so that a seed's results do not depend on the number of seeds.
"""


def choose_products(graph_module: GraphModule) -> GraphModule:
    """Choose how a traced graph multiplies stacks of matrices; the graph is modified and returned."""
    return pair_vectors(replace_products(graph_module))


def pair_vectors(graph_module: GraphModule) -> GraphModule:
    """Multiply the one vector of a single seed as torch multiplies the vectors of several.

    By itself, torch multiplies a stack of one matrix and one vector by another routine, whose result
    differs in rounding and depends on addresses in memory. With this, a seed by itself gets the numbers
    that it gets among others.
    """
    found = [
        node
        for node in graph_module.graph.nodes
        if node.target in PRODUCTS and 1 in (val := node.meta["val"]).shape[1:] and len(val) == 1
    ]
    for node in found:
        node.args, node.target = (node.target, *node.args), of_pair
    if found:
        graph_module.recompile()
    return graph_module


def of_pair(multiply: Callable[..., Tensor], *args: Tensor, **kwargs: Any) -> Tensor:
    """Return a product of stacks of one matrix, computed in a stack of two."""
    pair = (x.expand(2, -1, -1) for x in args)  # which keeps the order of their axes in memory
    if multiply is aten.baddbmm_.default:
        return args[0].copy_(aten.baddbmm.default(*pair, **kwargs)[:1])
    return multiply(*pair, **kwargs)[:1]


def replace_products(graph_module: GraphModule) -> GraphModule:
    """Let a traced graph multiply large stacks of matrices by the kernel, if there is one.

    A relu of a product, and the gradient of a relu, are then computed with the product, and gradients of
    weights are written where they are concatenated.

    Args:
        graph_module: a graph of ATen operations with fake tensors in ``meta["val"]``; it is modified.

    Returns:
        The same graph. Its results stay the same up to rounding.
    """
    graph = graph_module.graph
    large = [node for node in graph.nodes if node.target in PRODUCTS and is_large(node)]
    if not large or torch.get_num_threads() > 1 or kernel() is None:
        return graph_module
    for node in large:
        *bias, a, b = node.args
        node.target, node.args, node.kwargs = (
            product,
            (a, b),
            dict(zip(("bias",), bias, strict=False)),
        )
    order = {node: i for i, node in enumerate(graph.nodes)}
    for node in large:
        fuse_relu(graph, node)
        fuse_relu_gradient(graph, node, order)
    for node in graph.find_nodes(op="call_function", target=aten.cat.default):
        write_into(graph, node)
    graph_module.recompile()
    return graph_module


PRODUCTS = (aten.bmm.default, aten.baddbmm.default, aten.baddbmm_.default)


def is_large(node: Node) -> bool:
    """Return True for a product of float32 on the CPU that is worth a call of the kernel."""
    out = node.meta.get("val")
    inputs: Any = [x.meta.get("val") for x in node.args[-2:]]  # type: ignore[union-attr]
    sums = [x.shape[axis] for x, axis in zip(inputs, (2, 1), strict=True) if x is not None]
    if out is None or not sums or node.kwargs:
        return False
    plain: bool = out.dtype == torch.float32 and out.device.type == "cpu"
    return plain and out[0].numel() * sums[0] >= LEAST


def fuse_relu(graph: Graph, node: Node) -> None:
    """Compute ``relu(product)`` with the product."""
    [user, *others] = node.users or [None]
    if user is None or others or user.target not in (aten.relu.default, aten.relu_.default):
        return
    node.kwargs = {**node.kwargs, "relu": True}
    user.replace_all_uses_with(node)
    graph.erase_node(user)


def fuse_relu_gradient(graph: Graph, node: Node, order: Mapping[Node, int]) -> None:
    """Compute ``threshold_backward(product, y, 0)``, which is 0 where ``y <= 0``, with the product.

    Args:
        graph: the graph.
        node: the product.
        order: positions of nodes before any was changed; y has to be known before the product.
    """
    [user, *others] = node.users or [None]
    targets = (aten.threshold_backward.default, aten.threshold_backward.grad_input)
    if user is None or others or user.target not in targets:
        return
    gradient, y, threshold = user.args
    if gradient is not node or threshold != 0 or order[y] >= order[node]:  # type: ignore[index]
        return
    node.kwargs = {**node.kwargs, "mask": y}
    user.replace_all_uses_with(node)
    graph.erase_node(user)


def write_into(graph: Graph, node: Node) -> None:
    """Let products that ``cat(parts, 1)`` concatenates be written into its result."""
    parts: Any = node.args[0]
    values = [part.meta.get("val") for part in parts]
    whole = node.meta.get("val")
    if whole is None or whole.dtype != torch.float32 or node.args[1:] != (1,):
        return
    if any(v is None or v.dim() != 2 for v in values):
        return
    first, placed, rest, firsts = 0, [], [], []
    for part, value in zip(parts, values, strict=True):
        source = part.args[0] if part.target in VIEWS else None
        if (
            isinstance(source, Node)
            and source.target is product
            and len(source.users) == len(part.users) == 1
            and sum(each is part for each in parts) == 1
            and value.shape == source.meta["val"].flatten(1).shape
        ):
            placed.append((source, part, first))
        else:
            rest.append(part)
            firsts.append(first)
        first += value.shape[1]
    if not placed:
        return
    begin = min((source for source, _, _ in placed), key=list(graph.nodes).index)
    with graph.inserting_before(begin):
        rows = graph.call_function(new_rows, (begin.args[0], first))
    for source, _, where in placed:
        source.kwargs = {**source.kwargs, "rows": rows, "first": where}
    with graph.inserting_before(node):
        filled = graph.call_function(fill_rows, (rows, firsts, rest))
    filled.meta = dict(node.meta)
    node.replace_all_uses_with(filled)
    graph.erase_node(node)
    for _, part, _ in placed:
        graph.erase_node(part)


VIEWS = (aten.view.default, aten._unsafe_view.default)


def new_rows(like: Tensor, length: int) -> Tensor:
    """Return memory for one row of numbers for each seed, ``(S, length)``."""
    return like.new_empty((like.shape[0], length))


def fill_rows(rows: Tensor, firsts: Sequence[int], parts: Sequence[Tensor]) -> Tensor:
    """Copy parts ``(S, n)`` into the rows, each from its first column; return the rows."""
    for first, part in zip(firsts, parts, strict=True):
        rows[:, first : first + part.shape[1]] = part
    return rows


def product(
    a: Tensor,
    b: Tensor,
    bias: Tensor | None = None,
    relu: bool = False,
    mask: Tensor | None = None,
    rows: Tensor | None = None,
    first: int = 0,
) -> Tensor:
    """Return ``bias + a @ b`` of float32 tensors ``(S, m, k)`` and ``(S, k, n)`` on the CPU.

    Args:
        a: left matrices.
        b: right matrices.
        bias: broadcast to the result.
        relu: set negative numbers to 0.
        mask: broadcast to the result, which is set to 0 where the mask is not positive.
        rows: write the result into the columns from ``first`` of this ``(S, P)``, and return it.
        first: see ``rows``.
    """
    seeds, m, _ = a.shape
    n = b.shape[2]
    shape = (seeds, m, n)
    if bias is not None:
        bias = bias.expand(shape)
    if mask is not None:
        mask = mask.expand(shape)
    out = a.new_empty(shape) if rows is None else rows
    layout = _layout(
        a.shape,
        n,
        a.stride(),
        b.stride(),
        NONE if bias is None else bias.stride(),
        NONE if mask is None else mask.stride(),
        m * n if rows is None else rows.stride(0),
        relu,
    )
    found = kernel()
    assert found is not None
    found(
        layout,
        a.data_ptr(),
        b.data_ptr(),
        None if bias is None else bias.data_ptr(),
        None if mask is None else mask.data_ptr(),
        out.data_ptr() + 4 * first,
    )
    return out


NONE = (0, 0, 0)
"""Strides of what is not there."""


@functools.lru_cache(maxsize=4096)
def _layout(shape: tuple[int, ...], n: int, *strides: Any) -> Any:
    """Return sizes and strides as the struct ``Layout`` of the kernel, ``strides`` in its order."""
    seeds, m, k = shape
    *of_tensors, of_out, relu = strides
    flat = [each for strides in of_tensors for each in strides]
    return (ctypes.c_int64 * 18)(seeds, m, n, k, *flat, of_out, relu)


@functools.cache
def kernel() -> Callable[..., None] | None:
    """Return the compiled function, or None where torch's own products are used.

    Raises:
        UserError: the environment variable has another value than ``torch`` or ``native``.

    Warns:
        UserWarning: the kernel was asked for and cannot be compiled, or its results are wrong.
    """
    asked = os.environ.get(VARIABLE, "")
    if asked not in ("", "torch", "native"):
        raise UserError(f"{VARIABLE}={asked}: expected torch, native or nothing")
    if asked == "torch" or (not asked and not is_faster_here()):
        return None
    try:
        function = compiled()
        check(function)
    except (OSError, RuntimeError, subprocess.SubprocessError, ArithmeticError) as error:
        if asked:
            reason = first_line(error)[:200]
            warnings.warn(f"{VARIABLE}={asked}: {reason}; torch's products are used", stacklevel=2)
        return None
    return function


def is_faster_here() -> bool:
    """Return True on Linux with an AMD processor that has AVX-512, where the kernel was measured."""
    return "AuthenticAMD" in processor() and "avx512f" in processor().split()


@functools.cache
def processor() -> str:
    """Return what Linux says of the first core: vendor, model and flags; empty elsewhere."""
    path = Path("/proc/cpuinfo")
    if platform.system() != "Linux" or not path.is_file():
        return ""
    first = path.read_text().split("\n\n")[0].splitlines()
    told = dict(line.split(":", 1) for line in first if ":" in line)
    named = {name.strip(): value.strip() for name, value in told.items()}
    return "\n".join(named.get(name, "") for name in ("vendor_id", "cpu family", "model", "flags"))


def compiled() -> Callable[..., None]:
    """Compile the kernel unless the cache has it, and load it.

    Raises:
        OSError: there is no compiler, or the library cannot be written or loaded.
        subprocess.SubprocessError: the compiler fails.
    """
    found = [path for name in COMPILERS if (path := shutil.which(os.environ.get("CXX", name)))]
    if not found:
        raise OSError("there is no C++ compiler")
    described = "\n".join([SOURCE.read_text(), processor(), found[0], *FLAGS])
    name = f"products-{hashlib.sha256(described.encode()).hexdigest()[:24]}.so"
    folder = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rn-rl"
    library = folder / name
    if not library.is_file():
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryDirectory(dir=folder) as temporary:
            new = Path(temporary) / name
            command = [found[0], *FLAGS, "-o", str(new), str(SOURCE)]
            subprocess.run(command, check=True, capture_output=True, timeout=120)
            new.replace(library)  # other processes see it whole
    function = ctypes.CDLL(str(library)).products
    function.argtypes, function.restype = [ctypes.c_void_p] * 6, None
    return function


def check(function: Callable[..., None]) -> None:
    """Compare the kernel with torch's products; raise ArithmeticError where they differ."""
    drawn = torch.Generator().manual_seed(0)

    def random(*shape: int) -> Tensor:
        return torch.randn(shape, generator=drawn)

    for m, n, k in ((1, 40, 40), (13, 33, 17), (30, 2, 300)):
        a, b, bias = random(2, k, m).mT, random(2, n, k).mT, random(2, 1, n).expand(2, m, n)
        for left, right in ((a, b), (a.contiguous(), b), (a, b.contiguous())):
            out = torch.empty(2, m, n)
            strides = left.stride(), right.stride(), bias.stride(), NONE, m * n, False
            pointers = [x.data_ptr() for x in (left, right, bias)]
            function(_layout(left.shape, n, *strides), *pointers, None, out.data_ptr())
            if not torch.allclose(out, torch.baddbmm(bias, left, right), rtol=1e-4, atol=1e-4):
                raise ArithmeticError(f"products of {(m, k)} and {(k, n)} are wrong")
