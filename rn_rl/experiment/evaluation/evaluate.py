"""Evaluate a trained run: returns with a confidence interval, episode lengths, success rate."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from rn_rl.errors import UserError
from rn_rl.experiment.evaluation.episodes import play_agent
from rn_rl.experiment.runs.folder import find_run
from rn_rl.experiment.settings.options import shown_as
from rn_rl.statistics import bootstrap_interval


@dataclass
class EvaluateConfig:
    """Evaluate a trained run over many episodes."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder, or a zip inside one, such as RUN/best_model.zip."""
    episodes: int = 100
    """Number of episodes."""
    stochastic: bool = False
    """Sample actions (PPO, SAC, ...) or explore at the final rate (DQN) instead of acting greedily."""
    json: bool = False
    """Print one JSON object instead of a table."""
    seed: Annotated[int | None, shown_as("SEED")] = None
    """Seed of the episodes; default: the run's plus 1000."""
    n_envs: int = 8
    """Number of environments that are stepped together."""


@dataclass
class Evaluation:
    """Results of one evaluation; ``ci_low`` and ``ci_high`` are a 95% bootstrap interval of the mean."""

    run: str
    algo: str
    env: str
    norm: str
    seed: int
    timesteps: int
    episodes: int
    deterministic: bool
    mean_return: float
    std_return: float
    ci_low: float
    ci_high: float
    mean_length: float
    success_rate: float | None
    returns: list[float]
    lengths: list[int]


def evaluate(config: EvaluateConfig) -> Evaluation:
    """Play episodes with a trained agent; nothing is unpickled, and no file of the run changes.

    Raises:
        UserError: there is no such run, a file is damaged, or a number is less than 1.
    """
    for name, value in (("episodes", config.episodes), ("n-envs", config.n_envs)):
        if value < 1:
            raise UserError(f"--{name} {value}: expected at least 1")
    run, weights = find_run(config.run)
    spec = run.read_spec()
    n_envs = min(config.n_envs, config.episodes)
    model, env = run.load_agent(weights=weights, n_envs=n_envs, seed=config.seed)
    returns, lengths = play_agent(model, env, config.episodes, deterministic=not config.stochastic)
    env.close()
    values = np.asarray(returns)
    low, high = bootstrap_interval(values)
    return Evaluation(
        run=str(config.run),
        algo=spec.algo,
        env=spec.env,
        norm=spec.norm,
        seed=spec.seed,
        timesteps=spec.timesteps,
        episodes=len(values),
        deterministic=not config.stochastic,
        mean_return=float(values.mean()),
        std_return=float(values.std()),
        ci_low=low,
        ci_high=high,
        mean_length=float(np.mean(lengths)),
        success_rate=float((values > 0).mean()) if spec.is_minigrid else None,
        returns=values.tolist(),
        lengths=np.asarray(lengths).tolist(),
    )


def run_evaluate(config: EvaluateConfig) -> None:
    """Evaluate a run and print the results."""
    result = evaluate(config)
    if config.json:
        print(json.dumps(asdict(result)))
        return
    table = Table(title=f"{result.norm} {result.algo} {result.env}, seed {result.seed}")
    table.add_column("")
    table.add_column("value", justify="right")
    table.add_row("episodes", str(result.episodes))
    table.add_row("actions", "greedy" if result.deterministic else "stochastic")
    table.add_row("return, mean ± std", f"{result.mean_return:.2f} ± {result.std_return:.2f}")
    table.add_row("95% interval of the mean", f"[{result.ci_low:.2f}, {result.ci_high:.2f}]")
    table.add_row("episode length, mean", f"{result.mean_length:.1f}")
    if result.success_rate is not None:
        table.add_row("success rate", f"{100 * result.success_rate:.0f}%")
    Console().print(table)
