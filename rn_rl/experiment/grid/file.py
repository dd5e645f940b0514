"""Options of ``rn-rl compare`` from a YAML file, so that a whole study is one file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from rn_rl.errors import UserError, first_line, unknown
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.runs.io import DAMAGE, read_yaml
from rn_rl.experiment.settings.algorithms import ALGORITHMS

SEPARATED = ("algo", "env", "norms")
"""Options whose values are separated by commas."""


def with_file(arguments: Sequence[str]) -> list[str]:
    """Return arguments with those of the file of ``--grid`` before them; typed ones win.

    Of ``--set`` and ``--env-kwargs`` the file's names and values stay, but for those that are typed.

    Args:
        arguments: the command, ``compare``, and its options as typed.

    Raises:
        UserError: the file cannot be read, or an option in it is unknown.
    """
    command, *typed = arguments
    path = None
    for place, text in enumerate(typed):
        if text.startswith("--grid="):
            path = text.partition("=")[2]
        elif text == "--grid" and place + 1 < len(typed):
            path = typed[place + 1]
    return [command, *(file_arguments(Path(path)) if path else []), *typed]


def file_arguments(path: Path) -> list[str]:
    """Return the options in a file as the arguments of a command line.

    The names are those of the options, such as ``final_episodes`` or ``final-episodes``. A list is for
    the options that take several values; ``set`` and ``env_kwargs`` also take names and values.

    Raises:
        UserError: see :func:`with_file`.
    """
    try:
        table = read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"--grid {path}: no such file") from None
    except DAMAGE as error:
        raise UserError(f"--grid {path} cannot be read: {first_line(error)[:200]}") from None
    if not isinstance(table, dict):
        raise UserError(f"--grid {path}: expected names of options and their values")
    known = [field.name for field in fields(CompareConfig) if field.name != "grid"]
    found: list[str] = []
    for key, value in table.items():
        name = str(key).replace("-", "_")
        if name not in known:
            raise unknown(f"option in --grid {path}:", str(key), known)
        found += one_option(path, name, value)
    return found


def one_option(path: Path, name: str, value: Any) -> list[str]:
    """Return an option of a file as arguments; none if it is false or empty."""
    flag = f"--{name.replace('_', '-')}"
    if value is True:
        return [flag]
    if value is None or value is False or value == []:
        return []
    if name in ("set", "env_kwargs") and isinstance(value, dict):
        return [flag, *assignments(value)]
    if isinstance(value, dict):
        raise UserError(f"--grid {path}: {name}: expected one value or a list")
    if not isinstance(value, list):
        return [flag, str(value)]
    texts = [str(part) for part in value]
    return [flag, ",".join(texts)] if name in SEPARATED else [flag, *texts]


def assignments(values: dict[Any, Any], prefix: str = "") -> list[str]:
    """Return names and values as texts: ``{dqn: {gamma: 0.9}}`` is ``dqn:gamma=0.9``.

    Names below the name of an algorithm are of that algorithm; other levels are separated by dots. Names
    of wrappers have dots and colons themselves, so ``env_wrapper`` is one value.
    """
    found = []
    for name, value in values.items():
        if isinstance(value, dict) and name != "env_wrapper":
            of_algorithm = name in ALGORITHMS or ":" in str(name)  # or a class of the user's own
            separator = ":" if not prefix and of_algorithm else "."
            found += assignments(value, f"{prefix}{name}{separator}")
        else:
            found.append(f"{prefix}{name}={flow(value)}")
    return found


def flow(value: Any) -> str:
    """Return a value as YAML of one line."""
    if isinstance(value, list):
        return "[" + ", ".join(map(flow, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name}: {flow(part)}" for name, part in value.items()) + "}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return str(value)
