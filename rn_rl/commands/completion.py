"""Scripts of shell completion: tyro's, with each description in one line."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from rn_rl.errors import UserError, unknown

SHELLS = ("bash", "zsh", "fish")
"""Shells for which tyro writes scripts by itself; its others need another package."""

PRINT, WRITE = "--tyro-print-completion", "--tyro-write-completion"

SPEC = "COMPLETION_SPEC = "
"""Beginning of the line of a script that has all commands and options, as a Python literal."""


def asks_for_completion(typed: Sequence[str]) -> bool:
    """Return True if the arguments ask for a script."""
    return bool(typed) and typed[0].replace("_", "-") in (PRINT, WRITE)


def give_completion(typed: Sequence[str], script: Callable[[str], str]) -> None:
    """Print a script, or write it to a file.

    Args:
        typed: ``--tyro-print-completion SHELL`` or ``--tyro-write-completion SHELL FILE``.
        script: function that returns tyro's script for a shell.

    Raises:
        UserError: there is no such shell, or the file cannot be written.
    """
    flag, *others = typed
    file = flag.replace("_", "-") == WRITE
    if len(others) != 1 + file:
        expected = "a shell and a file" if file else "a shell"
        raise UserError(f"{flag}: expected {expected}, such as {flag} bash{' FILE' * file}")
    if others[0] not in SHELLS:
        raise unknown("shell", others[0], SHELLS)
    text = in_lines(script(others[0]))
    if not file or others[1] == "-":
        print(text)
        return
    Path(others[1]).write_text(text, encoding="utf-8")


def in_lines(script: str) -> str:
    """Return a script in which every description of an option is one line.

    The script prints a line ``option<tab>description`` for each candidate. The rest of a description
    that has a line break would be another candidate, so that no option is ever the only one.
    """
    lines = script.split("\n")
    # a line break is written as an escape, whose backslash fish's script doubles
    return "\n".join(re.sub(r"\\+n", " ", x) if x.startswith(SPEC) else x for x in lines)
