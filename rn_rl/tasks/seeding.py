"""Random numbers of a run: one generator for each purpose, the same for all arms of a seed."""

from __future__ import annotations

import zlib
from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor


def generator(seed: int, purpose: str) -> np.random.Generator:
    """Return the generator of a purpose, such as ``"thinning"``; equal arguments give equal numbers."""
    return np.random.default_rng([seed, zlib.crc32(purpose.encode())])


def seed_torch(seed: int) -> None:
    """Seed torch's global generator; build the layers of a network right after it.

    Layers of the same shapes, built in the same order, then have the same weights in every arm.
    """
    torch.manual_seed(seed)


def batches(
    rng: np.random.Generator, samples: int, size: int, *, drop_last: bool = False
) -> Iterator[Tensor]:
    """Yield the indices of one shuffled epoch, batch by batch.

    Args:
        rng: draws a new order in each call.
        samples: number of samples.
        size: samples of a batch; the last batch may have fewer.
        drop_last: leave out a last batch that has fewer.
    """
    order = torch.from_numpy(rng.permutation(samples))
    for start in range(0, samples - (size - 1 if drop_last else 0), size):
        yield order[start : start + size]
