"""Gates and cell state of ``nn.LSTM``, which hooks do not see, computed from its input and output."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils.rnn import PackedSequence

from rn_rl.errors import UserError

PARTS = ("i", "f", "g", "o", "c")
"""Input, forget, candidate and output gate, and cell state."""


def check(layers: Sequence[tuple[str, nn.Module]]) -> None:
    """Raise :class:`UserError` for an ``nn.LSTM`` whose gates cannot be computed from its output."""
    for name, module in layers:
        if not isinstance(module, nn.LSTM):
            continue
        if module.num_layers > 1 or module.bidirectional or module.proj_size:
            raise UserError(
                f"recompute_gates=True: {name} has {module.num_layers} layers"
                f"{', two directions' if module.bidirectional else ''}"
                f"{', a projection' if module.proj_size else ''}; expected one layer and direction"
            )


@torch.no_grad()
def recomputed(
    module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any], output: Any
) -> dict[str, Tensor]:
    """Compute the gates and cell states of one call.

    With h the output of the step before, all gates are
    ``W_ih x + b_ih + W_hh h + b_hh``; only the cell state ``c <- f * c + i * g`` needs a loop.

    Args:
        module: LSTM of one layer and direction.
        inputs: its arguments.
        keywords: those that were given by name, ``input`` and ``hx``.
        output: its result.

    Returns:
        ``(steps, batch, features)`` by name of :data:`PARTS`; nothing for other recurrent layers and
        packed sequences.
    """
    given = dict(zip(("input", "hx"), inputs, strict=False)) | keywords
    if not isinstance(module, nn.LSTM) or isinstance(given["input"], PackedSequence):
        return {}
    x, hidden = given["input"].detach(), output[0].detach()
    if x.dim() == 2:  # a single sequence
        x, hidden = x.unsqueeze(1), hidden.unsqueeze(1)
    elif module.batch_first:
        x, hidden = x.transpose(0, 1), hidden.transpose(0, 1)
    if given.get("hx") is None:
        first, cell = torch.zeros_like(hidden[0]), torch.zeros_like(hidden[0])
    else:
        first, cell = (part.detach().reshape(hidden[0].shape) for part in given["hx"])
    before = torch.cat((first[None], hidden[:-1]))
    lstm: Any = module
    bias = (lstm.bias_ih_l0, lstm.bias_hh_l0) if lstm.bias else (None, None)
    summed = F.linear(x, lstm.weight_ih_l0, bias[0])
    summed = summed + F.linear(before, lstm.weight_hh_l0, bias[1])
    i, f, g, o = summed.chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cells = []
    for t in range(len(x)):
        cell = f[t] * cell + i[t] * g[t]
        cells.append(cell)
    return dict(zip(PARTS, (i, f, g, o, torch.stack(cells)), strict=True))
