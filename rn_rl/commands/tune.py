"""``rn-rl tune``: search for hyperparameters, write them, and plot which of them matter."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console

from rn_rl.analysis import drawing
from rn_rl.errors import TrainingStopped, UserError
from rn_rl.experiment.runs.console import say, shell
from rn_rl.experiment.runs.io import atomic_write, write_text
from rn_rl.experiment.training.conf_file import SEARCHED, read_table, searched_seeds
from rn_rl.experiment.tuning.config import TuneConfig
from rn_rl.experiment.tuning.study import (
    best_drawn,
    check_tuning,
    conf_file,
    load_optuna,
    open_study,
    search,
    tuned_settings,
)

FEWEST_TRIALS = 4
"""Fewest complete trials from which importances are estimated."""


def run_tune(config: TuneConfig) -> None:
    """Search for each normalizer, one after the other, and say how to compare them afterwards."""
    console = Console(quiet=config.quiet)
    load_optuna()
    norms = check_tuning(config)
    config.out.mkdir(parents=True, exist_ok=True)
    for norm in norms:
        open_study(config, norm)  # before any training, since it may be of another search
    for norm in norms:
        try:
            study = search(config, norm, console)
        except TrainingStopped:
            raise TrainingStopped("stopped; the same command goes on") from None
        path = conf_file(config, norm)
        write_found(config, path, tuned_settings(config, norm, best_drawn(config, study)))
        states = [trial.state.name for trial in study.get_trials(deepcopy=False)]
        told = f"{states.count('COMPLETE')} complete, {states.count('PRUNED')} ended early"
        say(console, f"{norm}: best mean return {study.best_value:.2f} ({told}): {path}")
        plotted = plot_importances(study, path.with_suffix(".svg"))
        if plotted:
            say(console, f"  importance of each hyperparameter: {path.with_suffix('.svg')}")
    first = config.seed + config.seeds
    words = ("--algo", config.algo, "--env", config.env, "--norms", config.norms)
    command = shell("rn-rl", "compare", *words, "--seed", first, "--conf-file", config.out)
    say(
        console,
        f"these values were chosen on seeds {config.seed} to {first - 1}, so their returns are too "
        f"good: compare on new seeds, such as {command}",
    )


def write_found(config: TuneConfig, path: Path, settings: dict[str, Any]) -> None:
    """Write the hyperparameters that were found for the environment of a search into its conf-file.

    Other environments keep theirs, and the seeds on which they were chosen.

    Args:
        config: options of the search.
        path: the conf-file, which may exist.
        settings: the hyperparameters.
    """
    others: dict[str, Any] = {}
    with contextlib.suppress(UserError):  # there is none, or it is damaged
        others = {env: given for env, given in read_table(path).items() if env != config.env}
    assert config.env is not None  # check_tuning() has checked it
    seeds = {env: searched_seeds(path, env) for env in others}
    seeds[config.env] = range(config.seed, config.seed + config.seeds)
    lines = [SEARCHED.format(env, on[0], on[-1]) for env, on in seeds.items() if on]
    table: dict[Any, Any] = {**others, config.env: settings}
    write_text(path, "".join(lines) + yaml.safe_dump(table, sort_keys=False))


def plot_importances(study: Any, path: Path) -> bool:
    """Plot the share of the variance of returns that each hyperparameter explains (PED-ANOVA).

    Returns:
        False if there are too few trials, or all returned the same.
    """
    optuna = load_optuna()
    done = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    if len(done) < FEWEST_TRIALS or len({t.value for t in done}) < 2:
        return False
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    found = optuna.importance.get_param_importances(study, evaluator=evaluator)
    path.parent.mkdir(parents=True, exist_ok=True)
    with drawing.style({"text.color": "#000000", "grid.color": "#dddddd"}):
        figure = drawing.picture(height=0.9 + 0.3 * len(found))
        axes = figure.subplots()
        axes.barh(list(found), list(found.values()), color=drawing.OKABE_ITO[1])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("importance (PED-ANOVA)")
        with atomic_write(path) as temporary:
            figure.savefig(temporary, metadata={"Date": None})
    return True
