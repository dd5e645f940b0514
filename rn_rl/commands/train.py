"""``rn-rl train``: train one seed or several."""

from __future__ import annotations

from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.launch import several, train_seeds
from rn_rl.experiment.training.single import train


def run_train(config: TrainConfig) -> None:
    """Train, and print where the runs are and which commands use them."""
    if several(config):
        runs = train_seeds(config)
        if not config.quiet:
            print(f"{len(runs)} runs, from '{runs[0].folder}' to '{runs[-1].folder}'")
        return
    run = train(config)
    if not config.quiet:
        print(f"next: rn-rl evaluate '{run.folder}'   or   rn-rl video '{run.folder}'")
