"""Parser of normalizer specs such as ``"ln+rn(half_life=2000)"``, and their one spelling."""

from __future__ import annotations

import ast
import inspect
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from rn_rl.errors import UserError, unknown
from rn_rl.normalization.plugins import ImportedLater, find, known_names, row_from_module
from rn_rl.normalization.recording import RECORDING, read_recording
from rn_rl.normalization.rows import NormalizerSpec


@dataclass(frozen=True)
class Term:
    """One term of a spec: a row of the registry and its arguments."""

    row: NormalizerSpec
    arguments: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Canonical spelling: without defaults, 2000.0 as 2000, paths and words without quotes."""
        if self.row.recording is not None:
            return f"{self.row.name}({self.arguments[self.row.recording]})"
        if self.row.arguments is None:  # its module is not imported for a spelling
            inside = ",".join(f"{k}={_spelled(v)}" for k, v in sorted(self.arguments.items()))
            return f"{self.row.name}({inside})" if inside else self.row.name
        defaults = inspect.signature(self.row.build).parameters
        given = {k: v for k, v in self.arguments.items() if v != defaults[k].default}
        words = self.row.choices
        inside = ",".join(
            f"{k}={str(v).lower() if k in words else _spelled(v)}" for k, v in given.items()
        )
        return f"{self.row.name}({inside})" if inside else self.row.name


def _spelled(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, tuple):  # without the spaces that repr puts between items
        items = [_spelled(item) if isinstance(item, tuple) else repr(item) for item in value]
        return f"({','.join(items)}{',' if len(items) == 1 else ''})"
    return repr(value)


_TERM = re.compile(
    r"\s*([A-Za-z_][\w.]*:[A-Za-z_][\w.]*|[A-Za-z][\w-]*)\s*(?:\((.*)\))?\s*", re.DOTALL
)


def parse_spec(spec: str) -> list[Term]:
    """Parse a spec such as ``"ln+rn(half_life=2000)"``: terms joined by ``+``, applied in that order.

    A name is one of this library in any case, one that was registered or is of an installed package, or
    ``module:Class``. The module is not imported here, but when the network is built.

    Args:
        spec: names, with arguments by position or name.

    Raises:
        UserError: the text is no spec, a name is unknown (with the nearest names and the whole list),
            arguments do not fit, two terms change the weights of the layer, or ``rsnorm`` occurs twice.
    """
    if not isinstance(spec, str) or not spec.strip():
        raise UserError(f"normalizer {spec!r}: expected a spec such as 'rn' or 'ln+rn'")
    terms = []
    for text in split_outside(spec, "+"):
        match = _TERM.fullmatch(text)
        if match is None:
            raise UserError(
                f"normalizer {spec!r}: cannot read {text!r}; expected name or name(argument=value), "
                "joined by '+'"
            )
        name, inside = match.groups()
        row = row_from_module(name) if ":" in name else find(name.lower())
        if row is None:
            names = known_names()
            own = "one of your own: rn_rl.register() it first, or give module:Class"
            raise unknown("normalizer", name, names, f"known: {', '.join(names)}; {own}")
        parse = _parse_arguments if row.recording is None else _parse_path
        terms.append(Term(row, parse(row, inside or "")))
    changing = [term.row.name for term in terms if term.row.reparametrize is not None]
    if len(changing) > 1:
        raise UserError(
            f"normalizer {spec!r}: expected at most one term that changes the weights of the layer, got "
            f"{' and '.join(changing)}"
        )
    if [term.row.name for term in terms].count("rsnorm") > 1:
        raise UserError(
            f"normalizer {spec!r}: rsnorm twice; expected it once, since the second finds mean 0 and "
            "variance 1"
        )
    return terms


def split_outside(spec: str, mark: str) -> Iterator[str]:
    """Split a text at each ``mark`` that is not inside parentheses; those in quotes do not count."""
    start = depth = 0
    quote = ""
    for i, character in enumerate(spec):
        if quote or (depth and character in "'\""):
            quote = "" if character == quote else quote or character
            continue
        depth += (character == "(") - (character == ")")
        if character == mark and depth == 0:
            yield spec[start:i]
            start = i + 1
    yield spec[start:]


def split_names(text: str | None) -> list[str]:
    """Split names at the commas outside of parentheses; each name is returned once."""
    text = text or ""
    return list(dict.fromkeys(name.strip() for name in split_outside(text, ",") if name.strip()))


def imported_names(spec: str) -> list[str]:
    """Return the terms ``module:Class`` of a text that may be a spec; building it imports the modules."""
    names = [part.partition("(")[0].strip() for part in split_outside(spec, "+")]
    return [name for name in names if ":" in name]


def _parse_path(row: NormalizerSpec, text: str) -> dict[str, Any]:
    """Read the path of a recorded run, with or without quotes, and spell it as the run's folder."""
    assert row.recording is not None
    named = re.fullmatch(rf"(?:{row.recording}\s*=)?\s*(.*)", text.strip(), re.DOTALL)
    quoted = re.fullmatch(r"""(['"]?)\s*([^'"]*?)\s*\1""", named[1] if named else "")
    path = quoted[2] if quoted else ""
    if not path or not path.isprintable():
        raise UserError(
            f"normalizer {row.name}({text!r}): expected one argument, {row.recording}: the folder of a "
            f"recorded run, such as {row.name}(runs/rn/dqn/CartPole-v1_1)"
        )
    given = PurePath(path)
    # "/" on Windows too, so that a run has one spelling on every system
    return {row.recording: (given.parent if given.name == RECORDING else given).as_posix()}


