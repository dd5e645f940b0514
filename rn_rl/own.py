"""Import modules of the user's own: of an environment, a wrapper, an algorithm or a normalizer."""

from __future__ import annotations

import importlib
from types import ModuleType

from rn_rl.errors import UserError, first_line


def import_own(kind: str, name: str, module: str) -> ModuleType:
    """Import a module of the working directory or of an installed package.

    Args:
        kind: what it is imported for, such as ``"environment"``.
        name: how the user wrote it, as ``"module:Name"``.
        module: the module in it.

    Raises:
        UserError: the module is not there, or its code raises anything.
    """
    try:
        return importlib.import_module(module)
    except (Exception, SystemExit) as error:  # whatever the module raises
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise UserError(
            f"{kind} {name!r}: cannot import {module!r} ({reason}); expected a module of the working "
            "directory or of an installed package"
        ) from None
