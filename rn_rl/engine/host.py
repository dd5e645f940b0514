"""Settings of the process, for the CPU and the memory allocator, that many small networks need.

Each is set where a training begins, never by a constructor.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def flush_denormals() -> Iterator[None]:
    """Treat denormal numbers (in float32, below 1e-38) as 0 inside this context.

    When a weight gets no gradient any more, Adam's averages of it decay to denormal numbers and stay
    there, and a CPU takes a hundred times as long for each operation on one: a tenth of the training time
    of 50 seeds on CartPole.
    """
    before = not torch.tensor(1e-40) * 1
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)


def raise_mmap_threshold() -> None:
    """Make glibc reuse the memory that one update frees in the next update.

    By default glibc returns large blocks to the operating system, which clears each page before its next
    use: 6% of the time of PPO on images. glibc raises the threshold to the size of the largest block that
    was freed, up to 32 MiB (``mallopt(3)``, "dynamic mmap threshold"), so this frees one of 31 MiB. Other
    allocators ignore it.
    """
    torch.empty(31 << 20, dtype=torch.uint8)