def _parse_arguments(row: NormalizerSpec, text: str) -> dict[str, Any]:
    known = row.arguments
    takes = f"takes ({', '.join(known)})" if known else "takes no arguments"
    takes = (
        "takes arguments by name, numbers or quoted texts, each once: module:Class(a=1,b='x')"
        if known is None
        else takes
    )
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise SyntaxError
        positional = [_literal(value) for value in call.args]
        named = {str(k.arg): _literal(k.value) for k in call.keywords}
        if len(named) < len(call.keywords):
            raise TypeError("an argument is given twice")
        if known is None and positional:
            raise TypeError("their order is not known before the module is imported")
        parameters = [
            inspect.Parameter(a, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            for a in (named if known is None else known)
        ]
        arguments = inspect.Signature(parameters).bind_partial(*positional, **named).arguments
        if any(isinstance(v, Word) and k not in row.choices for k, v in arguments.items()):
            raise ValueError("a word in place of a number")
    except (SyntaxError, ValueError, TypeError):
        raise UserError(f"normalizer {row.name}({text}): {row.name} {takes}") from None
    if row.origin is not None:  # a user's own takes any literal
        return dict(arguments)
    for key, value in arguments.items():
        if key in row.choices:
            arguments[key] = _chosen(row, key, value)
            continue
        optional = "None" in str(inspect.signature(row.build).parameters[key].annotation)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number and not (value is None and optional):
            raise UserError(f"normalizer {row.name}: {key}={value!r}: expected a number")
        if key == "half_life" and value == math.inf:
            raise UserError(
                f"normalizer {row.name}: half_life=inf: expected a finite number of phases, or None"
            )
    return dict(arguments)


class Word(str):
    """An argument of a spec that is written without quotes, such as ``td``."""


def _literal(node: ast.expr) -> Any:
    """Read an argument: a word, or a literal of Python."""
    return Word(node.id) if isinstance(node, ast.Name) else ast.literal_eval(node)


def _chosen(row: NormalizerSpec, key: str, value: Any) -> Any:
    """Return the value among the row's choices that an argument means; its default if it is None."""
    choices = row.choices[key]
    default = inspect.signature(row.build).parameters[key].default
    if value is None and default is None:
        return None
    words = {str(choice).lower(): choice for choice in choices}
    if isinstance(value, bool | str) and str(value).lower() in words:
        return words[str(value).lower()]
    if isinstance(default, bool):
        shown = repr(value) if isinstance(value, str) else value
        raise UserError(f"normalizer {row.name}: {key}={shown}: expected true or false")
    raise unknown(f"{key} of {row.name}", str(value), words)


def prior_terms(spec: str) -> list[str]:
    """Return the terms of a spec whose prior is that of an agent's transitions, as ``sn(prior=td)``.

    Raises:
        UserError: see :func:`parse_spec`.
    """
    return [
        str(term)
        for term in parse_spec(spec)
        if "prior" in term.row.choices and term.arguments.get("prior") is not None
    ]


def canonical_spec(spec: str) -> str:
    """Spell a spec in the one canonical way, without spaces; run folders are named by it.

    Raises:
        UserError: see :func:`parse_spec`.
    """
    terms = [term for term in parse_spec(spec) if not term.row.is_identity]
    # what changes weights may stand anywhere: wn and spectral are spelled first, nap last
    terms.sort(key=lambda term: (term.row.projects, term.row.reparametrize is None))
    return "+".join(map(str, terms)) or "none"


def check_recordings(spec: str) -> None:
    """Check that every recording that a spec replays can be read, before a training starts.

    Raises:
        UserError: a recording is missing or broken; see also :func:`parse_spec`.
    """
    for term in parse_spec(spec):
        if term.row.recording is not None:
            read_recording(term.arguments[term.row.recording])


def check_importable(spec: str) -> None:
    """Import the modules that a spec names, before a training starts.

    Only for a spec that the user typed, or of a run that the user trusts.

    Raises:
        UserError: a module cannot be imported, or what it names is not a class of Modules; see also
            :func:`parse_spec`.
    """
    for term in parse_spec(spec):
        if isinstance(term.row.factory, ImportedLater):
            term.row.factory.resolve()


def origins(spec: str) -> dict[str, str]:
    """Return ``"module:Class"`` of the registered names in a spec, which another process imports."""
    rows = [term.row for term in parse_spec(spec)]
    return {r.name: r.origin for r in rows if r.origin is not None and r.arguments is not None}
