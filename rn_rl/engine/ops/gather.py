"""Rows of tables, looked up for all seeds at once."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def gather_rows(table: Tensor, where: Tensor) -> Tensor:
    """``table[where]`` for a table ``(n, channels)``, with any number of axes in ``where``."""
    found: Tensor = _Rows.apply(table, where)
    return found


class _Rows(torch.autograd.Function):
    """With a rule for ``vmap`` of its own: one lookup in the tables of all seeds, one under another.

    What ``vmap`` makes of an index takes twice as long, and its gradient three times.
    """

    @staticmethod
    def forward(table: Tensor, where: Tensor) -> Tensor:
        return table.index_select(0, where.flatten()).view(*where.shape, -1)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        pass

    @staticmethod
    def vmap(info: Any, in_dims: Any, table: Tensor, where: Tensor) -> tuple[Tensor, int]:
        seeds, size, channels = table.shape
        first = torch.arange(0, seeds * size, size, device=where.device)
        where_in_all = where + first.view(-1, *[1] * (where.dim() - 1))
        found = table.flatten(0, 1).index_select(0, where_in_all.flatten())
        return found.view(*where.shape, channels), 0
