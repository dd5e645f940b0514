"""The one exception type that the command line turns into a single line and exit status 2."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Something that the person at the keyboard can fix: the value, what was expected, the fix."""


class TrainingStopped(Exception):
    """The user stopped a training with Ctrl-C; the message says how to continue it."""


def first_line(error: Exception) -> str:
    """The first line of what a library says, or what kind of error it is where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def unknown(kind: str, value: str, known: Iterable[str], hint: str | None = None) -> UserError:
    """The error for a name that is in no table: the nearest names first, then where all of them are.

    Args:
        kind: what the name is a name of, such as ``"normalizer"``.
        value: the name received.
        known: every valid name.
        hint: where to look further; by default the whole list is printed.
    """
    names = list(known)
    lower = {name.lower(): name for name in names}
    near = [lower[n] for n in difflib.get_close_matches(value.lower(), lower, n=3, cutoff=0.5)]
    nearest = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    rest = hint if hint is not None else f"known: {', '.join(names)}"
    return UserError(f"unknown {kind} {value!r}.{nearest} ({rest})")
