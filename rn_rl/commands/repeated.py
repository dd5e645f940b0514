"""Options with several values that are typed several times: ``--set gamma=0.9 --set n_steps=64``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

import tyro

from rn_rl.commands.help import flag_of


def gathered(arguments: Sequence[str], config: type | None) -> list[str]:
    """Return arguments in which each option that takes several words occurs once, with all of them.

    The parser would keep the words of the last occurrence, and drop the others without a word. Of an
    option with one value, also one with commas, the last one counts, as everywhere.

    Args:
        arguments: what was typed.
        config: dataclass of the options.
    """
    lists = list_options(config)
    kept: list[str] = []
    found: dict[str, list[str]] = {}
    times: dict[str, int] = {}
    at = ""
    for text in arguments:
        name, equals, value = text.partition("=")
        flag = name.replace("_", "-") if text.startswith("--") else ""
        if flag:
            at = flag if flag in lists else ""
            times[at] = times.get(at, 0) + 1
        if not at:
            kept.append(text)
        elif not flag:
            found[at].append(text)
        else:
            found.setdefault(at, []).extend([value] if equals else [])
    if all(count == 1 for flag, count in times.items() if flag):
        return list(arguments)
    for flag, values in found.items():
        kept += [flag, *values]
    return kept


def list_options(config: type | None) -> set[str]:
    """Return the options that take several words."""
    found = set()
    hints = get_type_hints(config, include_extras=True) if config is not None else {}
    for name, hint in hints.items():
        notes: tuple[Any, ...] = getattr(hint, "__metadata__", ())
        kind = get_args(hint)[0] if notes else hint
        if get_origin(kind) is tuple and tyro.conf.Positional not in notes:
            found.add(flag_of(name))
    return found
