"""Arguments of policies and feature extractors that are normalizer specs."""

from __future__ import annotations

from typing import Any

NORMALIZER_ARGUMENTS = ("norm", "obs_norm", "trunk_norm", "lstm_norm")
"""Arguments that are normalizer specs. A spec may be ``module:Class``, whose module is imported: one that
is missing here would import a module of a stranger's run without ``--trust``."""


def normalizer_specs(given: Any) -> list[str]:
    """Return the normalizer specs anywhere in hyperparameters or in arguments of a policy.

    Args:
        given: plain values: a dict, or a list or a value in one.
    """
    if isinstance(given, list | tuple):
        return [spec for item in given for spec in normalizer_specs(item)]
    if not isinstance(given, dict):
        return []
    own = [v for k, v in given.items() if k in NORMALIZER_ARGUMENTS and isinstance(v, str)]
    return own + [spec for item in given.values() for spec in normalizer_specs(item)]
