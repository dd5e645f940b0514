"""LSTMs of many seeds along sequences in which episodes begin, as one operation.

What torch has would take a call for each seed and step: a whole sequence goes at once only where no
episode begins inside it, and ``vmap`` has no rule for it. Here each step is one product for all seeds
and sequences, and the gradient is written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def along(
    lstms: Sequence[Any], inputs: Tensor, hidden: Tensor, cell: Tensor, keep: Tensor
) -> tuple[Tensor, Tensor]:
    """What n LSTMs of one layer make of sequences, under ``vmap`` for all seeds.

    Formula, with i, f, g, o the quarters of ``inputs_t + W h``, as torch has it:
    ``c_t = sigmoid(f) k_t c + sigmoid(i) tanh(g)``, ``h_t = sigmoid(o) tanh(c_t)``, where h is
    ``k_t h_{t-1}``.

    Args:
        lstms: ``nn.LSTM`` of one layer and one size.
        inputs: ``(n, sequences, steps, 4 * size)``: input weights times the input, and biases.
        hidden: state before the first step, ``(n, sequences, size)``; no gradient flows there.
        cell: likewise.
        keep: ``(sequences, steps)``, 0 where an episode begins, so that the state is forgotten.

    Returns:
        h of every step, ``(n, sequences, steps, size)``, and the last c, ``(n, sequences, size)``.
    """
    weights = torch.stack([lstm.weight_hh_l0 for lstm in lstms])
    states, last, *_ = _forward(inputs, hidden, cell, keep.expand(len(lstms), *keep.shape), weights)
    return states, last


@torch.library.custom_op("rn_rl::lstm", mutates_args=())
def _forward(
    inputs: Tensor, hidden: Tensor, cell: Tensor, keep: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """With the LSTMs of all seeds first. Also gives, step first, what the gradient takes: activations,
    the states that each step began with, tanh(c)."""
    size = hidden.shape[2]
    gates = inputs.permute(2, 0, 1, 3).clone(memory_format=torch.contiguous_format)
    kept = keep.permute(2, 0, 1)[..., None]
    across = weight.transpose(1, 2)
    began = gates.new_empty(*gates.shape[:3], size)
    cells, squashed, states = (torch.empty_like(began) for _ in range(3))
    for t in range(len(gates)):
        h = torch.mul(hidden, kept[t], out=began[t])
        c = torch.mul(cell, kept[t], out=cells[t])
        gate = gates[t].baddbmm_(h, across)
        gate[..., : 2 * size].sigmoid_()
        gate[..., 2 * size : 3 * size].tanh_()
        gate[..., 3 * size :].sigmoid_()
        i, f, g, o = gate.chunk(4, 2)
        cell = (f * c).addcmul_(i, g)
        hidden = torch.mul(o, torch.tanh(cell, out=squashed[t]), out=states[t])
    return states.permute(1, 2, 0, 3).contiguous(), cell.clone(), gates, began, cells, squashed


@_forward.register_fake
def _(inputs: Tensor, hidden: Tensor, cell: Tensor, keep: Tensor, weight: Tensor) -> Any:
    seeds, sequences, steps, width = inputs.shape
    by_step = [inputs.new_empty(steps, seeds, sequences, n * width // 4) for n in (4, 1, 1, 1)]
    states = inputs.new_empty(seeds, sequences, steps, width // 4)
    return states, torch.empty_like(cell), *by_step


@torch.library.custom_op("rn_rl::lstm_backward", mutates_args=())
def _backward(
    grad: Tensor,
    keep: Tensor,
    weight: Tensor,
    gates: Tensor,
    began: Tensor,
    cells: Tensor,
    squashed: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients of the inputs and of the weight."""
    steps, seeds, sequences, size = began.shape
    kept = keep.permute(2, 0, 1)[..., None]
    by_step = grad.permute(2, 0, 1, 3).contiguous()
    i, f, g, o = gates.chunk(4, 3)
    # the derivatives by what goes into i, f, g are these times that by c, and by o times that by h
    by_cell = gates.new_empty(steps, seeds, sequences, 3, size)
    into_i, into_f, into_g = by_cell.unbind(3)
    torch.addcmul(i, i, i, value=-1, out=into_i).mul_(g)
    torch.addcmul(f, f, f, value=-1, out=into_f).mul_(cells)
    torch.addcmul(i, i * g, g, value=-1, out=into_g)
    cell_by_hidden = torch.addcmul(o, o * squashed, squashed, value=-1)
    by_hidden = torch.addcmul(o, o, o, value=-1).mul_(squashed)
    carried = f * kept
    grads = torch.empty_like(gates)
    d_hidden = torch.zeros_like(began[0])
    d_cell = torch.zeros_like(d_hidden)
    for t in range(steps - 1, -1, -1):
        d_hidden += by_step[t]
        d_cell = torch.addcmul(d_cell, d_hidden, cell_by_hidden[t])
        into = grads[t].view(seeds, sequences, 4, size)
        torch.mul(by_cell[t], d_cell[:, :, None], out=into[:, :, :3])
        torch.mul(by_hidden[t], d_hidden, out=into[:, :, 3])
        d_cell *= carried[t]
        d_hidden = torch.bmm(grads[t], weight).mul_(kept[t])
    by_seed = grads.permute(1, 2, 0, 3).contiguous()
    rows = by_seed.view(seeds, -1, 4 * size).transpose(1, 2)
    d_weight = torch.bmm(rows, began.permute(1, 2, 0, 3).reshape(seeds, -1, size))
    return by_seed, d_weight


@_backward.register_fake
def _(grad: Tensor, keep: Tensor, weight: Tensor, gates: Tensor, *_: Tensor) -> Any:
    steps, seeds, sequences, width = gates.shape
    return gates.new_empty(seeds, sequences, steps, width), torch.empty_like(weight)


def _setup_context(ctx: Any, inputs: Any, output: Any) -> None:
    *_, keep, weight = inputs
    ctx.save_for_backward(keep, weight, *output[2:])


def _gradients(ctx: Any, grad: Tensor, *_: Any) -> tuple[Any, ...]:
    d_inputs, d_weight = _backward(grad, *ctx.saved_tensors)
    return d_inputs, None, None, None, d_weight


_forward.register_autograd(_gradients, setup_context=_setup_context)


@_forward.register_vmap
def _(info: Any, in_dims: Any, *given: Tensor) -> tuple[Any, Any]:
    """Those of each seed are so many more."""
    seeds = info.batch_size
    flat = []
    for x, dim in zip(given, in_dims, strict=True):
        x = x.expand(seeds, *x.shape) if dim is None else x.movedim(dim, 0)
        flat.append(x.flatten(0, 1))
    states, last, *by_step = _forward(*flat)
    first = [x.unflatten(0, (seeds, -1)) for x in (states, last)]
    return (*first, *(x.unflatten(1, (seeds, -1)) for x in by_step)), (0, 0, 1, 1, 1, 1)
