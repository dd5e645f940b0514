"""Images of the source and the targets: digits of 16 x 16 pixels between 0 and 1."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rn_rl.errors import UserError
from rn_rl.tasks.digits import load_digits, read_folder, small_digits
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
    padded = F.pad(images[:, None], (3, 3, 3, 3))
    return F.conv2d(F.conv2d(padded, line.view(1, 1, 7, 1)), line.view(1, 1, 1, 7))[:, 0]


def noise(images: Tensor, rng: np.random.Generator) -> Tensor:
    """Add independent noise from N(0, :data:`NOISE` squared) to each pixel."""
    added = rng.normal(0, NOISE, images.shape).astype(np.float32)
    return images + torch.from_numpy(added)


CORRUPTIONS: dict[str, Callable[[Tensor, np.random.Generator], Tensor]] = {
    "contrast": contrast,
    "blur": blur,
    "noise": noise,
}
"""Targets that are the source's images, changed."""


@dataclass(frozen=True)
class Domains:
    """Images ``(n, 1, 16, 16)`` and labels ``(n,)`` of a source and a target.

    Attributes:
        source: training images.
        source_labels: their labels.
        source_test: other images of the source.
        source_test_labels: their labels.
        unlabelled: images of the target, which are seen without labels.
        target_test: other images of the target.
        target_test_labels: their labels.
    """

    source: Tensor
    source_labels: Tensor
    source_test: Tensor
    source_test_labels: Tensor
    unlabelled: Tensor
    target_test: Tensor
    target_test_labels: Tensor


def load(setting: str, seed: int, data: Path | None, toy: bool) -> Domains:
    """Return the images of a setting.

    The source is MNIST, or the IDX files of ``data``. Targets are ``digits`` (scikit-learn's, 8 x 8, of
    other writers and another device), ``target`` (the IDX files in ``data/target``), or a corruption of
    the source. The unlabelled images are at most 1,000; none of them is tested.

    Raises:
        UserError: data cannot be read; ``target`` without files.
    """
    digits = load_digits(data)
    rng = generator(seed, f"domains {setting}")
    order = generator(seed, "source").permutation(len(digits.y))[: 100 if toy else 4000]
    x, labels = prepared(digits.x[order], 255), torch.from_numpy(digits.y[order])
    most = 50 if toy else 1000
    test_order = generator(seed, "test").permutation(len(digits.test_y))[: 50 if toy else 1000]
    test = prepared(digits.test_x[test_order], 255)
    test_labels = torch.from_numpy(digits.test_y[test_order])
    if setting in CORRUPTIONS:
        change = CORRUPTIONS[setting]
        unlabelled, target, target_labels = change(x[:most], rng), change(test, rng), test_labels
    elif setting == "digits":
        images, answers = small_digits()
        chosen = rng.permutation(len(answers))
        images, answers = prepared(images[chosen], 16), torch.from_numpy(answers[chosen])
        unlabelled, target, target_labels = images[:most], images[most:], answers[most:]
    elif data is None:
        raise UserError("setting target: it needs --data PATH with IDX files in PATH/target")
    else:
        other = read_folder(data / "target")
        unlabelled = prepared(other.x[:most], 255)
        target, target_labels = prepared(other.test_x, 255), torch.from_numpy(other.test_y)
    parts = (x, labels, test, test_labels, unlabelled, target, target_labels)
    return Domains(*(part[:, None] if part.dim() == 3 else part for part in parts))


def prepared(images: np.ndarray, largest: float) -> Tensor:
    """Scale images to [0, 1] and 16 x 16 pixels, without the empty border if they have 28 x 28."""
    scaled = torch.from_numpy(images.astype(np.float32) / np.float32(largest))
    if scaled.shape[-1] == 28:
        cut = round(28 * BORDER)
        scaled = scaled[:, cut:-cut, cut:-cut]
    resized = F.interpolate(scaled[:, None], (SIZE, SIZE), mode="bilinear", antialias=True)
    return resized[:, 0]
