"""Studies of Optuna in an SQLite file: one for each normalizer, with the same number of trials."""

from __future__ import annotations

import contextlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import joblib
from filelock import FileLock, Timeout
from rich.console import Console

from rn_rl.errors import UserError, unknown
from rn_rl.experiment.grid.workers import check_place, workers
from rn_rl.experiment.runs.spec import RunSpec, file_name
from rn_rl.experiment.settings.hyperparameters import merge_nested, parse_assignments
from rn_rl.experiment.training.conf_file import file_of
from rn_rl.experiment.training.resolve import resolve
from rn_rl.experiment.tuning.config import TuneConfig
from rn_rl.experiment.tuning.identity import check_identity, identity
from rn_rl.experiment.tuning.progress import SearchProgress, displayed
from rn_rl.experiment.tuning.space import Range, ranges_of
from rn_rl.experiment.tuning.trial import as_text, run_trial, training_of
from rn_rl.normalization import canonical_spec, split_names
from rn_rl.normalization.plugins import WithRegistered

SAMPLERS = {"tpe": "TPESampler", "random": "RandomSampler", "qmc": "QMCSampler"}
"""Samplers of Optuna by their names in ``--sampler``."""

PRUNERS = {
    "median": "MedianPruner",
    "halving": "SuccessiveHalvingPruner",
    "hyperband": "HyperbandPruner",
    "none": "NopPruner",
}
"""Pruners of Optuna by their names in ``--pruner``."""


def load_optuna() -> Any:
    """Import Optuna, and let it print warnings only.

    Raises:
        UserError: it is not installed.
    """
    try:
        import optuna
    except ImportError:
        raise UserError("rn-rl tune needs Optuna: pip install 'rn-rl[tune]'") from None
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna


def check_tuning(config: TuneConfig) -> list[str]:
    """Check the options of a search, and return its normalizers; nothing is trained.

    Raises:
        UserError: an option cannot be used.
    """
    for name, value, known in (
        ("sampler", config.sampler, SAMPLERS),
        ("pruner", config.pruner, PRUNERS),
    ):
        if value not in known:
            raise unknown(f"--{name}", value, known)
    for name in ("trials", "seeds"):
        if getattr(config, name) < 1:
            raise UserError(f"--{name} {getattr(config, name)}: expected at least 1")
    check_place(config)
    if config.eval_freq == 0:
        raise UserError("--eval-freq 0: a search needs evaluations; expected at least 1")
    if config.track != "tensorboard":
        raise UserError(
            f"--track {config.track}: a search keeps its trials in study.db, and removes their runs; "
            "expected tensorboard"
        )
    norms = list(dict.fromkeys(canonical_spec(norm) for norm in split_names(config.norms)))
    if not norms:
        raise UserError("--norms is missing: one or more, separated by commas")
    for norm in norms:
        base = base_of(config, norm)
        if base.eval_freq > base.timesteps:
            raise UserError(
                f"--eval-freq {base.eval_freq}: expected at most the {base.timesteps:,} timesteps of a "
                "run"
            )
    assert config.algo is not None  # resolve() has checked it
    ranges_of(config)
    return norms


def base_of(config: TuneConfig, norm: str) -> RunSpec:
    """Return the description of a run without drawn hyperparameters."""
    return resolve(training_of(config, norm, {}, config.out))


def open_study(config: TuneConfig, norm: str, worker: int = 0) -> Any:
    """Open the study of a normalizer, or make it.

    The sampler's seed depends on the number of trials, so that a continued search does not draw the
    same values again.

    Raises:
        UserError: the study is of a search with other seeds, settings or ranges.
    """
    optuna = load_optuna()
    config.out.mkdir(parents=True, exist_ok=True)
    spec = base_of(config, norm)
    name = f"{spec.algo} {spec.env} {norm} {spec.timesteps} timesteps"
    storage = optuna.storages.RDBStorage(
        f"sqlite:///{(config.out / 'study.db').absolute()}",
        engine_kwargs={"connect_args": {"timeout": 60}},
    )
    with optuna_lock(config):
        study = optuna.create_study(
            storage=storage, study_name=name, direction="maximize", load_if_exists=True
        )
        ranges = ranges_of(config)
        check_identity(config, norm, study, identity(config, spec, ranges))
        fail_stale_trials(config, study)
    seed = config.seed + len(study.get_trials(deepcopy=False)) + 10_000 * worker
    study.sampler = getattr(optuna.samplers, SAMPLERS[config.sampler])(seed=seed)
    study.pruner = getattr(optuna.pruners, PRUNERS[config.pruner])()
    return study


def optuna_lock(config: TuneConfig) -> FileLock:
    """Return the lock under which trials are counted, begun, and found to be stale."""
    return FileLock(config.out / ".study.lock")


