"""``rn-rl train``: train one seed or several."""

from __future__ import annotations

from collections.abc import Sequence

from rn_rl.errors import TrainingDiverged
from rn_rl.experiment.runs.console import shell
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.launch import several, train_seeds
from rn_rl.experiment.training.single import train


def run_train(config: TrainConfig) -> None:
    """Train, and print where the runs are and which commands use them."""
    if several(config):
        runs = train_seeds(config)
        if not config.quiet:
            print(f"{len(runs)} runs, from '{runs[0].folder}' to '{runs[-1].folder}'")
        check_divergence(runs)
        return
    run = train(config)
    check_divergence([run])
    if not config.quiet:
        evaluate, video = (shell("rn-rl", command, run.folder) for command in ("evaluate", "video"))
        print(f"next: {evaluate}   or   {video}")


def check_divergence(runs: Sequence[Run]) -> None:
    """Raise :class:`TrainingDiverged` if a run diverged; the message tells of the first one."""
    found = [run for run in runs if run.divergence is not None]
    if found:
        which = f"{len(found)} of {len(runs)} runs diverged, such as " if len(runs) > 1 else ""
        raise TrainingDiverged(f"{which}run {found[0].folder}: {found[0].divergence}")
