"""``rn-rl evaluate``: play episodes with a trained run and print its returns."""

from __future__ import annotations

import json
from dataclasses import asdict

from rich.console import Console
from rich.table import Table

from rn_rl.experiment.evaluation.config import EvaluateConfig
from rn_rl.experiment.evaluation.evaluate import evaluate


def run_evaluate(config: EvaluateConfig) -> None:
    """Evaluate and print."""
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
    table.add_row("95% interval of the mean", result.interval)
    table.add_row("episode length, mean", f"{result.mean_length:.1f}")
    if result.success_rate is not None:
        table.add_row("success rate", f"{100 * result.success_rate:.0f}%")
    Console().print(table)