def trial_lock(config: TuneConfig, study: Any, number: int) -> FileLock:
    """Return the lock that a process holds while it works on a trial; a killed process loses it."""
    return FileLock(config.out / ".running" / file_name(f"{study.study_name} {number}.lock"))


def fail_stale_trials(config: TuneConfig, study: Any) -> None:
    """Count the trials as failed that killed processes left, so that others take their places."""
    (config.out / ".running").mkdir(exist_ok=True)
    states = load_optuna().trial.TrialState
    for trial in study.get_trials(deepcopy=False, states=(states.RUNNING,)):
        with (
            contextlib.suppress(Timeout),
            trial_lock(config, study, trial.number).acquire(timeout=0),
        ):
            study.tell(trial.number, state=states.FAIL)


def search(config: TuneConfig, norm: str, console: Console) -> Any:
    """Run the trials that the study of a normalizer lacks, in as many processes as were asked for.

    Args:
        config: options of the search.
        norm: the normalizer.
        console: where progress is shown.

    Returns:
        The study.
    """
    study = open_study(config, norm)  # so that the processes find it
    length = base_of(config, norm).timesteps
    progress = SearchProgress(study, norm, config.trials, config.seeds, length)
    with displayed(progress, console):
        run_trials(config, norm)
    return open_study(config, norm)


def run_trials(config: TuneConfig, norm: str) -> None:
    """Run the trials that a study lacks, in as many processes as were asked for."""
    if config.engine != "ray" and config.jobs in (None, 1):
        work(config, norm, 0)
    else:
        config = replace(
            config,  # processes of a cluster begin in another folder
            out=config.out.absolute(),
            space=config.space and config.space.absolute(),
            conf_file=config.conf_file and config.conf_file.absolute(),
        )
        with workers(config) as jobs:
            parallel = joblib.Parallel(n_jobs=jobs)
            search_there = joblib.delayed(WithRegistered(work))
            parallel(search_there(config, norm, worker) for worker in range(jobs))


def work(config: TuneConfig, norm: str, worker: int) -> None:
    """Run trials until the study has its number of them, those of other processes included.

    Raises:
        UserError: the drawn hyperparameters cannot be used; the trial counts as failed, and the same
            command continues with another.
    """
    optuna = load_optuna()
    study = open_study(config, norm, worker)
    states = optuna.trial.TrialState
    counted = (states.COMPLETE, states.PRUNED, states.RUNNING)
    assert config.algo is not None
    ranges = ranges_of(config)
    while True:
        with optuna_lock(config):
            if len(study.get_trials(deepcopy=False, states=counted)) >= config.trials:
                return
            trial = study.ask()
            mine = trial_lock(config, study, trial.number)
            mine.acquire()
        try:
            drawn = {each.name: each.suggest(trial) for each in ranges}
            value = run_trial(config, norm, drawn, reporter(trial))
        except BaseException:
            study.tell(trial, state=states.FAIL)
            mine.release()
            raise
        if value is None:
            study.tell(trial, state=states.PRUNED)
        else:
            study.tell(trial, value)
        mine.release()


def reporter(trial: Any) -> Any:
    """Return the function by which a trial reports a value, and learns if it is to end."""

    def report(step: int, value: float) -> bool:
        trial.report(value, step)
        return bool(trial.should_prune())

    return report


def best_drawn(config: TuneConfig, study: Any) -> dict[str, Any]:
    """Return the hyperparameters of the best trial by name.

    Raises:
        UserError: no trial came to its end.
    """
    done = [t for t in study.get_trials(deepcopy=False) if t.state.name == "COMPLETE"]
    if not done:
        raise UserError(f"{study.study_name}: no trial came to its end; give more --trials")
    assert config.algo is not None
    ranges: dict[str, Range] = {r.name: r for r in ranges_of(config)}
    stored = max(done, key=lambda t: t.value).params
    return {name: ranges[name].value(value) for name, value in stored.items() if name in ranges}


def tuned_settings(config: TuneConfig, norm: str, drawn: dict[str, Any]) -> dict[str, Any]:
    """Return the hyperparameters of a conf-file: those of the search with the drawn ones in place."""
    spec = base_of(config, norm)
    given = parse_assignments([f"{k}={as_text(v)}" for k, v in drawn.items()], "--space")
    found = merge_nested(spec.hyperparameters, given)
    return {"n_timesteps": spec.timesteps, "n_envs": spec.n_envs, **found}


def conf_file(config: TuneConfig, norm: str) -> Path:
    """Return the path of the hyperparameters that were found for a normalizer."""
    return file_of(config.out, base_of(config, norm).algo, norm)
