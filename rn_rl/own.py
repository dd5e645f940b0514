"""Modules of the user's own: how they are imported, and where in them an exception was raised."""

from __future__ import annotations

import importlib
import sysconfig
import traceback
from pathlib import Path
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


def place_in_own_code(error: BaseException) -> str | None:
    """Return ``"file.py:9, in forward"`` of the innermost frame of an exception in the user's own code.

    Own is what is neither of this package, nor an installed one, nor Python's.
    """
    paths = sysconfig.get_paths()
    others = [
        Path(paths[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")
    ]
    others.append(Path(__file__).resolve().parent)
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        file = Path(frame.filename)
        if file.is_file() and not any(file.resolve().is_relative_to(folder) for folder in others):
            return f"{file.name}:{frame.lineno}, in {frame.name}"
    return None
