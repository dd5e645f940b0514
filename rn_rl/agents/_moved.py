"""Deprecated module names of version 0.1.0: each forwards to the present modules for one release."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any


def forward(old: str, new: str, moved: Mapping[str, str] | None = None) -> Callable[[str], Any]:
    """Return a module ``__getattr__`` that warns and returns the attribute of another module.

    Args:
        old: name of the module that forwards.
        new: name of the module that has its attributes now.
        moved: attributes that are elsewhere or have another name now, as ``"module:name"``.
    """

    def get(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        module, _, attribute = (moved or {}).get(name, f"{new}:{name}").partition(":")
        value = getattr(importlib.import_module(module), attribute)
        warnings.warn(
            f"{old}.{name} was renamed {module}.{attribute}", DeprecationWarning, stacklevel=2
        )
        return value

    return get
