"""What runs left on disk, read back: returns over time, last policies, gains, and what is wrong."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rn_rl.errors import UserError
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.spec import RunSpec

CURVE_POINTS = 100
"""Of a gain over time; a run records one at each rollout, which may be many thousands."""


@dataclass
class Gains:
    """Gain of each layer over time, which for rn and its kin is the code length in nats."""

    layers: list[str]
    timesteps: np.ndarray
    values: np.ndarray
    """(timesteps, layers)"""


@dataclass
class RunRecord:
    """One finished run."""

    run: Run
    spec: RunSpec
    timesteps: np.ndarray
    """Of each evaluation."""
    returns: np.ndarray
    """Mean return of each evaluation."""
    last_return: float
    """Of the last policy."""
    episodes: int
    """Behind ``last_return``."""
    held_out: bool
    """Whether ``last_return`` is of ``final.json``, and not of the last evaluation while training."""
    seconds: float | None
    """Wall time of the training; of a batch of seeds, this one's share."""
    gains: Gains | None
    notes: list[str] = field(default_factory=list)


@dataclass
class Problem:
    """Something that a report must not pass over in silence."""

    run: str
    what: str
    counted: bool
    """Whether the run is in the figures all the same."""


def find_runs(root: Path) -> list[Path]:
    """Folders of runs below a folder: those with a ``run.yaml``, and what looks like one without."""
    if not root.is_dir():
        raise UserError(f"runs {root}: no such folder; 'rn-rl train' or 'rn-rl compare' makes one")
    known = {"run.yaml", "evaluations.npz", "policy.safetensors", "0.monitor.csv"}
    found = []
    for folder, inside, names in os.walk(root):
        inside[:] = [name for name in inside if not name.startswith(".")]  # of a running training
        if known.intersection(names):
            found.append(Path(folder))
    return sorted(found, key=natural)


def natural(path: Path) -> tuple[str, int, str]:
    """Sorts ``CartPole-v1_2`` before ``CartPole-v1_10``."""
    stem, _, number = path.name.rpartition("_")
    return str(path.parent / stem), int(number) if number.isdigit() else 0, path.name


def read_records(folders: Iterable[Path]) -> tuple[list[RunRecord], list[Problem]]:
    """All runs that can be counted, and everything that is wrong with any."""
    records: list[RunRecord] = []
    problems: list[Problem] = []
    seen: dict[str, Path] = {}
    for folder in folders:
        try:
            record = read_record(Run(folder))
        except UserError as error:
            problems.append(Problem(str(folder), str(error), counted=False))
            continue
        key = f"{record.spec.settings()} {record.spec.norm} {record.spec.seed}"
        if key in seen:
            what = f"the same training, with the same seed, as {seen[key]}"
            problems.append(Problem(str(folder), what, counted=False))
            continue
        seen[key] = folder
        records.append(record)
        problems += [Problem(str(folder), note, counted=True) for note in record.notes]
    return records, problems


def read_record(run: Run) -> RunRecord:
    """One run.

    Raises:
        UserError: it cannot be counted, and why.
    """
    spec = run.read_spec()
    notes: list[str] = []
    timesteps, returns, episodes = read_evaluations(run, notes)
    final = read_final(run, notes)
    every = spec.eval_freq or spec.timesteps
    reached = int(timesteps[-1]) if len(timesteps) else 0
    finished = final is not None and final.timesteps >= spec.timesteps
    if not finished and reached <= spec.timesteps - every:
        why = "; ".join(notes) or (
            f"the last evaluation is of timestep {reached:,} of {spec.timesteps:,}"
            if reached
            else "no evaluation was recorded"
        )
        raise UserError(f"not finished: {why}")
    if finished and not len(timesteps) and not notes:
        notes.append("no evaluation while training was recorded")
    if not len(timesteps):
        notes.append("it is in no curve, area or steps to threshold")
    elif reached <= spec.timesteps - every:
        notes.append(f"its evaluations end at timestep {reached:,} of {spec.timesteps:,}")
    last = final.mean_return if finished and final is not None else float(returns[-1])
    if not math.isfinite(last):
        notes.append(f"the return of the last policy is {last}: counted as the worst of its task")
    bad = int((~np.isfinite(returns)).sum())
    if bad:
        notes.append(
            f"{bad} of {len(returns)} evaluations have a return that is not finite: counted as the "
            "worst of its task"
        )
    return RunRecord(
        run=run,
        spec=spec,
        timesteps=timesteps,
        returns=returns,
        last_return=last,
        episodes=final.episodes if finished and final is not None else episodes,
        held_out=finished,
        seconds=read_seconds(run, len(spec.together) or 1),
        gains=read_gains(run, notes),
        notes=notes,
    )


