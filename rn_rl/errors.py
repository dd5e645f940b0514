"""Exceptions that the command line prints as one line, without a traceback."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake that the user can fix: the message has the value, what was expected, and the fix.

    The command line prints it as one line and exits with status 2.
    """


class TrainingStopped(Exception):
    """The user stopped a training with Ctrl-C; the message says how to continue it."""


class TrainingDiverged(Exception):
    """Trainings diverged; their runs say so. The command line prints it and exits with status 1."""


def first_line(error: BaseException) -> str:
    """First line of the message of an error, or the name of its class if the message is empty."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def printable(text: object) -> str:
    """Replace what a terminal would obey, such as escape sequences in the name of a file."""
    return "".join(c if c.isprintable() or c == "\n" else "?" for c in str(text))


def warning_line(prog: str, message: object) -> str:
    """Return a warning as one line, without the line of code that it comes from."""
    return f"{prog}: warning: {printable(' '.join(str(message).split()))}\n"


USUAL_NAMES = {
    "layernorm": "ln",
    "layer_norm": "ln",
    "batchnorm": "bn",
    "batch_norm": "bn",
    "batchrenorm": "brn",
    "groupnorm": "gn",
    "group_norm": "gn",
    "rmsnorm": "rms",
    "rms_norm": "rms",
    "weightnorm": "wn",
    "weight_norm": "wn",
    "spectralnorm": "spectral",
    "spectral_norm": "spectral",
    "sn_spectral": "spectral",
    "lr": "learning_rate",
    "discount": "gamma",
    "lambda": "gae_lambda",
    "epochs": "n_epochs",
}
"""Names that other libraries use, and ours."""


def unknown(kind: str, value: str, known: Iterable[str], hint: str | None = None) -> UserError:
    """Build the error for an unknown name: the value, the nearest valid names, then all of them.

    Args:
        kind: kind of thing that is named, such as ``"normalizer"``.
        value: the name received.
        known: all valid names.
        hint: text in place of the list of all names.
    """
    names = list(known)
    lower = {name.lower(): name for name in names}
    usual = USUAL_NAMES.get(value.lower())
    near = [lower[n] for n in difflib.get_close_matches(value.lower(), lower, n=3, cutoff=0.5)]
    near = [usual] if usual in names else near
    nearest = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    rest = hint if hint is not None else f"known: {', '.join(names)}"
    return UserError(f"unknown {kind} {value!r}.{nearest} ({rest})")
