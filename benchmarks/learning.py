"""Learning with tuned hyperparameters: several normalizers and seeds."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
from rich.console import Console

from benchmarks.harness import Line, Output, ResultTable, append_line, emit, read_lines
from rn_rl.errors import UserError, unknown
from rn_rl.experiment.evaluation.config import EvaluateConfig
from rn_rl.experiment.evaluation.evaluate import evaluate
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.single import train
from rn_rl.statistics import bootstrap_interval


@dataclass(frozen=True)
class Case:
    """Options of a task: those of :class:`TrainConfig` other than normalizer and seed."""

    algo: str
    env: str
    config: str
    timesteps: int
    set: tuple[str, ...] = ()


SAC_SMALL = ("learning_starts=500", "batch_size=64", "policy_kwargs.net_arch=[64,64]")
"""Smaller network than the zoo's, with which SAC takes a long time."""

TD3_PUBLISHED = ("learning_starts=1000", "gamma=0.99", "policy_kwargs.net_arch=[256,256]")
"""TD3 as its authors run it (github.com/sfujim/TD3), with fewer steps before learning starts."""

TD3_EPISODES = (
    "learning_starts=1000",
    "gamma=0.99",
    "train_freq=[1,episode]",
    "gradient_steps=-1",
    "policy_kwargs.net_arch=[64,64]",
)
"""TD3 that learns after each episode, so that an episode is one phase, with a narrower network.

The gain rises less, and one step of Adam moves an action less.
"""

LEARNING_CASES: dict[str, Case] = {
    "cartpole": Case("dqn", "CartPole-v1", "zoo", 50_000),
    "lunarlander": Case("dqn", "LunarLander-v3", "zoo", 100_000),
    "redbluedoors": Case("ppo", "MiniGrid-RedBlueDoors-6x6-v0", "paper", 1_000_000),
    "redbluedoors-lstm": Case("ppo_lstm", "MiniGrid-RedBlueDoors-6x6-v0", "paper", 1_000_000),
    "pendulum-sac": Case("sac", "Pendulum-v1", "zoo", 10_000, SAC_SMALL),
    "pendulum-td3": Case("td3", "Pendulum-v1", "zoo", 10_000, TD3_EPISODES),
    "pendulum-td3-slow": Case(
        "td3", "Pendulum-v1", "zoo", 10_000, (*TD3_EPISODES, "learning_rate=3e-4")
    ),
    "pendulum-td3-wide": Case(
        "td3", "Pendulum-v1", "zoo", 10_000, (*TD3_PUBLISHED, "learning_rate=3e-4")
    ),
    "pendulum-td3-wide-slow": Case(
        "td3", "Pendulum-v1", "zoo", 10_000, (*TD3_PUBLISHED, "learning_rate=1e-4")
    ),
}
"""Tasks by name."""


@dataclass
class LearningConfig(Output):
    """Train every normalizer on every case with several seeds, evaluate, and tabulate.

    Runs in the results file are not repeated: a stopped benchmark continues, and more seeds add to it.
    """

    cases: tuple[str, ...] = tuple(LEARNING_CASES)
    """Tasks."""
    norms: tuple[str, ...] = ("none", "ln", "rn", "ln+rn")
    """Normalizers."""
    seeds: int = 3
    """Number of seeds of each."""
    first_seed: int = 0
    """First seed."""
    jobs: int = 2
    """Number of processes."""
    episodes: int = 100
    """Episodes on which each final policy is evaluated."""
    out: Path = Path("runs/learning")
    """Folder of the runs."""
    results: Path = Path("results/learning.jsonl")
    """Results file: one line for each run."""
    timesteps: int | None = None
    """Timesteps of each run; default: the case's own."""
    table: bool = False
    """Train nothing, and print the table of the results file."""


