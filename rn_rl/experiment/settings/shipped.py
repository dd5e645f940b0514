"""Read the tables that ship with the library, in ``rn_rl/zoo_configs``."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml

from rn_rl.errors import UserError


@lru_cache
def shipped(name: str) -> Any:
    """A table of ``zoo_configs``, such as ``"scores.yml"``."""
    return yaml.safe_load((files("rn_rl") / "zoo_configs" / name).read_text())


def load_config_file(name: str, config_set: str = "zoo") -> dict[str, Any]:
    """A whole file of ``zoo_configs``; ``config_set="paper"`` looks into its ``paper`` folder."""
    if config_set not in ("zoo", "paper"):
        raise UserError(f"config {config_set!r}: expected 'zoo' or 'paper'")
    folder = files("rn_rl") / "zoo_configs"
    folder = folder / "paper" if config_set == "paper" else folder
    path = folder / f"{name}.yml"
    if not path.is_file():
        there = sorted(entry.name.removesuffix(".yml") for entry in folder.iterdir())
        raise UserError(
            f"no {config_set!r} hyperparameters for {name}: there are some for "
            f"{', '.join(there)}; use --config zoo"
        )
    loaded: dict[str, Any] = yaml.safe_load(path.read_text())
    return loaded
