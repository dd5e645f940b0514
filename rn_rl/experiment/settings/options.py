"""Options of commands: how ``--help`` shows them."""

from __future__ import annotations

from typing import Any

import tyro


def shown_as(metavar: str, name: str | None = None) -> Any:
    """How ``--help`` shows an option whose default is nothing, which then need not be said."""
    return tyro.conf.arg(name=name, metavar=metavar, help_behavior_hint="")
