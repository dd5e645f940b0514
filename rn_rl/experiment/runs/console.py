"""Lines for the user, and how far a training is for whoever watches it."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console


@dataclass
class Watch:
    """How far a training is, for whoever runs it from outside, and whether it shall stop."""

    timesteps: int = 0
    stop: bool = False


def say(console: Console, text: str, style: str | None = None) -> None:
    """A line of text as it is: brackets of a path are no markup, and a terminal may wrap it."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)
