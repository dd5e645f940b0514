"""LSTM that predicts the next pen point as a mixture density."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from rn_rl.tasks.fed_back import NormLSTMCell
from rn_rl.tasks.handwriting.mixture import Mixture, outputs


class HandwritingNetwork(nn.Module):
    """Predict each point of a sequence from those before it.

    An LSTM, whose hidden state is normalized before it is fed back, and a linear layer that gives a
    mixture of Gaussians for the next offset and the probability that the pen is lifted.

    Args:
        norm: spec of the normalizers; each time step has its own.
        points: number of points of a sequence: time steps.
        hidden: size of the LSTM.
        components: number of Gaussians.

    Source: Graves, arXiv 1308.0850, 2013.
    """

    def __init__(self, norm: str, points: int, hidden: int = 64, components: int = 10) -> None:
        super().__init__()
        self.points = points
        self.output = nn.Linear(hidden, outputs(components))
        self.cell = NormLSTMCell(3, hidden, norm, points)

    def forward(self, sequences: Tensor) -> Mixture:
        """Predict all points at once, each from the true ones before it.

        Args:
            sequences: ``(batch, points, 3)``.

        Returns:
            A mixture of shape ``(batch, points)``; the first point is predicted from a zero.
        """
        before = torch.cat([torch.zeros_like(sequences[:, :1]), sequences[:, :-1]], 1)
        state = None
        hidden = []
        for t in range(sequences.shape[1]):
            state = self.cell(before[:, t], state, t)
            hidden.append(state[0])
        return Mixture.of(self.output(torch.stack(hidden, 1)))

    def sample(self, count: int, temperature: float, generator: torch.Generator) -> Tensor:
        """Write sequences ``(count, points, 3)``, each point from the written ones before it."""
        point = torch.zeros(count, 3)
        state = None
        written = []
        for t in range(self.points):
            state = self.cell(point, state, t)
            point = Mixture.of(self.output(state[0])).sample(temperature, generator)
            written.append(point)
        return torch.stack(written, 1)
