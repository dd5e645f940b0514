"""LSTM whose hidden state passes through a normalizer before it is fed back."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rn_rl.errors import UserError
from rn_rl.normalization import make_normalizers, parse_spec, phase_norms, unobserved


class NormalizedLSTM(nn.LSTM):
    r"""LSTM of one layer with a normalizer inside: ``h_t = norm(sigmoid(o) * tanh(c_t))``.

    The normalized state is the output of a step and what the gates of the next step see. The cell state
    c is not normalized. All time steps share the normalizer and its state, since episodes have any
    length.

    A gain without a bound, as that of ``rn``, grows with the number of phases, and multiplies the state
    at each step until the gates saturate. Give it a bound: ``"ln+rn(half_life=50)"``.

    Args:
        lstm: the LSTM whose sizes and weights it takes over.
        norm: normalizer spec, see :func:`rn_rl.make_normalizers`.
        index: number of its first normalizer among those of the policy, for recordings.

    Shape:
        As of ``nn.LSTM``: x ``(steps, sequences, inputs)``, state ``(h, c)`` of
        ``(1, sequences, size)`` each; returns ``(steps, sequences, size)`` and the new state.

    State:
        That of the normalizers, under the phase rule. A training forward observes the states of all
        steps as one batch, ordered sequence by sequence, with :func:`rn_rl.observation_weights`.

    Raises:
        UserError: the LSTM has more than one layer or direction, or a projection; the normalizer changes
            weights, or its output depends on the batch, which changes from step to step.
    """

    weight_ih_l0: Tensor
    weight_hh_l0: Tensor
    bias_ih_l0: Tensor
    bias_hh_l0: Tensor

    def __init__(self, lstm: nn.LSTM, norm: str, index: int = 0) -> None:
        check_lstm_norm(lstm, norm)
        super().__init__(lstm.input_size, lstm.hidden_size, device="meta")  # no random numbers
        for name, parameter in lstm.named_parameters():
            setattr(self, name, parameter)
        made = make_normalizers(norm, lstm.hidden_size, index=index)
        self.norm = nn.Sequential(*made).to(self.weight_hh_l0.device)

    def forward(  # type: ignore[override]
        self, x: Tensor, state: tuple[Tensor, Tensor], keep: Tensor | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Run sequences.

        Args:
            x: see the class.
            state: see the class.
            keep: ``(sequences, steps)``, 0 where an episode begins and the state is reset, else 1; None
                for 1 everywhere.
        """
        inputs = F.linear(x, self.weight_ih_l0, self.bias_ih_l0 + self.bias_hh_l0)
        hidden, cell = state[0][0], state[1][0]
        states, cell = normalized_sequences(self, inputs.swapaxes(0, 1), hidden, cell, keep)
        return states.swapaxes(0, 1), (states[None, :, -1], cell[None])


def normalized_sequences(
    lstm: NormalizedLSTM, inputs: Tensor, hidden: Tensor, cell: Tensor, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Run an LSTM with a normalizer inside on sequences; see :class:`NormalizedLSTM`.

    Args:
        lstm: the LSTM.
        inputs: products of input weights and inputs, plus biases, ``(sequences, steps, 4 * size)``.
        hidden: hidden state before the first step, ``(sequences, size)``.
        cell: cell state before the first step, likewise.
        keep: 0 where an episode begins, else 1, ``(sequences, steps)``; None: 1 everywhere.

    Returns:
        The hidden state after each step, ``(sequences, steps, size)``, and the cell state after the last
        step, ``(sequences, size)``.
    """
    before, states = [], []
    with unobserved(lstm.norm):
        for t in range(inputs.shape[1]):
            if keep is not None:
                kept = keep[:, t, None]
                hidden, cell = kept * hidden, kept * cell
            gates = inputs[:, t] + F.linear(hidden, lstm.weight_hh_l0)
            i, f, g, o = gates.chunk(4, -1)
            cell = f.sigmoid() * cell + i.sigmoid() * g.tanh()
            before.append(o.sigmoid() * cell.tanh())
            hidden = lstm.norm(before[-1])
            states.append(hidden)
    if lstm.norm.training:
        with torch.no_grad():
            lstm.norm(torch.stack(before, 1).flatten(0, 1))  # observes what padding leaves
    return torch.stack(states, 1), cell


def check_lstm_norm(lstm: nn.LSTM, norm: str) -> None:
    """Raise :class:`UserError` unless a normalizer has a place inside an LSTM."""
    if lstm.num_layers != 1 or lstm.bidirectional or lstm.proj_size or not lstm.bias:
        raise UserError(
            f"lstm_norm={norm!r}: expected an LSTM of one layer and direction, with biases "
            "and no projection"
        )
    for term in parse_spec(norm):
        if term.row.reparametrize is not None:
            raise UserError(
                f"lstm_norm={norm!r}: {term.row.name} changes the weights of a linear layer; expected a "
                "normalizer of activations, such as ln+rn(half_life=50)"
            )
    made = nn.Sequential(*make_normalizers(norm, lstm.hidden_size))
    mixes = any(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in made.modules())
    if mixes or any(each.depends_on_batch for each in phase_norms(made).values()):
        raise UserError(
            f"lstm_norm={norm!r}: its output or gradient depends on the batch, another at each step; "
            "expected a normalizer such as ln+rn(half_life=50)"
        )
