"""The arm ``rn+ln``: LayerNorm cancels the gain before it, which tasks run to show."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator


@contextlib.contextmanager
def cancellation_expected() -> Iterator[None]:
    """Hide the warning that a gain right before LayerNorm cancels, inside this context."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", r".* is scale-invariant, so the gain", UserWarning)
        yield
