"""Lines printed for the user, and the object by which another thread follows and stops a training."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console


@dataclass
class Watch:
    """Progress of a training and a request to stop it, shared with the thread that started it."""

    timesteps: int = 0
    """Timesteps done; written by the training."""
    stop: bool = False
    """True asks the training to save a checkpoint and stop at the end of the phase."""


def say(console: Console, text: str, style: str | None = None) -> None:
    """Print a line of text literally: brackets are not taken for markup, long lines are not cut."""
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)
