"""Wrappers that a config puts on an environment, by name: of known packages, or of the user's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym

from rn_rl.errors import UserError
from rn_rl.experiment.settings.hyperparameters import IMPORTABLE, import_name
from rn_rl.own import import_own

Wrapper = Callable[..., gym.Env]
"""A wrapper's class, or a function that takes an environment and returns one."""


def wrappers_of(names: Any) -> list[tuple[str, Wrapper, dict[str, Any]]]:
    """Import the wrappers of the RL Zoo's ``env_wrapper``.

    Args:
        names: a name, ``{name: arguments}``, a list of these, or None. A name is dotted, of a known
            package, or ``"module:Class"``, of the user's own: see :func:`wrapper_named`.

    Returns:
        Name, class and arguments of each, the innermost first.

    Raises:
        UserError: there is no such wrapper, or the value has another form.
    """
    entries = names if isinstance(names, list) else [names] if names else []
    found = []
    for entry in entries:
        pair = isinstance(entry, dict) and len(entry) == 1
        name, arguments = next(iter(entry.items())) if pair else (entry, None)
        if not isinstance(name, str) or not isinstance(arguments, dict | None):
            raise UserError(
                f"env_wrapper={entry!r}: expected a name such as gymnasium.wrappers.FlattenObservation, "
                "or {NAME: {ARGUMENT: VALUE}}, or a list of these"
            )
        found.append((name, wrapper_named(name), arguments or {}))
    return found


def wrapper_named(name: str) -> Wrapper:
    """Import a wrapper.

    Args:
        name: dotted, from one of :data:`~rn_rl.experiment.settings.hyperparameters.IMPORTABLE`; or
            ``"module:Class"``, of the working directory or an installed package. A name from a file of a
            stranger was checked before, see :mod:`rn_rl.experiment.runs.trust`.

    Raises:
        UserError: there is no such wrapper.
    """
    if ":" not in name:
        module, _, kind = name.rpartition(".")
        if not name.startswith(IMPORTABLE):
            packages = ", ".join(p.rstrip(".") for p in IMPORTABLE)
            raise UserError(
                f"env_wrapper {name!r}: expected a class from one of {packages}; name one of your own "
                f"'{module or 'module'}:{kind}'"
            )
        return import_name(name)
    module, _, kind = name.partition(":")
    if not module or not kind:
        raise UserError(f"env_wrapper {name!r}: expected module:Class")
    found = getattr(import_own("env_wrapper", name, module), kind, None)
    if not callable(found):
        raise UserError(
            f"env_wrapper {name!r}: {module!r} has no class {kind!r}; expected module:Class, a subclass "
            "of gymnasium.Wrapper"
        )
    return found


def put_on(env: gym.Env, wrapper: Wrapper, name: str, arguments: dict[str, Any]) -> gym.Env:
    """Put a wrapper on an environment.

    Raises:
        UserError: it returns no environment.
    """
    wrapped = wrapper(env, **arguments)
    if not isinstance(wrapped, gym.Env):
        raise UserError(
            f"env_wrapper {name!r} made a {type(wrapped).__name__}: expected an environment; inherit "
            "from gymnasium.Wrapper"
        )
    return wrapped
