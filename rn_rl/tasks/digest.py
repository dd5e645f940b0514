"""Digest of a user's data: results of other data are other results, whatever the folder is called."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import numpy as np

LETTERS = 8
"""Hexadecimal digits of a digest: data of equal digests by chance are one in four billion."""


def digest(parts: Iterable[np.ndarray | str]) -> str:
    """Return the first digits of the SHA-256 of some arrays, with their shapes and types, or texts."""
    found = hashlib.sha256()
    for part in parts:
        array = np.frombuffer(part.encode(), np.uint8) if isinstance(part, str) else part
        found.update(f"{array.dtype}{array.shape}".encode())
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()[:LETTERS]
