"""Options with several values that are typed several times: ``--set gamma=0.9 --set n_steps=64``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, get_args, get_origin, get_type_hints

import tyro

from rn_rl.commands.help import flag_of
from rn_rl.experiment.settings.options import COMMAS


def gathered(
    arguments: Sequence[str], config: type | None, *, spaced_alone: bool = False
) -> list[str]:
    """Return arguments in which each option with several values occurs once, with all of them.

    The parser would keep the values of the last occurrence, and drop the others without a word.

    Args:
        arguments: what was typed.
        config: dataclass of the options.
        spaced_alone: leave options whose values are separated by commas as they are.
    """
    spaced, commas = separators(config)
    if spaced_alone:
        commas = set()
    kept: list[str] = []
    found: dict[str, list[str]] = {}
    times: dict[str, int] = {}
    at = ""
    for text in arguments:
        name, equals, value = text.partition("=")
        flag = name.replace("_", "-") if text.startswith("--") else ""
        if flag:
            at = flag if flag in {*spaced, *commas} else ""
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
        kept += [flag, *(values if flag in spaced else [",".join(values)])]
    return kept


def separators(config: type | None) -> tuple[set[str], set[str]]:
    """Return the options that take several words, and those whose values are separated by commas."""
    spaced, commas = set(), set()
    hints = get_type_hints(config, include_extras=True) if config is not None else {}
    for name, hint in hints.items():
        notes: tuple[Any, ...] = getattr(hint, "__metadata__", ())
        if tyro.conf.Positional in notes:
            continue
        kind = get_args(hint)[0] if notes else hint
        if get_origin(kind) is tuple:
            spaced.add(flag_of(name))
        if COMMAS in notes:
            commas.add(flag_of(name))
    return spaced, commas