def read_evaluations(run: Run, notes: list[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Timesteps, mean returns, and episodes of each evaluation; nothing where there was none."""
    nothing = np.empty(0), np.empty(0), 0
    if not run.evaluations_file.is_file():
        return nothing
    stored = read_arrays(run.evaluations_file, notes, "timesteps", "results")
    if not stored:
        return nothing
    steps, results = stored["timesteps"], stored["results"]
    if not is_rising(steps) or results.ndim != 2 or not results.size or len(steps) != len(results):
        notes.append(f"evaluations.npz has timesteps {steps.shape} and returns {results.shape}")
        return nothing
    with np.errstate(invalid="ignore"):
        return steps, results.mean(1), results.shape[1]


def read_gains(run: Run, notes: list[str]) -> Gains | None:
    """Thinned out evenly."""
    if not run.code_length_file.is_file():
        return None
    stored = read_arrays(run.code_length_file, notes, "timesteps", "gains", names="layers")
    if not stored:
        return None
    steps, gains, layers = (stored[name] for name in ("timesteps", "gains", "layers"))
    if not is_rising(steps) or gains.shape != (len(steps), len(layers)):
        notes.append(f"code_length.npz has timesteps {steps.shape} and gains {gains.shape}")
        return None
    pick = np.unique(np.linspace(0, len(steps) - 1, CURVE_POINTS).astype(int))
    return Gains([str(name) for name in layers], steps[pick], gains[pick])


def is_rising(steps: np.ndarray) -> bool:
    """Whether these can be the timesteps of something that was recorded."""
    return bool(steps.ndim == 1 and len(steps) and (np.diff(steps) > 0).all())


def read_arrays(path: Path, notes: list[str], *numbers: str, names: str = "") -> dict[str, Any]:
    """Arrays of numbers (and one of names) of an npz; of a damaged one none, and a note."""
    try:
        # opened here, since np.load leaves a damaged file open
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            found: dict[str, Any] = {name: np.asarray(stored[name], float) for name in numbers}
            return {**found, names: stored[names]} if names else found
    except Exception as error:  # whatever bytes a file has, zipfile and NumPy say much about them
        notes.append(f"{path.name} is damaged ({' '.join(str(error).split())})")
        return {}


@dataclass
class Final:
    """What ``final.json`` says of the evaluation of the last policy."""

    timesteps: int
    mean_return: float
    episodes: int


def read_final(run: Run, notes: list[str]) -> Final | None:
    """The evaluation of the last policy, if the run has one."""
    if not run.final_file.is_file():
        return None
    try:
        found = json.loads(run.final_file.read_text())
        return Final(int(found["timesteps"]), float(found["mean_return"]), int(found["episodes"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        notes.append(f"final.json is damaged ({' '.join(str(error).split())})")
        return None


def read_episodes(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Training episodes as they ended, from SB3's monitor files: ``(timesteps, returns)``.

    Of several environments stepped together, each episode stands at the timesteps of all of them.
    """
    files = sorted(run.folder.glob("*.monitor.csv"))
    steps, returns = [np.empty(0)], [np.empty(0)]
    for file in files:
        if file.read_text().count("\n") < 3:  # a header and no episode
            continue
        rows = np.loadtxt(file, delimiter=",", skiprows=2, usecols=(0, 1), ndmin=2)
        steps.append(rows[:, 1].cumsum() * len(files))
        returns.append(rows[:, 0])
    order = np.argsort(np.concatenate(steps), kind="stable")
    return np.concatenate(steps)[order], np.concatenate(returns)[order]


def read_seconds(run: Run, shared_by: int) -> float | None:
    """Wall time up to the last episode, from SB3's monitor file, whose clock begins anew at a resume."""
    try:
        lines = (run.folder / "0.monitor.csv").read_bytes().splitlines()[2:]
        times = [float(line.split(b",")[2]) for line in lines]
    except (OSError, IndexError, ValueError):
        return None
    if not times:
        return None
    stops = [before for before, after in pairwise(times) if after < before]
    return (sum(stops) + times[-1]) / shared_by
