"""Whether seeds that are trained together learn what SB3's runs learn, one after the other."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from scipy import stats

from rn_rl.errors import UserError
from rn_rl.experiment.config import TrainConfig
from rn_rl.experiment.files import markdown_table, replace_block
from rn_rl.experiment.records import read_episodes
from rn_rl.experiment.run import Run
from rn_rl.experiment.seeds import train_seeds

ENGINES = {
    "SB3, one by one": ("process", "gymnasium"),
    "together, gymnasium": ("batch", "gymnasium"),
    "together, envpool": ("batch", "envpool"),
}
"""What is compared, to the first: engine and kind of environments."""

CONFIGS = {"dqn": "paper", "ppo": "zoo"}
"""Algorithms, each with the configuration in which it is compared."""


@dataclass
class EquivalenceConfig:
    """Train CartPole with SB3 and together, and test whether mean returns are equivalent.

    A seed counts with the mean return of its training episodes in the last third of the run: the last
    policy alone swings too much. Two one-sided Welch tests: equivalent where the 90% interval of the
    difference lies within the margin. What the results file has is not trained again.
    """

    algos: tuple[str, ...] = tuple(CONFIGS)
    """dqn (the paper's configuration), ppo (the zoo's)."""
    seeds: int = 30
    """How many of each: SEED, SEED + 1, ..."""
    seed: int = 0
    """The first of them. Other seeds are another experiment, with rows of its own."""
    timesteps: int = 30_000
    """Of each seed."""
    margin: float = 40
    """Largest difference of mean returns, of at most 500, that counts as none."""
    out: Path = Path("runs/equivalence")
    """Where the runs go."""
    results: Path = Path("results/equivalence.jsonl")
    """One line for each algorithm and engine."""
    table: bool = False
    """Only print the table of what there is."""
    readme: Path | None = None
    """Also write the table into this document, between its equivalence marks."""
    json: bool = False
    """Print one JSON object a line."""


def late_return(run: Run, timesteps: int) -> float:
    """Mean return of the training episodes that ended in the last third of a run."""
    ended, returns = read_episodes(run)
    return float(returns[ended > timesteps * 2 / 3].mean())


def equivalence(mine: np.ndarray, theirs: np.ndarray, margin: float) -> dict[str, float]:
    """Difference of means, its 90% interval, and the p-value of two one-sided Welch tests."""
    result = stats.ttest_ind(mine, theirs, equal_var=False)
    interval = result.confidence_interval(0.9)
    upper = stats.ttest_ind(mine - margin, theirs, equal_var=False, alternative="less").pvalue
    lower = stats.ttest_ind(mine + margin, theirs, equal_var=False, alternative="greater").pvalue
    return {
        "difference": float(mine.mean() - theirs.mean()),
        "low": float(interval.low),
        "high": float(interval.high),
        "p": float(max(upper, lower)),
    }


def read(path: Path) -> dict[tuple[str, int, str], np.ndarray]:
    """Late returns of the seeds by algorithm, first seed and engine."""
    lines = path.read_text().splitlines() if path.is_file() else []
    rows = [json.loads(line) for line in lines]
    return {
        (row["algo"], row.get("seed", 0), row["engine"]): np.array(row["late_returns"])
        for row in rows
    }


def run_equivalence(config: EquivalenceConfig) -> None:
    """Run what is missing, then print the table."""
    for algo in config.algos:
        if algo not in CONFIGS:
            raise UserError(f"--algos {algo}: expected one of {', '.join(CONFIGS)}")
    if config.seeds < 2 or not config.margin > 0:
        raise UserError(
            f"--seeds {config.seeds} --margin {config.margin}: expected 2 seeds, and > 0"
        )
    console = Console(stderr=config.json)
    for algo in config.algos if not config.table else ():
        for engine, (how, vector_env) in ENGINES.items():
            if (algo, config.seed, engine) in read(config.results):
                continue
            console.print(f"{algo}: {engine}", highlight=False)
            runs = train_seeds(
                TrainConfig(
                    algo=algo,
                    env="CartPole-v1",
                    config=CONFIGS[algo],
                    seeds=config.seeds,
                    seed=config.seed,
                    timesteps=config.timesteps,
                    engine=how,
                    vector_env=vector_env,
                    eval_freq=0,
                    out=config.out / engine.replace(" ", "_").replace(",", ""),
                ),
                console,
            )
            returns = [round(late_return(run, config.timesteps), 3) for run in runs]
            line: dict[str, Any] = {"algo": algo, "seed": config.seed, "engine": engine}
            line["timesteps"] = config.timesteps
            config.results.parent.mkdir(parents=True, exist_ok=True)
            with config.results.open("a") as file:
                file.write(json.dumps({**line, "late_returns": returns}) + "\n")
    show(config, console)


def table_rows(found: dict[tuple[str, int, str], np.ndarray], margin: float) -> list[list[str]]:
    """One row for each algorithm and engine."""
    first = next(iter(ENGINES))
    rows = []
    for (algo, seed, engine), mine in found.items():
        seeds = f"{seed} to {seed + len(mine) - 1}"
        row = [algo, engine, seeds, f"{mine.mean():.1f} ± {stats.sem(mine):.1f}"]
        theirs = found.get((algo, seed, first))
        if engine == first or theirs is None:
            rows.append([*row, "", ""])
            continue
        told = equivalence(mine, theirs, margin)
        difference = f"{told['difference']:+.1f} [{told['low']:+.1f}, {told['high']:+.1f}]"
        verdict = "yes" if told["p"] < 0.05 else "not shown"
        rows.append([*row, difference, f"{verdict} (p = {told['p']:.2g})"])
    return rows


COLUMNS = ["algo", "trained", "seeds", "return ± s.e.", "to SB3 [90%]", "equivalent"]


def show(config: EquivalenceConfig, console: Console) -> None:
    """As JSON lines, or as a Markdown table."""
    found = read(config.results)
    if config.json:
        for (algo, seed, engine), mine in found.items():
            case = f"{algo}/{engine}/{seed} to {seed + len(mine) - 1}"
            line: dict[str, Any] = {"benchmark": "equivalence", "case": case}
            print(json.dumps({**line, "value": float(mine.mean()), "unit": "return"}))
        return
    text = markdown_table(COLUMNS, table_rows(found, config.margin))
    console.print(text, highlight=False, soft_wrap=True)
    if config.readme is not None:
        replace_block(config.readme, "equivalence", text)
