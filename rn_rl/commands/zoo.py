"""``rn-rl zoo``: environments with tuned hyperparameters, algorithms, and published baselines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from rn_rl.commands.config import ZooConfig
from rn_rl.errors import UserError
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.runs.io import DAMAGE, read_yaml, write_yaml
from rn_rl.experiment.settings.algorithms import ALGORITHMS, AlgorithmSpec, algorithm
from rn_rl.experiment.settings.shipped import load_config_file, shipped, tuned_table


def exported(config: ZooConfig) -> dict[str, Any]:
    """Return tuned hyperparameters by environment; of several algorithms below the name of each.

    Raises:
        UserError: there is no such algorithm, or none for the set of hyperparameters.
    """
    assert config.export is not None
    if config.export.suffix not in (".yml", ".yaml") or config.export.is_dir():
        raise UserError(f"--export {config.export}: expected the name of a file, such as own.yml")
    if config.algo is None:
        names = [name for name, spec in ALGORITHMS.items() if has_file(spec, config.config)]
    else:
        names = [algorithm(name.strip()).name for name in config.algo.split(",") if name.strip()]
    tables = {name: tuned_table(ALGORITHMS[name], config.config) for name in names}
    return next(iter(tables.values())) if len(tables) == 1 else tables


def holds(path: Path, settings: dict[str, Any]) -> bool:
    """Return True if a file has these settings and no others."""
    try:
        return bool(read_yaml(path) == settings)
    except DAMAGE:  # a file of another kind
        return False


def has_file(spec: AlgorithmSpec, config_set: str) -> bool:
    """Return True if there are hyperparameters of an algorithm in a set."""
    try:
        tuned_table(spec, config_set)
    except UserError:
        return False
    return True


def run_zoo(config: ZooConfig) -> None:
    """Print the tuned environments, the algorithms, and results that the RL Zoo published."""
    console = Console()
    if config.export is not None:
        found = exported(config)
        if config.export.exists() and not holds(config.export, found):
            raise UserError(
                f"--export {config.export}: it exists, with other settings; expected a new file"
            )
        write_yaml(config.export, found)
        say(console, f"hyperparameters: {config.export}; change them, and give it to --conf-file")
        return
    tuned = Table(title="tuned environments (any other registered one takes the defaults)")
    for column in ("environment", "algorithm", "--config", "timesteps"):
        tuned.add_column(
            column, justify="right" if column == "timesteps" else "left", overflow="fold"
        )
    for config_set in ("zoo", "paper"):
        for algo in ("dqn", "ppo"):
            for env, values in load_config_file(algo, config_set).items():
                if not env.endswith("default"):
                    steps = f"{int(values['n_timesteps']):,}"
                    tuned.add_row(env, algo, config_set, steps)
    console.print(tuned)
    algorithms = Table(title="algorithms")
    algorithms.add_column("--algo", overflow="fold")
    algorithms.add_column("what", overflow="fold")
    for spec in ALGORITHMS.values():
        algorithms.add_row(spec.name, spec.summary)
    console.print(algorithms)
    published = Table(title="published by the RL Zoo: one run each, mean ± std over episodes")
    for column in ("environment", "algorithm", "return", "timesteps"):
        published.add_column(
            column,
            justify="right" if column in ("return", "timesteps") else "left",
            overflow="fold",
        )
    for row in shipped("baselines.yml"):
        result = f"{row['mean']} ± {row['std']}"
        published.add_row(row["env"], row["algo"], result, f"{row['timesteps']:,}")
    console.print(published)
