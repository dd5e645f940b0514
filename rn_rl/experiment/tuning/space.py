"""Ranges of hyperparameters that a search draws from."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rn_rl.errors import UserError, first_line
from rn_rl.experiment.runs.io import DAMAGE, read_yaml
from rn_rl.experiment.settings.algorithms import AlgorithmSpec, algorithm
from rn_rl.experiment.settings.hyperparameters import check_given
from rn_rl.experiment.settings.shipped import shipped
from rn_rl.experiment.training.conf_file import for_algorithm
from rn_rl.experiment.tuning.config import TuneConfig

KINDS = ("log", "range", "choice")


@dataclass(frozen=True)
class Range:
    """Values that one hyperparameter can take."""

    name: str
    """Name of the hyperparameter; dots separate levels, as in ``policy_kwargs.net_arch``."""
    kind: str
    """``log``, ``range`` (both of numbers between two) or ``choice``."""
    values: tuple[Any, ...]
    """The lowest and the highest number, or the choices."""

    def suggest(self, trial: Any) -> Any:
        """Draw a value for a trial of Optuna."""
        if self.kind == "choice":
            # Optuna stores choices that are numbers, texts, truth values or None
            return self.values[trial.suggest_categorical(self.name, list(range(len(self.values))))]
        low, high = self.values
        if isinstance(low, int) and isinstance(high, int):
            return trial.suggest_int(self.name, low, high, log=self.kind == "log")
        return trial.suggest_float(self.name, low, high, log=self.kind == "log")

    def value(self, stored: Any) -> Any:
        """Return the value of the parameter that Optuna stored."""
        return self.values[stored] if self.kind == "choice" else stored


def space_of(algo: AlgorithmSpec, path: Path | None) -> list[Range]:
    """Return the ranges of an algorithm.

    Args:
        algo: the algorithm; a class of the user's own without ranges has those of its base.
        path: file of the user; default: the ranges that ship with the library.

    Raises:
        UserError: the file cannot be read, or a range in it cannot be used.
    """
    table = shipped("spaces.yml") if path is None else read_spaces(path)
    entry = table.get(algo.name, table.get(algo.kind)) if isinstance(table, dict) else None
    if not isinstance(entry, dict) or not entry:
        raise UserError(f"--space {path or 'spaces.yml'}: no ranges of {algo.name}")
    return [make_range(algo, str(name), given, path) for name, given in entry.items()]


def ranges_of(config: TuneConfig) -> list[Range]:
    """Return the ranges of a search: those of its algorithm, without what ``--set`` fixes.

    Raises:
        UserError: see :func:`space_of`; or nothing is left to search.
    """
    assert config.algo is not None  # checked before
    algo = algorithm(config.algo)
    fixed = [text.partition("=")[0] for text in for_algorithm(config.set, algo.name)]
    found = space_of(algo, config.space)
    left = [r for r in found if not any(r.name == n or r.name.startswith(f"{n}.") for n in fixed)]
    if not left:
        raise UserError(
            f"--set fixes all of {', '.join(r.name for r in found)}: nothing is left to search"
        )
    return left


def read_spaces(path: Path) -> Any:
    """Read a file of ranges."""
    try:
        return read_yaml(path)
    except FileNotFoundError:
        raise UserError(f"--space {path}: no such file") from None
    except DAMAGE as error:
        raise UserError(f"--space {path} cannot be read: {first_line(error)[:200]}") from None


def make_range(algo: AlgorithmSpec, name: str, given: Any, path: Path | None) -> Range:
    """Check one range, and each end or choice of it as a hyperparameter of the algorithm."""
    where = f"--space {path or 'spaces.yml'}: {name}"
    if not isinstance(given, dict) or len(given) != 1 or next(iter(given)) not in KINDS:
        raise UserError(
            f"{where}: expected {{log: [LOW, HIGH]}}, {{range: ...}} or {{choice: ...}}"
        )
    [(kind, values)] = given.items()
    if not isinstance(values, list) or not values:
        raise UserError(f"{where}: {kind}: expected a list of values")
    if kind != "choice":
        numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
        if (
            len(numbers) != 2
            or len(values) != 2
            or not -math.inf < numbers[0] < numbers[1] < math.inf
        ):
            raise UserError(f"{where}: {kind}: expected [LOW, HIGH]")
        if kind == "log" and numbers[0] <= 0:
            raise UserError(f"{where}: log: expected LOW above 0")
    if "." not in name:
        for value in values:
            try:
                check_given(algo, {name: value})
            except UserError as error:
                raise UserError(f"{where}: {error}") from None
    return Range(name, kind, tuple(values))
