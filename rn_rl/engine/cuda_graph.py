"""Programs on a GPU as CUDA graphs: one launch in place of one for each operation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


class CudaGraphed:
    """A program that a GPU is given as a whole once it has been run the ordinary way.

    Starting an operation takes the CPU longer than networks of this size take the GPU. The first call
    runs the operations one by one, which also has libraries set themselves up; the second records what
    is launched, and from then on the recording is launched.

    Args:
        run: from tensors on the GPU to tensors; it may change them in place, and never waits for one.
        num_static: how many of the first tensors are the same in many calls. They are read and written
            where they lie, and where they lie elsewhere than when it was recorded the operations are
            launched one by one again. The others are copied to a place of their own.

    Results lie in memory of the recording: the next call writes over them.
    """

    def __init__(self, run: Callable[..., Any], num_static: int) -> None:
        self.run = run
        self.num_static = num_static
        self._addresses: list[int] | None = None
        self._alive: Sequence[Tensor] = ()
        self._copies: list[Tensor] = []
        self._graph: torch.cuda.CUDAGraph | None = None
        self._results: Any = None

    def __call__(self, *tensors: Tensor) -> Any:
        given, others = tensors[: self.num_static], tensors[self.num_static :]
        addresses = [t.data_ptr() for t in given]
        if addresses != self._addresses:
            if self._graph is None:
                self._addresses, self._alive = addresses, given  # alive, so that nothing moves in
            return self.run(*tensors)
        if self._graph is None:
            self._capture(given, others)
        else:
            for copy, tensor in zip(self._copies, others, strict=True):
                copy.copy_(tensor)
        assert self._graph is not None
        self._graph.replay()
        return self._results

    def _capture(self, given: Sequence[Tensor], others: Sequence[Tensor]) -> None:
        self._copies = [tensor.clone() for tensor in others]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._results = self.run(*given, *self._copies)
        self._graph = graph
