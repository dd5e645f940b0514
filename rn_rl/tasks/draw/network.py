"""DRAW network with normalizers on the states of its encoder and decoder."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from rn_rl.tasks.draw.attention import glimpse
from rn_rl.tasks.draw.objective import divergence, reconstruction
from rn_rl.tasks.fed_back import FedBackNorm, NormLSTMCell


@dataclass(frozen=True)
class Drawing:
    """Outcome of the network for a batch of images.

    Attributes:
        reconstruction: -log p(image | canvas) in nats, ``(batch,)``.
        divergence: divergence of the posteriors from the prior in nats, ``(batch,)``.
        canvases: logits of the pixels after each step, ``(steps, batch, size, size)``.
        read_boxes: where each glimpse read, ``(steps, batch, 4)``, see :class:`Glimpse`.
        write_boxes: where each step wrote.
    """

    reconstruction: Tensor
    divergence: Tensor
    canvases: Tensor
    read_boxes: Tensor
    write_boxes: Tensor


class DrawNetwork(nn.Module):
    r"""Recurrent variational autoencoder that reads an image and draws it on a canvas, step by step.

    Step t, with the canvas :math:`c_{t-1}` and the error image :math:`\hat x = x - \sigma(c_{t-1})`:

    .. math:: h^{enc}_t = \mathrm{norm}(\mathrm{LSTM}(read(x, \hat x), h^{dec}_{t-1}; h^{enc}_{t-1})),
        \quad z_t \sim N(\mu(h^{enc}_t), \sigma^2(h^{enc}_t)),
    .. math:: h^{dec}_t = \mathrm{norm}(\mathrm{LSTM}(z_t; h^{dec}_{t-1})), \quad
        c_t = c_{t-1} + write(h^{dec}_t).

    Both hidden states are fed back; each step has its own normalizers.

    Args:
        norm: spec of the normalizers.
        size: rows and columns of an image.
        steps: number of glimpses.
        points: rows and columns of a glimpse's grid.
        latents: size of z.
        hidden: size of each LSTM.

    Source: Gregor et al., ICML 2015.
    """

    def __init__(
        self,
        norm: str,
        size: int = 28,
        steps: int = 5,
        points: int = 5,
        latents: int = 10,
        hidden: int = 64,
    ) -> None:
        super().__init__()
        self.size, self.steps, self.points = size, steps, points
        self.latents, self.hidden = latents, hidden
        self.encoder = NormLSTMCell(2 * points**2 + hidden, hidden, steps=steps)
        self.decoder = NormLSTMCell(latents, hidden, steps=steps)
        self.posterior = nn.Linear(hidden, 2 * latents)
        self.read = nn.Linear(hidden, 5)
        self.write = nn.Linear(hidden, 5 + points**2)
        # after all layers: a user's normalizer may draw random numbers, and all arms share the weights
        for cell in (self.encoder, self.decoder):
            cell.norm = FedBackNorm(norm, hidden, steps)

    def forward(self, image: Tensor, noise: Tensor) -> Drawing:
        """Draw images.

        Args:
            image: ``(batch, size, size)``, 0 or 1.
            noise: ``(steps, batch, latents)`` from N(0, 1): an image's drawing depends on it and on no
                other image of the batch.
        """
        batch = len(image)
        canvas = torch.zeros_like(image)
        encoder = (image.new_zeros(batch, self.hidden), image.new_zeros(batch, self.hidden))
        decoder = (image.new_zeros(batch, self.hidden), image.new_zeros(batch, self.hidden))
        means, log_sigmas, canvases, read_boxes, write_boxes = [], [], [], [], []
        for t in range(self.steps):
            seen = glimpse(self.read(decoder[0]), self.size, self.points)
            error = image - canvas.sigmoid()
            read = [seen.read(image), seen.read(error), decoder[0]]
            encoder = self.encoder(torch.cat(read, 1), encoder, t)
            mean, log_sigma = self.posterior(encoder[0]).chunk(2, 1)
            decoder = self.decoder(mean + log_sigma.exp() * noise[t], decoder, t)
            canvas, box = self._write(canvas, decoder[0])
            means.append(mean)
            log_sigmas.append(log_sigma)
            canvases.append(canvas)
            read_boxes.append(seen.box)
            write_boxes.append(box)
        return Drawing(
            reconstruction(canvas, image),
            divergence(torch.stack(means), torch.stack(log_sigmas)),
            torch.stack(canvases),
            torch.stack(read_boxes),
            torch.stack(write_boxes),
        )

    def sample(self, noise: Tensor) -> Tensor:
        """Draw images from the prior.

        Args:
            noise: ``(steps, batch, latents)`` from N(0, 1), the latent variables themselves.

        Returns:
            Probabilities of the pixels after each step, ``(steps, batch, size, size)``.
        """
        canvas = noise.new_zeros(noise.shape[1], self.size, self.size)
        decoder = None
        canvases = []
        for t in range(self.steps):
            decoder = self.decoder(noise[t], decoder, t)
            canvas, _ = self._write(canvas, decoder[0])
            canvases.append(canvas.sigmoid())
        return torch.stack(canvases)

    def _write(self, canvas: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
        """Return the canvas after a step and the box of its glimpse."""
        written = self.write(state)
        place = glimpse(written[:, :5], self.size, self.points)
        patch = written[:, 5:].view(-1, self.points, self.points)
        return canvas + place.write(patch), place.box
