"""Checks of the arguments of a probe."""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Iterable
from typing import Any

from torch import Tensor, nn

from rn_rl.errors import UserError, unknown


def whole(label: str, value: Any) -> int:
    """Return a number of at least 1; raise :class:`UserError` for others and for fractions."""
    try:
        number = operator.index(value)
    except TypeError:
        raise UserError(f"{label}={value!r}: expected a whole number of at least 1") from None
    if number < 1:
        raise UserError(f"{label}={value}: expected at least 1")
    return number


def chosen(label: str, given: str | Iterable[str], known: Collection[str]) -> frozenset[str]:
    """Return names that are among those known; raise :class:`UserError` for others.

    Args:
        label: name of the argument, a plural.
        given: a name, or several.
        known: all names.
    """
    names = [given] if isinstance(given, str) else given
    if not isinstance(names, Iterable):
        raise UserError(f"{label}={given!r}: expected some of {', '.join(known)}")
    found: list[str] = []
    for name in names:
        if not isinstance(name, str):
            raise UserError(f"{label}: {name!r} is no name; expected some of {', '.join(known)}")
        if name not in known:
            raise unknown(label.removesuffix("s"), name, known)
        found.append(name)
    return frozenset(found)


def checked_reference(reference: Any) -> Tensor | Callable[[], Any] | None:
    """Return the inputs of the churn; raise :class:`UserError` if no network is called with them."""
    if reference is None or isinstance(reference, Tensor) or callable(reference):
        found: Tensor | Callable[[], Any] | None = reference
        return found
    raise UserError(
        f"reference of type {type(reference).__name__}: expected a tensor, or a function without "
        "arguments that calls the network, such as lambda: net(x, y)"
    )


def checked_network(module: Any) -> nn.Module:
    """Return a network; raise :class:`UserError` for anything else."""
    if not isinstance(module, nn.Module):
        raise UserError(f"network of type {type(module).__name__}: expected a torch.nn.Module")
    return module
