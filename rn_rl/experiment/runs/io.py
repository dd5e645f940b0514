"""Files that appear whole or not at all, written under a temporary name."""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from rn_rl.errors import UserError


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


def around_block(path: Path, name: str) -> tuple[str, str]:
    """What stands before and after a generated text of a document, its marks included.

    Raises:
        UserError: it cannot be read, or has no ``<!-- name -->`` and ``<!-- /name -->``.
    """
    begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
    try:
        document = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error})") from None
    head, found, rest = document.partition(begin)
    _, closed, tail = rest.partition(end)
    if not found or not closed:
        raise UserError(f"{path}: expected the lines {begin.strip()} and {end} in it")
    return head + begin, end + tail


def replace_block(path: Path, name: str, text: str) -> None:
    """Put a generated text between ``<!-- name -->`` and ``<!-- /name -->`` of a document."""
    before, after = around_block(path, name)
    with whole(path) as temporary:
        temporary.write_text(f"{before}{text.strip()}\n{after}", encoding="utf-8")


def markdown_table(columns: list[str], rows: list[list[str]]) -> str:
    """A Markdown table; columns of numbers to the right, words to the left."""
    cells = list(zip(*rows, strict=True)) or [()] * len(columns)
    numbers = [sum(bool(re.match(r"[+-]?\d", text)) for text in column) for column in cells]
    marks = ["---:" if 2 * count > len(rows) else "---" for count in numbers]
    lines = [columns, marks, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
