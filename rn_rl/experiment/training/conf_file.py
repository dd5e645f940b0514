"""Hyperparameters of the user's own, from a YAML file in the format of the RL Zoo."""

from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any

from rn_rl.errors import UserError, first_line, unknown
from rn_rl.experiment.runs.console import shell
from rn_rl.experiment.runs.io import DAMAGE, read_yaml
from rn_rl.experiment.runs.spec import file_name
from rn_rl.experiment.runs.zoo_folder import python_value, today
from rn_rl.experiment.settings.algorithms import ALGORITHMS, AlgorithmSpec, algorithm
from rn_rl.experiment.settings.hyperparameters import check_given, tuned

WRITTEN_AS_PYTHON = (
    *("policy_kwargs", "normalize", "env_kwargs", "train_freq"),
    *("replay_buffer_kwargs", "rollout_buffer_kwargs"),
)
"""Hyperparameters that the RL Zoo's files hold as Python text: ``"dict(net_arch=[64, 64])"``."""


def file_of(folder: Path, algo: str, norm: str) -> Path:
    """Return the file of a folder of ``rn-rl tune`` with the hyperparameters of a normalizer."""
    return folder / f"{file_name(algo)}-{file_name(norm)}.yml"


def tuned_file(folder: Path, algo: AlgorithmSpec, env_id: str, norm: str) -> Path:
    """Return the file of a folder of ``rn-rl tune`` with the hyperparameters of a normalizer.

    Raises:
        UserError: it was not tuned.
    """
    path = file_of(folder, algo.name, norm)
    if not path.is_file():
        there = ", ".join(sorted(file.name for file in folder.glob("*.yml"))) or "no file"
        words = ("--algo", algo.name, "--env", env_id, "--norms", norm, "--out", folder)
        raise UserError(
            f"--conf-file {folder}: no hyperparameters of {algo.name} with {norm}; it has {there}; find "
            f"some with: {shell('rn-rl', 'tune', *words)}"
        )
    return path


SEARCHED = "# {}: chosen by rn-rl tune on seeds {} to {}\n"
"""Line at the top of a file of ``rn-rl tune``, one for each environment."""

SEARCHED_LINE = re.compile(r"# (?:(.*): )?chosen by rn-rl tune on seeds (\d{1,9}) to (\d{1,9})\n")
"""The same as an expression; earlier files have one line for all of their environments."""


def searched_seeds(path: Path, env_id: str) -> range:
    """Return the seeds on which ``rn-rl tune`` chose the hyperparameters of an environment in a file.

    Empty if the file does not say.
    """
    with path.open(encoding="utf-8", errors="replace") as stream:
        for line in itertools.takewhile(lambda line: line.startswith("#"), stream):
            found = SEARCHED_LINE.fullmatch(line)
            if found and found[1] in (None, env_id):
                return range(int(found[2]), int(found[3]) + 1)
    return range(0)


def own_settings(path: Path, algo: AlgorithmSpec, env_id: str) -> dict[str, Any]:
    """Read the hyperparameters of an algorithm on an environment from a file.

    The file has hyperparameters by environment, as the RL Zoo's. In a file for several algorithms these
    are below the name of each algorithm. An environment that is not listed takes ``default``.

    As in the RL Zoo an entry replaces the tuned hyperparameters, it does not change some of them. Its
    ``policy`` becomes the library's policy for the algorithm, which has the normalizer in it.

    Args:
        path: the file.
        algo: the algorithm.
        env_id: the environment.

    Raises:
        UserError: the file cannot be read, has nothing for them, or a value that cannot be used.
    """
    table = of_algorithm(read_table(path), path, algo)
    entry = table.get(env_id, table.get("default"))
    if entry is None:
        raise UserError(
            f"--conf-file {path}: no hyperparameters of {algo.name} for {env_id}; there are some for "
            f"{', '.join(map(str, table)) or 'nothing'}; add them, or an entry named default"
        )
    if not isinstance(entry, dict):
        raise UserError(f"--conf-file {path}: {env_id}: expected names and values")
    try:
        given = {str(name): as_value(str(name), value) for name, value in entry.items()}
        check_given(algo, given)
    except UserError as error:
        raise UserError(f"--conf-file {path}: {env_id}: {error}") from None
    policy = given.get("policy")
    if not (isinstance(policy, str) and policy.startswith("rn_rl.")):
        given["policy"] = tuned(algo, env_id)["policy"]
    return given


