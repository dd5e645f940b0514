"""Task ``draw``: learn to draw digits by glimpses; the variational bound in nats."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from rn_rl.errors import UserError
from rn_rl.tasks.cancellation import cancellation_expected
from rn_rl.tasks.digits import load_digits
from rn_rl.tasks.draw.network import DrawNetwork
from rn_rl.tasks.seeding import batches, generator, seed_torch
from rn_rl.tasks.task import Metric, Result, Task, phases

if TYPE_CHECKING:
    from rn_rl.tasks.results import Results

EPOCHS, BATCH = 12, 64
LEARNING_RATE, BETAS = 2e-3, (0.5, 0.999)
LARGEST_NORM = 5.0
"""Norm to which gradients are clipped."""

SAMPLES, FOLLOWED = 10, 2
"""Images that are drawn from the prior, and test images whose glimpses are kept, for the figures."""

MOST_IMAGES = 4000
"""Most training images of an epoch; of larger files, the seed draws them."""


class Draw(Task):
    """Digits drawn by a recurrent variational autoencoder with attention (DRAW)."""

    name = "draw"
    title = "Drawing digits by glimpses (DRAW)"
    arms = ("none", "ln", "rn", "ln+rn", "logt", "rn+ln")
    settings = ("digits",)
    metrics = (
        Metric("bound", "test bound", "nats"),
        Metric("reconstruction", "reconstruction", "nats"),
        Metric("divergence", "divergence", "nats"),
        Metric("untrained", "untrained", "nats"),
    )

    def protocol(self, data: Path | None, toy: bool) -> str:
        digits = load_digits(data)
        load(0, data, toy)
        epochs = "1 epoch of 64 images" if toy else f"{EPOCHS} epochs of at most {MOST_IMAGES:,}"
        return (
            f"LSTMs of 64, 5 glimpses of 5 x 5, 10 latent variables, {digits.size}, binarised once by "
            f"the seed, {epochs}, batches of {BATCH}, Adam {LEARNING_RATE}, gradients clipped to "
            f"{LARGEST_NORM}"
        )

    def train_one(
        self,
        arm: str,
        setting: str,
        seed: int,
        *,
        data: Path | None,
        toy: bool,
        commit_every: int | None,
    ) -> Result:
        train, test = load(seed, data, toy)
        seed_torch(seed)
        with cancellation_expected():
            net = DrawNetwork(arm, train.shape[1])
        optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE, BETAS)
        order, noise = generator(seed, "order"), torch.Generator().manual_seed(seed)
        untrained = sum(evaluate(net, test, seed))
        parts = []
        with phases(net, commit_every):
            for _ in range(1 if toy else EPOCHS):
                net.train()
                for index in batches(order, len(train), BATCH):
                    optimizer.zero_grad()
                    drawing = net(train[index], draw_noise(net, len(index), noise))
                    (drawing.reconstruction + drawing.divergence).mean().backward()
                    torch.nn.utils.clip_grad_norm_(net.parameters(), LARGEST_NORM)
                    optimizer.step()
                parts.append(evaluate(net, test, seed))
        reconstruction, divergence = parts[-1]
        return Result(
            {
                "bound": reconstruction + divergence,
                "reconstruction": reconstruction,
                "divergence": divergence,
                "untrained": untrained,
            },
            {"bound": [sum(part) for part in parts], "gain": gains(net), **kept(net, test, seed)},
        )

    def figures(self, results: Results) -> dict[str, str]:
        # needs matplotlib, which training does not
        from rn_rl.tasks.draw.figures import curves, drawings, samples

        return {"": curves(results), "samples": samples(results), "glimpses": drawings(results)}

    def finding(self, results: Results) -> str:
        from rn_rl.tasks.wording import joined, means, versus

        setting, metric = results.settings[0], self.metrics[0]
        fall = [
            f"{arm} {results.estimate(arm, setting, 'bound').value:.0f} nats, untrained "
            f"{results.estimate(arm, setting, 'untrained').value:.0f}"
            for arm in results.arms[:1]
            if not results.not_finite(arm, setting, "bound")
        ]
        pairs = [("ln", "none"), ("rn", "ln"), ("rn", "logt"), ("ln+rn", "ln"), ("rn+ln", "ln")]
        told = [versus(results, arm, other, setting, metric) for arm, other in pairs]
        return f"Test bound: {joined([*fall, *told]) or means(results, setting, metric)}."


def gains(net: DrawNetwork) -> list[list[float]]:
    """Return the gains of the encoder's and the decoder's normalizers by step."""
    return [net.encoder.norm.gains(), net.decoder.norm.gains()]


def draw_noise(net: DrawNetwork, images: int, source: torch.Generator) -> Tensor:
    """Draw the latent noise of a batch, ``(steps, images, latents)``."""
    return torch.randn(net.steps, images, net.latents, generator=source)


@torch.no_grad()
def evaluate(net: DrawNetwork, test: Tensor, seed: int) -> tuple[float, float]:
    """Measure reconstruction and divergence in nats, by one drawing of each image.

    ``eval()`` ends a phase. The noise depends on the seed alone: all arms and epochs share it.
    """
    net.eval()
    drawing = net(test, draw_noise(net, len(test), torch.Generator().manual_seed(seed)))
    return drawing.reconstruction.mean().item(), drawing.divergence.mean().item()


@torch.no_grad()
def kept(net: DrawNetwork, test: Tensor, seed: int) -> dict[str, Any]:
    """Return what the figures show, as plain lists: samples of the prior, canvases and boxes of glimpses.

    Pixels are whole numbers from 0 to 255.
    """
    source = torch.Generator().manual_seed(seed)
    followed = test[:: max(1, len(test) // FOLLOWED)][:FOLLOWED]
    drawing = net(followed, draw_noise(net, len(followed), source))
    drawn = net.sample(draw_noise(net, SAMPLES, source))[-1]
    return {
        "samples": pixels(drawn),
        "images": pixels(followed),
        "canvases": pixels(drawing.canvases.sigmoid()),
        "read_boxes": drawing.read_boxes.double().round(decimals=2).tolist(),
        "write_boxes": drawing.write_boxes.double().round(decimals=2).tolist(),
    }


def pixels(probabilities: Tensor) -> list[Any]:
    """Return probabilities as whole numbers from 0 to 255; those that are no numbers as 0."""
    return (255 * probabilities.nan_to_num(0)).round().int().tolist()


def load(seed: int, data: Path | None, toy: bool) -> tuple[Tensor, Tensor]:
    """Return binarised images for training and testing, ``(n, size, size)`` of 0 and 1.

    A pixel is 1 with the probability of its grey value, drawn once by the seed.

    Raises:
        UserError: see :func:`~rn_rl.tasks.digits.load_digits`; or the images are no squares.
    """
    digits = load_digits(data)
    if digits.x.shape[1] != digits.x.shape[2]:
        raise UserError(
            f"--data {data}: images of {digits.x.shape[1]} x {digits.x.shape[2]} pixels, expected squares"
        )
    rng = generator(seed, "binarise")
    count, tests = (64, 16) if toy else (MOST_IMAGES, 1000)
    parts = []
    for images, most in ((digits.x, count), (digits.test_x, tests)):
        # drawn in their own order, so that the figures show the same digits for all seeds
        chosen = rng.permutation(len(images))[:most] if toy or len(images) > most else slice(None)
        grey = images[chosen] / 255
        parts.append(torch.from_numpy((rng.random(grey.shape) < grey).astype("float32")))
    return parts[0], parts[1]
