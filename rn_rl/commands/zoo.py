"""``rn-rl zoo``: environments with tuned hyperparameters, algorithms, and published baselines."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from rn_rl.commands.config import ZooConfig
from rn_rl.experiment.settings.algorithms import ALGORITHMS
from rn_rl.experiment.settings.shipped import load_config_file, shipped


def run_zoo(config: ZooConfig) -> None:
    """Print the tuned environments, the algorithms, and results that the RL Zoo published."""
    console = Console()
    tuned = Table(title="tuned environments (any other registered one takes the defaults)")
    for column in ("environment", "algorithm", "--config", "timesteps"):
        tuned.add_column(column, justify="right" if column == "timesteps" else "left")
    for config_set in ("zoo", "paper"):
        for algo in ("dqn", "ppo"):
            for env, values in load_config_file(algo, config_set).items():
                if not env.endswith("default"):
                    steps = f"{int(values['n_timesteps']):,}"
                    tuned.add_row(env, algo, config_set, steps)
    console.print(tuned)
    algorithms = Table(title="algorithms")
    algorithms.add_column("--algo")
    algorithms.add_column("what")
    for spec in ALGORITHMS.values():
        algorithms.add_row(spec.name, spec.summary)
    console.print(algorithms)
    published = Table(title="published by the RL Zoo: one run each, mean ± std over episodes")
    for column in ("environment", "algorithm", "return", "timesteps"):
        published.add_column(
            column, justify="right" if column in ("return", "timesteps") else "left"
        )
    for row in shipped("baselines.yml"):
        result = f"{row['mean']} ± {row['std']}"
        published.add_row(row["env"], row["algo"], result, f"{row['timesteps']:,}")
    console.print(published)
