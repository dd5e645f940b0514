"""``rn-rl train``: train one seed or several."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence

from rn_rl.errors import TrainingDiverged, TrainingStopped, UserError, first_line
from rn_rl.experiment.runs.console import shell
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.launch import several, train_seeds
from rn_rl.experiment.training.single import train
from rn_rl.own import place_in_own_code


def run_train(config: TrainConfig) -> None:
    """Train, and print where the runs are and which commands use them."""
    if several(config):
        with own_faults_in_one_line(config):
            runs = train_seeds(config)
        if not config.quiet:
            print(f"{len(runs)} runs, from '{runs[0].folder}' to '{runs[-1].folder}'")
        check_divergence(runs)
        return
    with own_faults_in_one_line(config):
        run = train(config)
    check_divergence([run])
    if not config.quiet:
        evaluate, video = (shell("rn-rl", command, run.folder) for command in ("evaluate", "video"))
        print(f"next: {evaluate}   or   {video}")


@contextlib.contextmanager
def own_faults_in_one_line(config: TrainConfig) -> Iterator[None]:
    """Raise :class:`UserError` for what a normalizer of the user's own causes outside its code."""
    try:
        yield
    except (UserError, TrainingStopped, TrainingDiverged, OSError):
        raise
    except Exception as error:
        if ":" not in (config.norm or "") or place_in_own_code(error):
            raise
        raise UserError(
            f"--norm {config.norm}: {first_line(error)[:200]}; rn_rl.testing.check_normalizer(Class) "
            "tests a normalizer"
        ) from error


def check_divergence(runs: Sequence[Run]) -> None:
    """Raise :class:`TrainingDiverged` if a run diverged; the message tells of the first one."""
    found = [run for run in runs if run.divergence is not None]
    if found:
        which = f"{len(found)} of {len(runs)} runs diverged, such as " if len(runs) > 1 else ""
        raise TrainingDiverged(f"{which}run {found[0].folder}: {found[0].divergence}")
