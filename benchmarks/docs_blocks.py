"""Generated text in a document, between ``<!-- name -->`` and ``<!-- /name -->``."""

from __future__ import annotations

from pathlib import Path

from rn_rl.errors import UserError
from rn_rl.experiment.runs.io import atomic_write


def around_block(path: Path, name: str) -> tuple[str, str]:
    """Return the text before and after a block of a document, the block's marks included.

    Raises:
        UserError: the document cannot be read, or lacks the marks.
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
    """Replace the block of a document by ``text``; the document appears whole or not at all."""
    before, after = around_block(path, name)
    with atomic_write(path) as temporary:
        temporary.write_text(f"{before}{text.strip()}\n{after}", encoding="utf-8")
