"""Probe of the recurrent digits: code lengths by time step, of several seeds and arms, as a page."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import joblib
import numpy as np
import torch
from rich.console import Console
from rich.padding import Padding

from rn_rl.analysis.probe_page import write_page
from rn_rl.analysis.probes import ProbedArm, ProbedRun, is_online_layer
from rn_rl.commands.probe import probe_table
from rn_rl.errors import UserError
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.runs.io import write_npz
from rn_rl.experiment.runs.records import read_probe
from rn_rl.experiment.runs.spec import file_name
from rn_rl.normalization import split_names
from rn_rl.probe import probed
from rn_rl.tasks.recurrent import Recurrent, Training


@dataclass
class ProbeDigitsConfig:
    """Train the recurrent digits with a probe, and make a page of it."""

    norms: str = "none,ln,rn"
    """Normalizers, separated by commas."""
    seeds: int = 10
    """Seeds of each: 0, 1, ..."""
    setting: str = Recurrent.settings[0]
    """Setting of 'rn-rl task recurrent'."""
    every: int = 2
    """Optimizer steps of which one is observed."""
    jobs: int = 2
    """Trainings side by side."""
    out: Path = Path("runs/probe-digits")
    """Folder of the records; those that it has are not trained again."""
    toy: bool = False
    """A few steps on little data, to try the command."""


def run_probe_digits(config: ProbeDigitsConfig) -> None:
    """Train, record and write the page.

    Raises:
        UserError: an option is out of range.
    """
    if config.seeds < 1:
        raise UserError(f"--seeds {config.seeds}: expected at least 1")
    setting = Recurrent().check_setting(config.setting)
    norms = split_names(config.norms)
    jobs = [(norm, seed) for norm in norms for seed in range(config.seeds)]
    files = joblib.Parallel(n_jobs=config.jobs)(
        joblib.delayed(train)(norm, seed, setting, config) for norm, seed in jobs
    )
    arms = []
    for norm in norms:
        runs = [read_run(norm, *of) for of in zip(jobs, files, strict=True) if of[0][0] == norm]
        arms.append(ProbedArm(f"{norm} {setting}", runs))
    console = Console()
    write_page(arms, config.out / "probe.html", [])
    for arm in arms:
        console.print(Padding(probe_table(arm, console.width), (1, 0)))
        for sentence in (*arm.sentences(), *largest(arm)):
            say(console, f"  {sentence}")
    say(console, f"page: {config.out / 'probe.html'}; its return is the test accuracy in percent")


def largest(arm: ProbedArm) -> list[str]:
    """Say where the mean residual of each layer is farthest from 0, and the last test error."""
    told = []
    for column in (c for c in arm.columns if is_online_layer(c, arm.columns)):
        steps, residuals = arm.curve("residual", column)
        mean = residuals.mean(0)
        at = np.abs(mean).argmax()
        told.append(
            f"{column}: mean residual {mean[at]:.3f} nats at update {steps[at]:.0f}, its largest"
        )
    errors = [100 - run.returns[-1] for run in arm.runs]
    return [*told, f"last test error {np.mean(errors):.1f}%, mean over seeds"]


def train(norm: str, seed: int, setting: str, config: ProbeDigitsConfig) -> Path:
    """Train one network, unless its record is there, and return the path of the record."""
    kind = "toy-" if config.toy else ""
    path = config.out / f"{kind}{file_name(norm)}-{file_name(setting)}-{config.every}-{seed}.npz"
    if path.is_file():
        return path
    torch.set_num_threads(1)
    training = Training(norm, setting, seed, None, config.toy)
    with probed(training.net, training.optimizer, every=config.every) as record:
        training.run()
    path.parent.mkdir(parents=True, exist_ok=True)
    write_npz(path.with_name(f"errors-{path.name}"), errors=np.array(training.errors))
    write_npz(path, **record.arrays())
    return path


def read_run(norm: str, job: tuple[str, int], path: Path) -> ProbedRun:
    """Read a record, with the test accuracy after each epoch as its return."""
    record = read_probe(path)
    with np.load(path.with_name(f"errors-{path.name}")) as stored:
        accuracy = 100 - stored["errors"]
    length = float(record.timesteps[-1])
    steps = np.linspace(0, length, len(accuracy) + 1)[1:]
    return ProbedRun(path.stem, norm, job[1], length, record, steps, accuracy)
