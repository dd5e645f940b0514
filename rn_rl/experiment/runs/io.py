"""Files that appear whole or not at all, written under a temporary name."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path``, renamed to it if the block ends without an error.

    It keeps the suffix, since many writers choose the format by it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}{path.suffix}")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_yaml(path: Path, data: Any) -> None:
    """Plain data as YAML."""
    with whole(path) as temporary:
        temporary.write_text(yaml.safe_dump(data, sort_keys=False), encoding="utf-8")


def read_yaml(path: Path) -> Any:
    """Plain data from YAML, by libyaml where PyYAML has it: ten times as fast."""
    return yaml.load(
        path.read_text(encoding="utf-8"), getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    )


def write_json(path: Path, data: Any) -> None:
    """Plain data as JSON; floats keep every bit."""
    with whole(path) as temporary:
        temporary.write_text(json.dumps(data), encoding="utf-8")


def write_npz(path: Path, **arrays: Any) -> None:
    """Plain arrays (no objects, so nothing in it is a pickle)."""
    with whole(path) as temporary:
        np.savez(temporary, **arrays)
