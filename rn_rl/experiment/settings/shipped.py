"""Read the tables that ship with the library, in ``rn_rl/zoo_configs``."""

from __future__ import annotations

from functools import lru_cache
from importlib.resources import files
from typing import Any

import yaml

from rn_rl.errors import UserError
from rn_rl.experiment.settings.algorithms import AlgorithmSpec


@lru_cache
def shipped(name: str) -> Any:
    """Read a table of ``zoo_configs``, such as ``"scores.yml"``; it is cached."""
    return yaml.safe_load((files("rn_rl") / "zoo_configs" / name).read_text(encoding="utf-8"))


def load_config_file(name: str, config_set: str = "zoo") -> dict[str, Any]:
    """Read a file of ``zoo_configs`` (``config_set="zoo"``) or of its ``paper`` folder (``"paper"``).

    Args:
        name: file name without suffix.
        config_set: ``zoo`` or ``paper``.

    Returns:
        Hyperparameters by environment id.

    Raises:
        UserError: there is no such set or file.
    """
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
    loaded: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    return loaded


def tuned_table(algo: AlgorithmSpec, config_set: str = "zoo") -> dict[str, Any]:
    """Return the hyperparameters of an algorithm by environment, as :func:`load_config_file`.

    Algorithms share files; in the set ``paper`` some have one of their own. A class of the user's own has
    that of its base.
    """
    own = files("rn_rl") / "zoo_configs" / "paper" / f"{algo.kind}.yml"
    return load_config_file(
        algo.kind if config_set == "paper" and own.is_file() else algo.zoo_file, config_set
    )
