"""Read and write files; each is written under a temporary name and renamed, so none is half-written."""

from __future__ import annotations

import contextlib
import csv
import json
import lzma
import os
import re
import struct
import time
import tokenize
import unicodedata
import uuid
import zipfile
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

WINDOWS = os.name == "nt"

DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    RuntimeError,  # also of brackets nested too deep, and of an encrypted zip
    OverflowError,  # of the integer of an infinity
    MemoryError,  # of an array whose header says a size
    EOFError,
    tokenize.TokenError,  # of the header of an array
    struct.error,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)
"""Errors that reading a file with wrong bytes, or JSON of another shape, can raise."""


@contextlib.contextmanager
def atomic_write(path: Path, *, durable: bool = False) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it to ``path`` if the block raises nothing.

    The temporary name is unique among all processes on all machines that share the folder, and keeps
    the suffix, by which many writers choose the format. The folder is made if it does not exist.

    Args:
        path: the file.
        durable: write the data to the disk before the file is renamed, and the new name after it, so
            that a power failure leaves the old file or the new one.

    Raises:
        OSError: the file cannot be written, for example to a full disk; it names ``path``.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        with named_errors(path, temporary):
            yield temporary
            if durable:
                sync(temporary)
            replace_file(temporary, path)
            if durable:
                sync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


@contextlib.contextmanager
def named_errors(path: Path, temporary: Path | None = None) -> Iterator[None]:
    """Give errors of writing a file its name: those of a write have none, others the temporary one.

    Raises:
        OSError: the error of the block.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename not in (None, str(temporary)):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync(path: Path) -> None:
    """Write what the system has buffered of a file or folder to the disk (fsync)."""
    descriptor = os.open(
        path, os.O_RDWR if WINDOWS else os.O_RDONLY
    )  # Windows syncs only what it may write
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk; Windows cannot."""
    if not WINDOWS:
        sync(folder)


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files that killed processes left in a folder and the folders in it.

    Call it only where no other process writes.
    """
    for path in folder.rglob(".*"):
        if re.fullmatch(r"\..*\.[0-9a-f]{32}(\.\w+)?", path.name) and path.is_file():
            path.unlink(missing_ok=True)


def replace_file(source: Path, target: Path) -> None:
    """Rename a file over another one.

    Windows refuses that while a process has the target open, such as another worker that reads it, so
    it is tried again there for up to two seconds.
    """
    for _ in range(40):
        try:
            os.replace(source, target)
            return
        except PermissionError:
            if not WINDOWS:
                raise
            time.sleep(0.05)
    os.replace(source, target)


def write_yaml(path: Path, data: Any) -> None:
    """Write plain data as YAML."""
    with atomic_write(path) as temporary:
        temporary.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


FAST_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""YAML's safe loader, from libyaml where PyYAML has it."""

MOST_BYTES = 1_000_000
"""Largest size of a YAML file that is read; ours have some thousand bytes."""

MOST_VALUES, MOST_LEVELS = 20_000, 20
"""Most values and levels in a YAML file, counted after its aliases are followed."""


def read_yaml(path: Path) -> Any:
    """Read plain data from YAML, with libyaml where PyYAML has it: ten times as fast.

    Raises:
        ValueError: the file is not YAML, is too large, or holds other values than numbers, texts,
            lists and mappings with names.
        OSError: it cannot be read.
    """
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"it has {size:,} bytes, expected at most {MOST_BYTES:,}")
    return parse_yaml(path.read_text(encoding="utf-8"))


def parse_yaml(text: str, loader: Any = FAST_LOADER) -> Any:
    """Parse plain data from YAML of limited depth and size.

    Args:
        text: the YAML.
        loader: a safe loader.

    Raises:
        ValueError: see :func:`read_yaml`.
    """
    level = 0
    try:
        # libyaml ends the process where a file is nested too deeply to build
        for event in yaml.parse(text, loader):
            level += isinstance(event, yaml.CollectionStartEvent)
            level -= isinstance(event, yaml.CollectionEndEvent)
            if level > MOST_LEVELS:
                raise ValueError(f"more than {MOST_LEVELS} levels")
        data = yaml.load(text, loader)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
    check_plain(data)
    return data


def check_plain(data: Any) -> None:
    """Raise :class:`ValueError` unless data are plain, and neither too many nor nested too deeply."""
    left = MOST_VALUES
    stack = [(data, 0)]
    while stack:
        value, level = stack.pop()
        left -= 1
        if left < 0 or level > MOST_LEVELS:
            raise ValueError(
                f"more than {MOST_VALUES:,} values or {MOST_LEVELS} levels, aliases included"
            )
        if isinstance(value, dict):
            stack += [(part, level + 1) for part in (*value, *value.values())]
        elif isinstance(value, list):
            stack += [(part, level + 1) for part in value]
        elif isinstance(value, str):
            if any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in value):
                raise ValueError(f"control characters in {value[:80]!r}")
        elif value is not None and not isinstance(value, bool | int | float):
            raise ValueError(f"a value of type {type(value).__name__}: {str(value)[:80]!r}")


def write_json(path: Path, data: Any, *, durable: bool = False) -> None:
    """Write plain data as JSON; floats are stored exactly. ``durable``: see :func:`atomic_write`."""
    with atomic_write(path, durable=durable) as temporary:
        temporary.write_text(json.dumps(data), encoding="utf-8")


def write_npz(path: Path, *, durable: bool = False, **arrays: Any) -> None:
    """Write arrays of numbers or strings as an npz; no object arrays, which would be pickled.

    ``durable``: see :func:`atomic_write`.
    """
    with atomic_write(path, durable=durable) as temporary:
        np.savez(temporary, **arrays)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8, whole or not at all; bytes of a path that are no text appear as escapes."""
    with atomic_write(path) as temporary:
        temporary.write_text(text, encoding="utf-8", errors="backslashreplace")


def write_rows(path: Path, columns: list[str], rows: Iterable[list[Any]]) -> None:
    """Write a CSV file, whole or not at all; no cell is a formula for a spreadsheet."""
    with (
        atomic_write(path) as temporary,
        temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream,
    ):
        writer = csv.writer(stream)
        writer.writerow(columns)
        writer.writerows([as_cell(value) for value in row] for row in rows)


def as_cell(value: Any) -> Any:
    """Put an apostrophe before text that a spreadsheet would take for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def complete_lines(path: Path) -> list[bytes]:
    """Return the lines of a file that end with a newline; none if there is no file.

    A killed process can leave a part of a last line.
    """
    if not path.is_file():
        return []
    lines = path.read_bytes().splitlines(keepends=True)
    return [line for line in lines if line.endswith(b"\n")]
