"""Equivalence of returns: seeds trained as one batch against SB3's runs one by one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.console import Console
from scipy import stats

from benchmarks.harness import Line, Output, ResultTable, append_line, emit, read_lines
from benchmarks.learning import SAC_SMALL, Case
from rn_rl.errors import UserError, unknown
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.records import read_episodes
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.launch import train_seeds

ENGINES = {
    "SB3, one by one": ("process", "gymnasium"),
    "together, gymnasium": ("batch", "gymnasium"),
    "together, envpool": ("batch", "envpool"),
}
"""Engine and kind of environments of each way to train; the first is the reference."""


EQUIVALENCE_CASES = {
    "dqn": Case("dqn", "CartPole-v1", "paper", 30_000),
    "ppo": Case("ppo", "CartPole-v1", "zoo", 30_000),
    "images": Case("ppo", "MiniGrid-RedBlueDoors-6x6-v0", "paper", 300_000),
    "sac": Case("sac", "Pendulum-v1", "zoo", 6_000, SAC_SMALL),
    "td3": Case("td3", "Pendulum-v1", "zoo", 6_000, SAC_SMALL),
    "qrdqn": Case("qrdqn", "CartPole-v1", "zoo", 30_000),
}

SPAN = {"dqn": 500, "ppo": 500, "images": 1, "sac": 1080, "td3": 1080, "qrdqn": 500}
"""Span of returns of each case, up to the largest: from 0, on Pendulum from that of a random policy."""


@dataclass
class EquivalenceConfig(Output):
    """Train with SB3 and in a seed batch, and test whether mean returns are equivalent.

    The value of a seed is the mean return of its training episodes in the last third of the run; the
    return of the last policy alone varies too much. Two one-sided Welch tests: equivalent where the 90%
    interval of the difference lies within the margin. Rows in the results file are not trained again.
    """

    cases: tuple[str, ...] = ("dqn", "ppo")
    """dqn and ppo on CartPole (configurations of the paper and the zoo), images: PPO on RedBlueDoors; sac
    and td3 on Pendulum (64-64), qrdqn on CartPole (of the zoo)."""
    seeds: int = 30
    """Number of seeds of each: SEED, SEED + 1, ..."""
    seed: int = 0
    """First seed. Another first seed is another experiment, with its own rows."""
    timesteps: int | None = None
    """Timesteps of each seed; default: 30,000, of images 300,000, of sac and td3 6,000."""
    margin: float = 0.08
    """Largest difference of mean returns that counts as equivalent, as a share of the span of returns."""
    out: Path = Path("runs/equivalence")
    """Folder of the runs."""
    results: Path = Path("results/equivalence.jsonl")
    """One line for each case and engine."""
    table: bool = False
    """Train nothing, and print the table of the results file."""


def late_return(run: Run, timesteps: int) -> float:
    """Return the mean return of the training episodes that ended in the last third of a run."""
    ended, returns = read_episodes(run)
    return float(returns[ended > timesteps * 2 / 3].mean())


def equivalence(mine: np.ndarray, theirs: np.ndarray, margin: float) -> dict[str, float]:
    """Test whether two means differ by less than a margin.

    Args:
        mine, theirs: one value for each seed.
        margin: largest difference that counts as equivalent, in the same unit.

    Returns:
        ``difference`` of means, its 90% interval ``low`` to ``high``, and ``p`` of two one-sided Welch
        tests (the larger one).
    """
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


def read_late_returns(path: Path) -> dict[tuple[str, int, str], np.ndarray]:
    """Read the late returns of the seeds, by case, first seed and engine."""
    rows = read_lines(path)
    return {
        (row["case"], row["seed"], row["engine"]): np.array(row["late_returns"]) for row in rows
    }


def run_equivalence(config: EquivalenceConfig) -> None:
    """Train what the results file lacks, then print the table."""
    for name in config.cases:
        if name not in EQUIVALENCE_CASES:
            raise unknown("case", name, EQUIVALENCE_CASES)
    if config.seeds < 2 or not config.margin > 0:
        raise UserError(
            f"--seeds {config.seeds} --margin {config.margin}: expected 2 seeds, and > 0"
        )
    console = Console(stderr=config.json)
    for name in config.cases if not config.table else ():
        case = EQUIVALENCE_CASES[name]
        timesteps = config.timesteps or case.timesteps
        for engine, (how, vector_env) in ENGINES.items():
            if (name, config.seed, engine) in read_late_returns(config.results):
                continue
            console.print(f"{name}: {engine}", highlight=False)
            runs = train_seeds(
                TrainConfig(
                    algo=case.algo,
                    env=case.env,
                    config=case.config,
                    set=case.set,
                    seeds=config.seeds,
                    seed=config.seed,
                    timesteps=timesteps,
                    engine=how,
                    vector_env=vector_env,
                    eval_freq=0,
                    out=config.out / engine.replace(" ", "_").replace(",", ""),
                ),
                console,
            )
            returns = [round(late_return(run, timesteps), 5) for run in runs]
            line = {"case": name, "seed": config.seed, "engine": engine, "timesteps": timesteps}
            append_line(config.results, {**line, "late_returns": returns})
    found = read_late_returns(config.results)
    title = f"return against SB3 run by run; equivalent within {config.margin:.0%} of its span"
    rows = equivalence_rows(found, config.margin)
    table = ResultTable(title, EQUIVALENCE_COLUMNS, rows)
    emit(config, equivalence_lines(found), table, block="equivalence")


def equivalence_rows(
    found: dict[tuple[str, int, str], np.ndarray], margin: float
) -> list[list[str]]:
    """Return one row for each case and engine; the margin is a share of :data:`SPAN`."""
    first = next(iter(ENGINES))
    rows = []
    for (name, seed, engine), mine in found.items():
        span = SPAN[name]
        digits = 1 if span > 10 else 3
        seeds = f"{seed} to {seed + len(mine) - 1}"
        returns = f"{mine.mean():.{digits}f} ± {stats.sem(mine):.{digits}f}"
        row = [name, engine, seeds, returns]
        theirs = found.get((name, seed, first))
        if engine == first or theirs is None:
            rows.append([*row, "", ""])
            continue
        told = equivalence(mine, theirs, margin * span)
        shown = [f"{told[key]:+.{digits}f}" for key in ("difference", "low", "high")]
        verdict = "yes" if told["p"] < 0.05 else "not shown"
        rows.append(
            [*row, f"{shown[0]} [{shown[1]}, {shown[2]}]", f"{verdict} (p = {told['p']:.2g})"]
        )
    return rows


EQUIVALENCE_COLUMNS = ["case", "trained", "seeds", "return ± s.e.", "to SB3 [90%]", "equivalent"]


def equivalence_lines(found: dict[tuple[str, int, str], np.ndarray]) -> list[Line]:
    """Return one line for each case and engine, with its ratio to SB3."""
    reference = next(iter(ENGINES))
    lines = []
    for (name, seed, engine), mine in found.items():
        line: Line = {
            "benchmark": "equivalence",
            "case": f"{name}/{engine}/{seed} to {seed + len(mine) - 1}",
            "value": float(mine.mean()),
            "unit": "return",
        }
        theirs = found.get((name, seed, reference))
        if theirs is not None:
            line.update(ratio=float(mine.mean() / theirs.mean()), ratio_to=f"{name}/{reference}")
        lines.append(line)
    return lines
