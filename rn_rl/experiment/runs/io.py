"""Read and write files; each is written under a temporary name and renamed, so none is half-written."""

from __future__ import annotations

import contextlib
import json
import os
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

WINDOWS = os.name == "nt"


@contextlib.contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Yield a temporary path beside ``path`` and rename it to ``path`` if the block raises nothing.

    The temporary name is unique among all processes on all machines that share the folder, and keeps
    the suffix, by which many writers choose the format. The folder is made if it does not exist.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}{path.suffix}")
    try:
        yield temporary
        replace_file(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


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


def read_yaml(path: Path) -> Any:
    """Read plain data from YAML, with libyaml where PyYAML has it: ten times as fast."""
    return yaml.load(
        path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )


def write_json(path: Path, data: Any) -> None:
    """Write plain data as JSON; floats are stored exactly."""
    with atomic_write(path) as temporary:
        temporary.write_text(json.dumps(data), encoding="utf-8")


def write_npz(path: Path, **arrays: Any) -> None:
    """Write arrays of numbers or strings as an npz; no object arrays, which would be pickled."""
    with atomic_write(path) as temporary:
        np.savez(temporary, **arrays)
