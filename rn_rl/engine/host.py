"""Settings of the CPU and of the C library that many small networks need."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def flush_denormals() -> Iterator[None]:
    """In this context numbers too small for a full mantissa (in float32, below 1e-38) count as 0.

    Adam's averages of a weight that gets no gradient any more decay into them and stay there, and a
    CPU takes a hundred times as long for each: with 50 seeds of CartPole, a tenth of the time.
    """
    before = not torch.tensor(1e-40) * 1
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def raise_mmap_threshold() -> None:
    """Have the C library keep what an update frees for the next one.

    It gives large blocks back to the system, which clears them page by page for whoever asks next: 6%
    of the time of PPO on images. glibc learns from the largest block that it sees freed (mallopt(3),
    "dynamic mmap threshold"), up to 32 MiB; other libraries do as they like.
    """
    torch.empty(31 << 20, dtype=torch.uint8)
