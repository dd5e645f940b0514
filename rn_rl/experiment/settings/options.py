"""Options of commands as ``--help`` shows them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import tyro


def shown_as(metavar: str, name: str | None = None) -> Any:
    """Configure how ``--help`` shows an option whose default is None or empty.

    Args:
        metavar: placeholder of the value.
        name: name of the option; default: that of the field.
    """
    return tyro.conf.arg(name=name, metavar=metavar, help_behavior_hint="")


@dataclass(kw_only=True)
class DecisionOptions:
    """Options of a report that say what its conclusions are about; choose them before the runs."""

    help_section: ClassVar[str] = "decision"

    baseline: str = "none"
    """Normalizer that the others are compared with."""
    endpoint: str = "last"
    """Decides: last (return of the last policy) or area (under the curve); both are shown."""
    equivalence: Annotated[float | None, shown_as("RETURN")] = None
    """Difference of mean returns that does not matter: says 'equivalent' where a test shows it."""
    threshold: Annotated[float | None, shown_as("RETURN")] = None
    """Return that counts as learned; default: the environment's, if it is one of the tuned ones."""
