"""Gated graph network with a normalizer on the messages between nodes."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rn_rl.tasks.babi.examples import ANNOTATIONS, Examples
from rn_rl.tasks.babi.stories import NODES
from rn_rl.tasks.fed_back import FedBackNorm


class GatedGraphNetwork(nn.Module):
    r"""Gated graph neural network: nodes exchange messages, and a GRU updates their states.

    With :math:`h_v` the state of node v, at first its annotation padded with zeros, each step computes

    .. math:: a_v = \Big[\sum_{u \to v} m^{in}_{type}(h_u), \; \sum_{v \to u} m^{out}_{type}(h_u)\Big],
        \qquad h_v \leftarrow \mathrm{GRU}(a_v, h_v),

    where m are linear maps with a normalizer after them, before the types of edges are told apart, as
    published. Each step has its own two normalizers. Label k is read from the states after step
    ``read_after[k]``: a gated sum over the nodes, then a linear layer. The GRU is torch's, whose reset
    gate acts after the matrix product; in the paper it acts before it.

    Args:
        norm: spec of the normalizers.
        types: number of edge types.
        classes: number of classes of each label.
        read_after: number of steps before each label is read, ascending; the last is the number of steps.
        hidden: size of a state.

    Shape:
        :class:`Examples` of B questions to logits ``(B, labels, classes)``.

    Source: Li et al., ICLR 2016.
    """

    def __init__(
        self, norm: str, types: int, classes: int, read_after: tuple[int, ...], hidden: int = 10
    ) -> None:
        super().__init__()
        self.hidden = hidden
        self.read_after = read_after
        self.messages = nn.ModuleList(nn.Linear(hidden, types * hidden) for _ in range(2))
        self.update = nn.GRUCell(2 * hidden, hidden)
        self.gate = nn.Linear(hidden + ANNOTATIONS, hidden)
        self.value = nn.Linear(hidden + ANNOTATIONS, hidden)
        self.outputs = nn.ModuleList(nn.Linear(hidden, classes) for _ in read_after)
        self.norms = nn.ModuleList(
            FedBackNorm(norm, types * hidden, steps=read_after[-1]) for _ in self.messages
        )

    def forward(self, x: Examples) -> Tensor:
        batch = len(x)
        state = torch.zeros(batch * NODES, self.hidden)
        state[:, :ANNOTATIONS] = x.annotations.flatten(0, 1)
        logits = []
        for step in range(self.read_after[-1]):
            received = []
            for direction in range(2):
                message = self.norms[direction](self.messages[direction](state), step)
                # (batch, node, type, hidden) to (batch, type * node, hidden), the columns of `edges`
                sent = message.view(batch, NODES, -1, self.hidden).transpose(1, 2).flatten(1, 2)
                received.append(x.edges[:, direction] @ sent)
            state = self.update(torch.cat(received, -1).flatten(0, 1), state)
            for output, after in zip(self.outputs, self.read_after, strict=True):
                if after == step + 1:
                    logits.append(output(self.read(state, x)))
        return torch.stack(logits, 1)

    def gains(self) -> list[list[float]]:
        """Return the gains of the normalizers of each direction, by step."""
        return [norm.gains() for norm in self.norms if isinstance(norm, FedBackNorm)]

    def read(self, state: Tensor, x: Examples) -> Tensor:
        """Sum the states of a graph's nodes, each weighted by its gate: ``(batch, hidden)``."""
        nodes = torch.cat([state.view(len(x), NODES, -1), x.annotations], -1)
        return torch.tanh((self.gate(nodes).sigmoid() * self.value(nodes).tanh()).sum(1))
