"""Options of commands as ``--help`` shows them."""

from __future__ import annotations

from typing import Any

import tyro


def shown_as(metavar: str, name: str | None = None) -> Any:
    """Configure how ``--help`` shows an option whose default is None or empty.

    Args:
        metavar: placeholder of the value.
        name: name of the option; default: that of the field.
    """
    return tyro.conf.arg(name=name, metavar=metavar, help_behavior_hint="")
