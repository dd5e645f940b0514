"""Mistakes on the command line in one line, from what tyro prints in boxes; and how numbers are read."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from typing import Any

from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from rn_rl.commands.help import flags_of
from rn_rl.errors import UserError
from rn_rl.experiment.settings.names import hyperparameter_names

NUMBERS = ConstructorRegistry()
"""How tyro reads numbers: whole ones also as ``1e5``, and errors that say what was expected."""

CLOSE = 0.65
"""Similarity of two names above which one is proposed for the other."""


def whole_number(text: str) -> int:
    """Return a whole number, which may be written as ``100000``, ``1e5`` or ``100000.0``.

    Raises:
        ValueError: it is none.
    """
    try:
        return int(text)
    except ValueError:
        pass
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value.is_integer()):
        raise ValueError(f"expected a whole number, got {text!r}")
    return int(Decimal(text))


def real_number(text: str) -> float:
    """Return a number.

    Raises:
        ValueError: it is none.
    """
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"expected a number, got {text!r}") from None


@NUMBERS.primitive_rule
def _number(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    read: Any = {int: whole_number, float: real_number}.get(info.type)
    if read is None:
        return None
    kinds = (int,) if info.type is int else (int, float)
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=info.type.__name__.upper(),
        instance_from_str=lambda texts: read(texts[0]),
        is_instance=lambda value: isinstance(value, kinds) and not isinstance(value, bool),
        str_from_instance=lambda value: [str(value)],
    )


def mistake(
    printed: str,
    typed: Sequence[str],
    chosen: type | None = None,
    others: Mapping[str, type] | None = None,
) -> UserError:
    """Return the error of one line for what tyro printed about a mistake.

    Args:
        printed: boxes, with colours.
        typed: arguments.
        chosen: dataclass of the command that was typed.
        others: dataclasses of all commands, by name.
    """
    plain = re.sub(r"\x1b\[[0-9;]*m", "", printed)
    line = " ".join(re.sub(r"[╭╮╰╯│─]+|-{3,}", " ", plain).split())
    # keep what is wrong; the help that follows it is what --help is for
    line = re.split(r" Argument helptext:| For full helptext| Perhaps you meant:", line)[0]
    left = re.search(r"Unrecognized(?: or misplaced)? options: (\S+)", line)
    if left:
        return unrecognized(left[1].rstrip(","), typed, chosen, others or {})
    number = re.search(r"Error parsing (\S+): .*(expected a (?:whole )?number), got '(.*?)'", line)
    if number:
        return UserError(f"{number[1]} {number[3]}: {number[2]}")
    empty = re.search(r"Missing value for argument '(\S+?)'", line)
    if empty:
        return UserError(f"{empty[1]}: a value is missing")
    choice = re.search(
        r"invalid choice '(.*?)' for argument '(\S+?)'. Expected one of \((.*?)\)", line
    )
    if choice:
        names = ", ".join(sorted(re.findall(r"'(.*?)'", choice[3])))
        return UserError(f"{choice[2]} {choice[1]}: expected one of {names}")
    # the title of a box, which is said again in it, and how tyro reads what is left over
    line = re.sub(r"^(Value error|Required options) (?=[A-Z])", "", line)
    line = re.sub(r" \(applied to [^)]*\)| Arguments are applied to [^.]*\.", "", line)
    return UserError(line)


def unrecognized(
    word: str, typed: Sequence[str], chosen: type | None, others: Mapping[str, type]
) -> UserError:
    """Return the error for a word that belongs to no option, with options of the same command alone."""
    if not word.startswith("-"):
        return UserError(
            f"{word!r} belongs to no option; a list such as --norms none,rn has commas"
        )
    name = word.partition("=")[0]
    flags = flags_of(chosen) if chosen else ["--help", "--version"]
    told = f"Unrecognized options: {name}."
    near = nearest(name, flags)
    if "--set" in flags:
        names = {each.rpartition(".")[2]: each for each in hyperparameter_names()}
        own = nearest(name.strip("-").replace("-", "_"), names)
        if own and (not near or similarity(name, own) > similarity(name, near)):
            return UserError(f"{told} Did you mean --set {names[own]}={value_of(word, typed)}?")
    if near:
        return UserError(f"{told} Did you mean {near}?")
    have = [f"'rn-rl {each}'" for each, config in others.items() if name in flags_of(config)]
    return UserError(f"{told} It is an option of {', '.join(have)}." if have else told.rstrip("."))


def nearest(name: str, names: Iterable[str]) -> str | None:
    """Return the name that is most like a wrong one; None if none is alike."""
    found = difflib.get_close_matches(name, list(names), 1, CLOSE)
    return found[0] if found else None


def similarity(one: str, other: str) -> float:
    """Return how alike two names are, from 0 to 1, whatever their dashes are."""
    first, second = (text.strip("-").replace("-", "_") for text in (one, other))
    return difflib.SequenceMatcher(None, first, second).ratio()


def value_of(word: str, typed: Sequence[str]) -> str:
    """Return the value that was typed for an option; ``...`` if there is none."""
    _, equals, value = word.partition("=")
    if not equals and word in typed[:-1]:
        value = typed[typed.index(word) + 1]
    return value if value and not value.startswith("--") else "..."
