"""LSTMs of many seeds on sequences in which episodes begin, as one operator.

``nn.LSTM`` would take a call for each seed and step: it processes a whole sequence only if no episode
begins inside it, and ``vmap`` has no batching rule for it. Here each step is one matrix product for all
seeds and sequences, and the backward pass is written out.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def lstm_sequences(
    lstms: Sequence[Any], inputs: Tensor, hidden: Tensor, cell: Tensor, keep: Tensor
) -> tuple[Tensor, Tensor]:
    """Run n LSTMs on sequences, with the state reset where an episode begins.

    To be called for one seed, under ``vmap`` for all seeds. With i, f, g, o the quarters of
    ``inputs_t + W h``, in torch's order, and ``h = k_t h_{t-1}``:
    ``c_t = sigmoid(f) k_t c_{t-1} + sigmoid(i) tanh(g)`` and ``h_t = sigmoid(o) tanh(c_t)``.

    Args:
        lstms: ``nn.LSTM`` modules of one layer and of equal size.
        inputs: ``(n, sequences, steps, 4 * size)``: products of input weights and inputs, plus biases.
        hidden: hidden state before the first step, ``(n, sequences, size)``; it gets no gradient.
        cell: cell state before the first step, likewise.
        keep: the factors k, ``(sequences, steps)``: 0 where an episode begins, else 1.

    Returns:
        The hidden state after each step, ``(n, sequences, steps, size)``, and the cell state after the
        last step, ``(n, sequences, size)``.
    """
    weights = torch.stack([lstm.weight_hh_l0 for lstm in lstms])
    states, last, *_ = _forward(inputs, hidden, cell, keep.expand(len(lstms), *keep.shape), weights)
    return states, last


@torch.library.custom_op("rn_rl::lstm", mutates_args=())
def _forward(
    inputs: Tensor, hidden: Tensor, cell: Tensor, keep: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Forward pass; the first axis has the LSTMs of all seeds.

    Also returns what the backward pass needs, with the step as first axis: activations of the gates,
    hidden and cell states at the beginning of each step, and tanh(c).
    """
    size = hidden.shape[2]
    gates = inputs.permute(2, 0, 1, 3).clone(memory_format=torch.contiguous_format)
    mask = keep.permute(2, 0, 1)[..., None]
    weight_t = weight.transpose(1, 2)
    hiddens = gates.new_empty(*gates.shape[:3], size)
    cells, tanh_cells, states = (torch.empty_like(hiddens) for _ in range(3))
    for t in range(len(gates)):
        h = torch.mul(hidden, mask[t], out=hiddens[t])
        c = torch.mul(cell, mask[t], out=cells[t])
        gate = gates[t].baddbmm_(h, weight_t)
        gate[..., : 2 * size].sigmoid_()
        gate[..., 2 * size : 3 * size].tanh_()
        gate[..., 3 * size :].sigmoid_()
        i, f, g, o = gate.chunk(4, 2)
        cell = (f * c).addcmul_(i, g)
        hidden = torch.mul(o, torch.tanh(cell, out=tanh_cells[t]), out=states[t])
    return states.permute(1, 2, 0, 3).contiguous(), cell.clone(), gates, hiddens, cells, tanh_cells


@_forward.register_fake
def _(inputs: Tensor, hidden: Tensor, cell: Tensor, keep: Tensor, weight: Tensor) -> Any:
    seeds, sequences, steps, width = inputs.shape
    saved = [inputs.new_empty(steps, seeds, sequences, n * width // 4) for n in (4, 1, 1, 1)]
    states = inputs.new_empty(seeds, sequences, steps, width // 4)
    return states, torch.empty_like(cell), *saved


@torch.library.custom_op("rn_rl::lstm_backward", mutates_args=())
def _backward(
    grad: Tensor,
    keep: Tensor,
    weight: Tensor,
    gates: Tensor,
    hiddens: Tensor,
    cells: Tensor,
    tanh_cells: Tensor,
) -> tuple[Tensor, Tensor]:
    """Gradients with respect to the inputs and the weight."""
    steps, seeds, sequences, size = hiddens.shape
    mask = keep.permute(2, 0, 1)[..., None]
    step_grads = grad.permute(2, 0, 1, 3).contiguous()
    i, f, g, o = gates.chunk(4, 3)
    # partial derivatives with respect to the arguments of the activations that give i, f, g and o
    dc_dgates = gates.new_empty(steps, seeds, sequences, 3, size)
    dc_di, dc_df, dc_dg = dc_dgates.unbind(3)
    torch.addcmul(i, i, i, value=-1, out=dc_di).mul_(g)
    torch.addcmul(f, f, f, value=-1, out=dc_df).mul_(cells)
    torch.addcmul(i, i * g, g, value=-1, out=dc_dg)
    dh_dc = torch.addcmul(o, o * tanh_cells, tanh_cells, value=-1)
    dh_do = torch.addcmul(o, o, o, value=-1).mul_(tanh_cells)
    dc_dprevious = f * mask
    grads = torch.empty_like(gates)
    d_hidden = torch.zeros_like(hiddens[0])
    d_cell = torch.zeros_like(d_hidden)
    for t in range(steps - 1, -1, -1):
        d_hidden += step_grads[t]
        d_cell = torch.addcmul(d_cell, d_hidden, dh_dc[t])
        d_gates = grads[t].view(seeds, sequences, 4, size)
        torch.mul(dc_dgates[t], d_cell[:, :, None], out=d_gates[:, :, :3])
        torch.mul(dh_do[t], d_hidden, out=d_gates[:, :, 3])
        d_cell *= dc_dprevious[t]
        d_hidden = torch.bmm(grads[t], weight).mul_(mask[t])
    d_inputs = grads.permute(1, 2, 0, 3).contiguous()
    rows = d_inputs.view(seeds, -1, 4 * size).transpose(1, 2)
    d_weight = torch.bmm(rows, hiddens.permute(1, 2, 0, 3).reshape(seeds, -1, size))
    return d_inputs, d_weight


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
def _(info: Any, in_dims: Any, *args: Tensor) -> tuple[Any, Any]:
    """Batching rule: the LSTMs of all seeds on one axis."""
    seeds = info.batch_size
    flat = []
    for x, dim in zip(args, in_dims, strict=True):
        x = x.expand(seeds, *x.shape) if dim is None else x.movedim(dim, 0)
        flat.append(x.flatten(0, 1))
    states, last, *saved = _forward(*flat)
    first = [x.unflatten(0, (seeds, -1)) for x in (states, last)]
    return (*first, *(x.unflatten(1, (seeds, -1)) for x in saved)), (0, 0, 1, 1, 1, 1)
