"""The tables that ``rn-rl norms`` and ``rn-rl zoo`` print, from the registry and ``zoo_configs``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from rn_rl.experiment.runs.io import shipped
from rn_rl.experiment.settings.algorithms import ALGORITHMS
from rn_rl.experiment.settings.hyperparameters import load_config_file
from rn_rl.normalization import REGISTRY, costs
from rn_rl.normalization.registry import NormalizerSpec


@dataclass
class NormsConfig:
    """List the normalizers."""


@dataclass
class ZooConfig:
    """List the environments, algorithms and published baselines."""


def baseline(algo: str, env: str) -> dict[str, Any] | None:
    """The published result for exactly this algorithm and environment, if there is one."""
    rows = shipped("baselines.yml")
    return next((row for row in rows if (row["algo"], row["env"]) == (algo, env)), None)


NORM_COLUMNS = ["name", "what", "arguments", "state", "phase rule", "cost", "source"]


def norm_rows() -> list[list[str]]:
    """The registry as text, with the measured cost of each row."""
    measured = costs.recorded()
    return [
        [
            row.name,
            row.summary,
            ", ".join(row.arguments) or "-",
            "yes" if row.stateful else "-",
            where_it_obeys(row),
            f"{measured[row.name]:.2f}" if row.name in measured else "-",
            row.source,
        ]
        for row in REGISTRY.values()
    ]


def where_it_obeys(row: NormalizerSpec) -> str:
    """In which algorithms the state moves between phases alone."""
    if not row.stateful:
        return "no state"
    return "everywhere" if row.phase_rule else "nowhere"


def run_norms(config: NormsConfig) -> None:
    """Print the registry."""
    rows = norm_rows()
    title = "normalizers: combine them with +, as in ln+rn(half_life=2000)"
    caption = (
        "phase rule: where state moves between phases alone (nowhere: for fidelity)\n"
        "cost: of a training forward and backward, as a ratio to that of ln"
    )
    table = Table(title=title, caption=caption, caption_justify="left", box=SIMPLE_HEAD)
    table.padding, table.pad_edge = (0, 1, 0, 0), False
    for column in NORM_COLUMNS[:-1]:  # the source goes below what it is: six columns in 80
        folds = column in ("what", "arguments")
        table.add_column(column, no_wrap=not folds, max_width=9 if column == "arguments" else None)
    for name, what, *others, source in rows:
        table.add_row(name, f"{what}\n[dim]{source}[/dim]", *others)
    Console().print(table)


def run_zoo(config: ZooConfig) -> None:
    """Print what ships tuned, and what the RL Zoo published."""
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