def run_one(case: str, norm: str, seed: int, config: LearningConfig) -> Line:
    """Train and evaluate one agent, and return its line of the results file."""
    task = LEARNING_CASES[case]
    timesteps = config.timesteps or task.timesteps
    run = train(
        TrainConfig(
            algo=task.algo,
            env=task.env,
            norm=norm,
            config=task.config,
            set=task.set,
            seed=seed,
            timesteps=timesteps,
            out=config.out,
            eval_freq=timesteps // 5,
            quiet=True,
        )
    )
    row: Line = {"case": case, "norm": norm, "seed": seed, "timesteps": timesteps}
    for stochastic in (False, True) if case.startswith("redbluedoors") else (False,):
        result = evaluate(EvaluateConfig(run.folder, config.episodes, stochastic))
        kind = "stochastic" if stochastic else "greedy"
        row[f"{kind}_mean"] = result.mean_return
        row[f"{kind}_std"] = result.std_return
        row[f"{kind}_success"] = result.success_rate
    if run.code_length_file.is_file():
        with np.load(run.code_length_file) as stored:
            row["final_gains"] = [round(float(g), 3) for g in stored["gains"][-1]]
            if len(stored["commit_kl"]):
                row["mean_commit_kl"] = float(stored["commit_kl"].mean())
    return row


def run_learning(config: LearningConfig) -> None:
    """Train what the results file lacks, then print the table."""
    for case in config.cases:
        if case not in LEARNING_CASES:
            raise unknown("case", case, LEARNING_CASES)
    if config.first_seed < 0:
        raise UserError(f"--first-seed {config.first_seed}: expected at least 0")
    if config.seeds < 1 or config.jobs < 1:
        raise UserError(f"--seeds {config.seeds} --jobs {config.jobs}: expected at least 1 each")
    console = Console(stderr=config.json)
    if not config.table:
        done = {(r["case"], r["norm"], r["seed"]) for r in read_lines(config.results)}
        jobs = [
            (case, norm, seed)
            for case in config.cases
            for seed in range(config.first_seed, config.first_seed + config.seeds)
            for norm in config.norms
            if (case, norm, seed) not in done
        ]
        parallel = joblib.Parallel(n_jobs=config.jobs, return_as="generator_unordered")
        finished = parallel(joblib.delayed(run_one)(*job, config) for job in jobs)
        for count, row in enumerate(finished, 1):
            append_line(config.results, row)
            console.print(
                f"{count}/{len(jobs)} {row['case']} {row['norm']} seed {row['seed']}: "
                f"{row['greedy_mean']:.2f}"
            )
    lines = learning_lines(read_lines(config.results))
    title = "final policies: mean over seeds of the mean return, 95% bootstrap interval"
    emit(
        config, lines, ResultTable(title, LEARNING_COLUMNS, learning_rows(lines)), block="learning"
    )


LEARNING_COLUMNS = [
    "case",
    "actions",
    "normalizer",
    "return [95% interval]",
    "each seed",
    "success",
]


def learning_rows(lines: list[Line]) -> list[list[str]]:
    """Return the lines of :func:`learning_lines` as text."""
    rows = []
    for line in lines:
        digits = 2 if abs(line["value"]) < 2 else 1
        interval = f"{line['value']:.{digits}f}"
        if len(line["each"]) > 1:  # one seed has no interval
            interval += f" [{line['low']:.{digits}f}, {line['high']:.{digits}f}]"
        each = ", ".join(f"{value:.{digits}f}" for value in line["each"])
        success = "" if line["success"] is None else f"{100 * line['success']:.0f}%"
        rows.append([line["case"], line["actions"], line["norm"], interval, each, success])
    return rows


def learning_lines(rows: list[Line]) -> list[Line]:
    """Return one line for each case, way of acting and normalizer; intervals are over seeds."""
    lines = []
    for case in LEARNING_CASES:
        for kind in ("greedy", "stochastic"):
            mine = [r for r in rows if r["case"] == case and f"{kind}_mean" in r]
            for norm in dict.fromkeys(r["norm"] for r in mine):
                chosen = sorted((r for r in mine if r["norm"] == norm), key=lambda r: r["seed"])
                means = np.array([r[f"{kind}_mean"] for r in chosen])
                low, high = bootstrap_interval(means)
                success = [r[f"{kind}_success"] for r in chosen if r[f"{kind}_success"] is not None]
                lines.append(
                    {
                        "benchmark": "learning",
                        "case": case,
                        "actions": kind,
                        "norm": norm,
                        "value": float(means.mean()),
                        "low": low,
                        "high": high,
                        "unit": "return",
                        "each": means.tolist(),
                        "success": float(np.mean(success)) if success else None,
                    }
                )
    return lines
