"""Images of the source and the targets: digits of 16 x 16 pixels, grey values from 0 to 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rn_rl.tasks.digits import load_digits, small_digits
from rn_rl.tasks.seeding import generator

SIZE = 16
BORDER = 4 / 28
"""Share of MNIST's images that is empty on each side, which is cut off."""

BLUR = 1.5
"""Standard deviation of the blur, in pixels."""

NOISE = 0.5
"""Standard deviation of the noise."""


def contrast(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Reduce the range of grey values from [0, 1] to [0.35, 0.65]."""
    return 0.3 * images + 0.35


def blur(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Convolve with a Gaussian of :data:`BLUR`, over 7 x 7 pixels."""
    line = torch.exp(-torch.arange(-3.0, 4).square() / (2 * BLUR**2))
    line = line / line.sum()
    padded = F.pad(images, (3, 3, 3, 3))
    return F.conv2d(F.conv2d(padded, line.view(1, 1, 7, 1)), line.view(1, 1, 1, 7))


def noise(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Add independent noise from N(0, :data:`NOISE` squared) to each pixel."""
    added = rng.normal(0, NOISE, images.shape).astype(np.float32)
    return images + torch.from_numpy(added)


CORRUPTIONS: dict[str, Callable[[Tensor, np.random.Generator], Tensor]] = {
    "contrast": contrast,
    "blur": blur,
    "noise": noise,
}
"""Targets that are the source's images ``(n, 1, 16, 16)``, changed."""


@dataclass(frozen=True)
class Part:
    """Images ``(n, 1, 16, 16)`` and labels ``(n,)``."""

    images: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor | slice) -> Part:
        return Part(self.images[index], self.labels[index])


@dataclass(frozen=True)
class Target:
    """Images of another kind.

    Attributes:
        unlabelled: images ``(n, 1, 16, 16)`` that are seen without labels; none of them is tested.
        test: other images, with labels.
    """

    unlabelled: Tensor
    test: Part


@dataclass(frozen=True)
class Domains:
    """A source and its targets by name."""

    source: Part
    source_test: Part
    targets: dict[str, Target]


def load(seed: int, data: Path | None, toy: bool) -> Domains:
    """Return the images of a seed.

    The source is MNIST, or the IDX files of ``data``. Targets are ``digits``, scikit-learn's of 8 x 8
    pixels by other writers, and corruptions of the source.

    Raises:
        UserError: data cannot be read, or scikit-learn is not installed.
    """
    digits = load_digits(data)
    images, tests, unlabelled, others = (100, 50, 50, 100) if toy else (4000, 1000, 1000, None)
    source = _part(digits.x, digits.y, 255, images, generator(seed, "source"))
    test = _part(digits.test_x, digits.test_y, 255, tests, generator(seed, "test"))
    small = _part(*small_digits(), 16, others, generator(seed, "digits"))
    targets = {"digits": Target(small.images[:unlabelled], small[unlabelled:])}
    for name, change in CORRUPTIONS.items():
        rng = generator(seed, name)
        seen = change(source.images[:unlabelled], rng)
        targets[name] = Target(seen, Part(change(test.images, rng), test.labels))
    return Domains(source, test, targets)


def _part(
    images: np.ndarray,
    labels: np.ndarray,
    largest: float,
    count: int | None,
    rng: np.random.Generator,
) -> Part:
    """Return at most ``count`` images in random order; None: all."""
    chosen = rng.permutation(len(labels))[:count]
    return Part(prepared(images[chosen], largest)[:, None], torch.from_numpy(labels[chosen]))


def prepared(images: np.ndarray, largest: float) -> Tensor:
    """Scale images to [0, 1] and 16 x 16 pixels, without the empty border if they have 28 x 28."""
    scaled = torch.from_numpy(images.astype(np.float32) / np.float32(largest))
    if scaled.shape[-1] == 28:
        cut = round(28 * BORDER)
        scaled = scaled[:, cut:-cut, cut:-cut]
    resized = F.interpolate(scaled[:, None], (SIZE, SIZE), mode="bilinear", antialias=True)
    return resized[:, 0]
