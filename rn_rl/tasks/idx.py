"""IDX files, the format of MNIST: a header of sizes, then the bytes; plain or compressed by gzip."""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path
from typing import IO

import numpy as np

from rn_rl.errors import UserError

UNSIGNED_BYTE = 8
"""Third byte of a file whose elements are bytes: the only kind that MNIST and its relatives have."""

MOST_ELEMENTS = 2**31
"""Largest number of elements that is read."""


def read_idx(path: Path) -> np.ndarray:
    """Read an IDX file of bytes.

    The format: two zero bytes, the type of the elements (8: unsigned byte), the number of axes, the size
    of each axis as a big-endian 32-bit number, then the elements. A file that begins as gzip is
    decompressed, whatever its name.

    Args:
        path: the file.

    Returns:
        An array of ``uint8`` of the shape in the header.

    Raises:
        UserError: the file is missing, is no IDX file of bytes, or has fewer or more elements than its
            header says.
    """
    try:
        with path.open("rb") as stream:
            compressed = stream.read(2) == b"\x1f\x8b"
        with gzip.open(path) if compressed else path.open("rb") as content:
            return read_stream(content)
    except FileNotFoundError:
        raise UserError(
            f"{path}: there is no such file; expected an IDX file, plain or .gz"
        ) from None
    except (OSError, EOFError, ValueError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: not a whole IDX file of bytes ({reason})") from None


def read_stream(stream: IO[bytes] | gzip.GzipFile) -> np.ndarray:
    """Read the content of an IDX file.

    Raises:
        ValueError: it is damaged, or no IDX file of bytes.
    """
    start = stream.read(4)
    if len(start) < 4 or start[:2] != b"\x00\x00" or not 1 <= start[3] <= 4:
        raise ValueError(
            f"begins with {start.hex(' ') or 'nothing'}, expected 00 00 08 and 1 to 4 axes"
        )
    if start[2] != UNSIGNED_BYTE:
        raise ValueError(f"elements of type 0x{start[2]:02x}, expected 0x08, unsigned bytes")
    sizes = stream.read(4 * start[3])
    if len(sizes) < 4 * start[3]:
        raise ValueError("ends within its header")
    shape = tuple(int(size) for size in np.frombuffer(sizes, ">u4"))
    count = math.prod(shape)
    if count > MOST_ELEMENTS:
        raise ValueError(f"its header says {count:,} elements, expected at most {MOST_ELEMENTS:,}")
    # one byte more than expected, to notice a longer file; never the size that a header claims at once
    content = stream.read(count + 1)
    if len(content) != count:
        more = "more" if len(content) > count else f"{len(content):,}"
        raise ValueError(f"its header says {count:,} elements, the file has {more}")
    return (
        np.frombuffer(content, np.uint8).reshape(shape).copy()
    )  # torch warns of an array it cannot write