def read_table(path: Path) -> dict[str, Any]:
    """Read a conf-file.

    Raises:
        UserError: there is no such file, or it is not YAML with names and values.
    """
    if not path.is_file():
        raise UserError(
            f"--conf-file {path}: no such file; {shell('rn-rl', 'zoo', '--export', path)} writes one"
        )
    try:
        table = read_yaml(path)
    except DAMAGE as error:
        raise UserError(f"--conf-file {path} cannot be read: {first_line(error)[:200]}") from None
    if not isinstance(table, dict):
        raise UserError(f"--conf-file {path}: expected environments and their hyperparameters")
    return table


def of_algorithm(table: dict[str, Any], path: Path, algo: AlgorithmSpec) -> dict[str, Any]:
    """Return the part of a conf-file for an algorithm: the whole file, if it names no algorithms.

    A class of the user's own that the file does not name has the part of its base.
    """
    named = [name for name in table if name in ALGORITHMS or name == algo.name]
    if not named:
        return table
    part = table.get(algo.name, table.get(algo.kind))
    if not isinstance(part, dict):
        raise UserError(
            f"--conf-file {path}: no hyperparameters of {algo.name}; there are some of "
            f"{', '.join(named)}"
        )
    return part


def as_value(name: str, value: Any) -> Any:
    """Return a hyperparameter as plain values; ``1e-3``, text in YAML 1.1, is a number.

    Raises:
        UserError: it is Python text other than plain values.
    """
    if name in WRITTEN_AS_PYTHON and isinstance(value, str):
        try:
            return python_value(value)
        except ValueError as error:
            shown = " ".join(value.split())[:80]
            raise UserError(
                f"{name}={shown!r}: {first_line(error)[:200]}; expected plain values, such as "
                "{net_arch: [64, 64]}"
            ) from None
    if name == "replay_buffer_class" and value == "HerReplayBuffer":  # the RL Zoo knows it by name
        return "stable_baselines3.HerReplayBuffer"
    if name == "env_wrapper":
        return today(value)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def for_algorithm(assignments: tuple[str, ...], algo: str) -> tuple[str, ...]:
    """Return the assignments of ``--set`` for an algorithm, without the prefix that names it.

    Those for it alone come last, so that they win over those for all, in whatever order they were typed.

    Args:
        assignments: texts such as ``gamma=0.9``, of every algorithm, or ``dqn:gamma=0.9`` and
            ``my_algos:Slow:gamma=0.9``, of one.
        algo: the algorithm.

    Raises:
        UserError: a prefix is not the name of an algorithm.
    """
    name = algorithm(algo).name
    of_all = [text for text in assignments if prefix_of(text) is None]
    own = [without_prefix(text)[1] for text in assignments if prefix_of(text) == name]
    return (*of_all, *own)  # the later one wins


def without_prefix(text: str) -> tuple[str, str]:
    """Return the name of the algorithm before an assignment of ``--set``, or nothing, and the rest.

    The name of an algorithm of the user's own has a colon itself, and that of a hyperparameter has none.
    """
    name, equals, value = text.partition("=")
    prefix, _, rest = name.rpartition(":")
    return prefix, f"{rest}{equals}{value}"


def prefix_of(text: str) -> str | None:
    """Return the algorithm for which an assignment of ``--set`` is; None for every one."""
    prefix, _ = without_prefix(text)
    if not prefix:
        return None
    try:
        return algorithm(prefix).name
    except UserError:
        if ":" in prefix:
            raise
        raise unknown(f"algorithm in --set {text!r}:", prefix, ALGORITHMS) from None


def check_prefixes(assignments: tuple[str, ...], algos: list[str]) -> None:
    """Raise :class:`UserError` if ``--set`` names an algorithm that is not trained."""
    known = [algorithm(algo).name for algo in algos]
    for text in assignments:
        prefix = prefix_of(text)
        if prefix is not None and prefix not in known:
            raise UserError(f"--set {text!r}: {prefix} is not trained here, but {', '.join(known)}")
