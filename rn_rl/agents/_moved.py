"""Module names of version 0.1.0 that were moved: each forwards to its new home for one release."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from typing import Any


def forward(old: str, new: str) -> Callable[[str], Any]:
    """Return a module ``__getattr__`` that warns and reads each name from another module.

    Args:
        old: name of the module that forwards.
        new: name of the module that has the names now.
    """

    def get(name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(f"module {old!r} has no attribute {name!r}")
        value = getattr(importlib.import_module(new), name)
        warnings.warn(f"{old} was renamed {new}", DeprecationWarning, stacklevel=2)
        return value

    return get
