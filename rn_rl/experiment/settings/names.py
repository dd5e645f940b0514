"""Names of hyperparameters, read without the libraries that have them."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files

import yaml

OTHERS = ("baselines.yml", "paper_results.yml", "scores.yml")
"""Tables in ``zoo_configs`` that have no hyperparameters."""


@lru_cache
def hyperparameter_names() -> frozenset[str]:
    """Return names of hyperparameters of any algorithm, such as ``policy_kwargs.net_arch``.

    They are those of the tuned settings and of the ranges of ``rn-rl tune``, by which a misspelt option
    is recognized before torch and Stable-Baselines3 are loaded.
    """
    found: set[str] = set()
    for path in (files("rn_rl") / "zoo_configs").iterdir():
        if path.name.endswith(".yml") and path.name not in OTHERS:
            for values in yaml.safe_load(path.read_text(encoding="utf-8")).values():
                found.update(values)
                found.update(f"policy_kwargs.{key}" for key in values.get("policy_kwargs") or ())
    return frozenset(found)
