"""Functions on a GPU as CUDA graphs: one launch instead of one for each operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class CudaGraphed:
    """A function on a GPU that is captured as a CUDA graph at its second call and replayed after that.

    For networks of this size, launching an operation takes the CPU longer than the GPU needs to compute
    it. The first call runs eagerly, which also lets libraries initialize themselves; the second call
    captures the graph.

    Args:
        run: maps tensors on the GPU to tensors. It may modify them in place, and must not synchronize.
        num_static: number of leading arguments that are read and written where they lie. While they have
            other addresses than in the first call, ``run`` is called eagerly. The other arguments are
            copied to buffers of the graph.

    The results lie in the graph's memory, so the next call overwrites them.
    """

    def __init__(self, run: Callable[..., Any], num_static: int) -> None:
        self.run = run
        self.num_static = num_static
        self._addresses: list[int] | None = None
        self._static: Sequence[Tensor] = ()
        self._buffers: list[Tensor] = []
        self._graph: torch.cuda.CUDAGraph | None = None
        self._results: Any = None

    def __call__(self, *tensors: Tensor) -> Any:
        static, inputs = tensors[: self.num_static], tensors[self.num_static :]
        addresses = [t.data_ptr() for t in static]
        if addresses != self._addresses:
            if self._graph is None:
                # the references keep the memory from being reused by other tensors
                self._addresses, self._static = addresses, static
            return self.run(*tensors)
        if self._graph is None:
            self._capture(static, inputs)
        else:
            for buffer, tensor in zip(self._buffers, inputs, strict=True):
                buffer.copy_(tensor)
        assert self._graph is not None
        self._graph.replay()
        return self._results

    def _capture(self, static: Sequence[Tensor], inputs: Sequence[Tensor]) -> None:
        self._buffers = [tensor.clone() for tensor in inputs]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._results = self.run(*static, *self._buffers)
        self._graph = graph
