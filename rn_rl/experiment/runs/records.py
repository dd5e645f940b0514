"""Results of runs, read from their folders: returns over time, last policies, gains, and problems."""

from __future__ import annotations

import json
import math
import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from rn_rl.errors import UserError
from rn_rl.experiment.runs import checkpoint, monitors
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.io import DAMAGE, complete_lines
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.runs.weights import saved_timesteps
from rn_rl.probe import ProbeRecord
from rn_rl.probe.records import checked_record

CURVE_POINTS = 100
"""Maximum number of points of a gain over time; a run records one at each rollout, often thousands."""

MOST_TIMESTEPS = 2**53
"""Largest timestep that a record may have: up to it a float64 counts exactly."""

MOST_MISSING = 10_000
"""Maximum number of points that stand for the evaluations that a diverged run lacks."""


@dataclass
class Gains:
    """Gain of each layer over time; for regularity normalizers it is the code length in nats."""

    layers: list[str]
    timesteps: np.ndarray
    values: np.ndarray
    """Gains, of shape ``(timesteps, layers)``."""


@dataclass
class RunRecord:
    """Results of one finished run."""

    run: Run
    spec: RunSpec
    timesteps: np.ndarray
    """Timestep of each evaluation."""
    returns: np.ndarray
    """Mean return of each evaluation."""
    trained: int
    """Timesteps that were trained, as planned or until the planned number of episodes had ended."""
    last_return: float
    """Mean return of the last policy."""
    episodes: int
    """Number of episodes that ``last_return`` is the mean of."""
    held_out: bool
    """True if ``last_return`` is from ``final.json``; False if from the last evaluation in training."""
    seconds: float | None
    """Wall-clock seconds of the training; for a seed batch, divided by its number of seeds."""
    gains: Gains | None
    notes: list[str] = field(default_factory=list)


@dataclass
class Problem:
    """A defect of a run that a report has to mention."""

    run: str
    what: str
    counted: bool
    """True if the run is part of the results all the same."""


def find_runs(root: Path) -> list[Path]:
    """Find run folders below ``root``, in natural order: those that hold a file that runs have.

    A folder without ``run.yaml`` is included, so that the report can name it as a problem.

    Raises:
        UserError: there is no such folder.
    """
    if not root.is_dir():
        raise UserError(f"runs {root}: no such folder; 'rn-rl train' or 'rn-rl compare' makes one")
    known = {"run.yaml", "evaluations.npz", "policy.safetensors", "0.monitor.csv"}
    return sorted((at for at, names in walk(root) if known & names), key=natural_key)


def walk(root: Path) -> Iterator[tuple[Path, set[str]]]:
    """Iterate over a folder and those below it, but for hidden ones: each once, links followed.

    Yields:
        A folder, and the names of all that is in it.
    """
    seen = {root.resolve()}
    for place, inside, files in os.walk(root, followlinks=True):
        folder = Path(place)
        yield folder, {*inside, *files}
        mine = []
        for name in inside:
            real = (folder / name).resolve()  # a link may lead back
            if not name.startswith(".") and real not in seen:
                seen.add(real)
                mine.append(name)
        inside[:] = mine


def natural_key(path: Path) -> tuple[str, int, str]:
    """Return a sort key by which ``CartPole-v1_2`` comes before ``CartPole-v1_10``."""
    stem, _, number = path.name.rpartition("_")
    return str(path.parent / stem), int(number) if number.isdigit() else 0, path.name


def read_records(folders: Iterable[Path]) -> tuple[list[RunRecord], list[Problem]]:
    """Read runs; of several of the same settings, normalizer and seed the one that got furthest counts.

    Returns:
        The runs whose results can be used, and the problems of all runs.
    """
    read: dict[str, list[RunRecord]] = {}
    problems: list[Problem] = []
    for folder in folders:
        try:
            record = read_record(Run(folder))
        except UserError as error:
            problems.append(Problem(str(folder), str(error), counted=False))
            continue
        read.setdefault(record.spec.identity(), []).append(record)
    records = []
    for same in read.values():
        # max() takes the first of equals
        best = max(same, key=lambda r: (r.held_out, r.episodes, len(r.timesteps)))
        records.append(best)
        problems += [Problem(str(best.run.folder), note, counted=True) for note in best.notes]
        what = f"the same training, with the same seed, as {best.run.folder}"
        others = [record for record in same if record is not best]
        problems += [Problem(str(r.run.folder), what, counted=False) for r in others]
    return records, problems


def read_record(run: Run) -> RunRecord:
    """Read the results of one run.

    Raises:
        UserError: the run is not finished, or ``run.yaml`` cannot be read.
    """
    spec = run.read_spec()
    notes: list[str] = []
    timesteps, returns, episodes = read_evaluations(run, notes)
    if run.divergence is not None:
        return diverged_record(run, spec, timesteps, returns, notes)
    final = read_final(run, notes)
    reached = int(timesteps[-1]) if len(timesteps) else 0
    finished = final is not None and final.timesteps >= spec.timesteps
    length = trained(run, spec) if finished else length_of(run, spec, reached, notes)
    if not finished and not reached:
        why = "; ".join(notes) or "no evaluation was recorded"
        raise UserError(f"no return to report: {why}; 'rn-rl compare' evaluates last policies")
    if finished and not len(timesteps) and not notes:
        notes.append("no evaluation during training was recorded")
    if not len(timesteps):
        notes.append("it is missing from curves, areas and steps to threshold")
    elif reached <= length - (spec.eval_freq or length):
        notes.append(f"its evaluations end at timestep {reached:,} of {length:,}")
    elif not finished and reached < 0.99 * length:
        notes.append(
            f"its last policy was not evaluated: the policy of timestep {reached:,} of {length:,} counts"
        )
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
        trained=length,
        last_return=last,
        episodes=final.episodes if finished and final is not None else episodes,
        held_out=finished,
        seconds=read_seconds(run, len(spec.together) or 1),
        gains=read_gains(run, notes),
        notes=notes,
    )


def trained(run: Run, spec: RunSpec) -> int:
    """Return the timesteps of a finished run: those planned, or fewer if its episodes ended it."""
    if spec.episodes is None:
        return spec.timesteps
    return min(saved_timesteps(run.policy_file) or spec.timesteps, spec.timesteps)


def length_of(run: Run, spec: RunSpec, reached: int, notes: list[str]) -> int:
    """Return the timesteps that a finished run was trained, fewer than planned if episodes end it.

    A run without a checkpoint, as from elsewhere, is taken for finished if no evaluation is missing.

    Args:
        run: the run.
        spec: its description.
        reached: timestep of its last evaluation; 0 without one.
        notes: what was wrong with its files.

    Raises:
        UserError: the run is not finished.
    """
    try:
        done = checkpoint.timesteps_done(run.checkpoint)
        if done >= spec.timesteps:
            return spec.timesteps
        if monitors.has_episodes(run.checkpoint, spec.episodes):
            return done
        why = f"trained to timestep {done:,} of {spec.timesteps:,}"
    except UserError:
        if reached > spec.timesteps - (spec.eval_freq or spec.timesteps):
            return spec.timesteps
        why = "; ".join(notes) or (
            f"the last evaluation is of timestep {reached:,} of {spec.timesteps:,}"
            if reached
            else "no evaluation was recorded"
        )
    raise UserError(f"not finished: {why}")


def diverged_record(
    run: Run, spec: RunSpec, timesteps: np.ndarray, returns: np.ndarray, notes: list[str]
) -> RunRecord:
    """Return the record of a training that diverged: the evaluations that it lacks count as NaN."""
    every = max(spec.eval_freq or spec.timesteps, 1)
    reached = int(timesteps[-1]) if len(timesteps) else 0
    # a file may say any length of the run
    every *= max(-(-(spec.timesteps - reached) // (every * MOST_MISSING)), 1)
    missing = np.arange(reached + every, spec.timesteps + 1, every)
    notes.append(f"it {run.divergence}: counted as the worst of its task from there on")
    return RunRecord(
        run=run,
        spec=spec,
        timesteps=np.concatenate((timesteps, missing)),
        returns=np.concatenate((returns, np.full(len(missing), math.nan))),
        trained=spec.timesteps,
        last_return=math.nan,
        episodes=0,
        held_out=True,
        seconds=read_seconds(run, len(spec.together) or 1),
        gains=read_gains(run, notes),
        notes=notes,
    )


def read_evaluations(run: Run, notes: list[str]) -> tuple[np.ndarray, np.ndarray, int]:
    """Read ``evaluations.npz``.

    Args:
        run: the run.
        notes: list to which a defect of the file is appended.

    Returns:
        Timesteps of the evaluations, their mean returns, and the number of episodes of each; empty
        arrays and 0 without a readable file.
    """
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
    """Read ``code_length.npz``, at most :data:`CURVE_POINTS` of its timesteps, evenly spaced.

    Args:
        run: the run.
        notes: list to which a defect of the file is appended.

    Returns:
        The gains; None without a readable file.
    """
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
    """Return True for a non-empty, strictly increasing, one-dimensional array of timesteps."""
    within = (steps >= 0) & (steps <= MOST_TIMESTEPS)  # not NaN, nor infinite
    usable = steps.ndim == 1 and len(steps) and within.all()
    return bool(usable and (np.diff(steps) > 0).all())


def read_arrays(path: Path, notes: list[str], *numbers: str, names: str = "") -> dict[str, Any]:
    """Read arrays of an npz; a damaged file gives an empty dict and a note.

    Args:
        path: the file.
        notes: list to which the defect is appended.
        numbers: names of arrays of numbers.
        names: name of one array of strings; empty for none.
    """
    try:
        # np.load would leave a damaged file open
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
            found: dict[str, Any] = {name: np.asarray(stored[name], float) for name in numbers}
            return {**found, names: stored[names]} if names else found
    except Exception as error:  # damaged bytes make zipfile and NumPy raise many kinds of errors
        notes.append(f"{path.name} is damaged ({' '.join(str(error).split())})")
        return {}


def read_probe(path: Path) -> ProbeRecord:
    """Read a ``probe.npz``.

    Raises:
        UserError: it is damaged, or is not the record of a probe.
    """
    try:
        with path.open("rb") as stream:
            if not zipfile.is_zipfile(stream):  # of which NumPy says to allow pickles
                raise ValueError("it is no npz file")
            with np.load(stream, allow_pickle=False) as stored:
                return checked_record({name: stored[name] for name in stored.files})
    except DAMAGE as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is damaged ({reason}); expected the record of a probe, as training leaves it"
        ) from None


@dataclass
class Final:
    """Evaluation of the last policy, as in ``final.json``."""

    timesteps: int
    mean_return: float
    episodes: int


def read_final(run: Run, notes: list[str]) -> Final | None:
    """Read ``final.json``; None if there is none, or, with a note, if it is damaged."""
    if not run.final_file.is_file():
        return None
    try:
        found = json.loads(run.final_file.read_text(encoding="utf-8"))
        return Final(int(found["timesteps"]), float(found["mean_return"]), int(found["episodes"]))
    except DAMAGE as error:
        notes.append(f"final.json is damaged ({' '.join(str(error).split())})")
        return None


def read_episodes(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """Read training episodes from SB3's monitor files, in the order in which they ended.

    Returns:
        Timesteps at the end of each episode, counted over all environments of the run, and returns.
    """
    files = sorted(run.folder.glob("*.monitor.csv"))
    steps, returns = [np.empty(0)], [np.empty(0)]
    for file in files:
        lines = complete_lines(file)[2:]  # after the header
        if not lines:
            continue
        rows = np.loadtxt(lines, delimiter=",", usecols=(0, 1), ndmin=2)
        steps.append(rows[:, 1].cumsum() * len(files))
        returns.append(rows[:, 0])
    order = np.argsort(np.concatenate(steps), kind="stable")
    return np.concatenate(steps)[order], np.concatenate(returns)[order]


def read_seconds(run: Run, shared_by: int) -> float | None:
    """Return the wall-clock seconds until the last training episode ended, from SB3's monitor file.

    The clock of the file restarts when a run is resumed; the parts are added.

    Args:
        run: the run.
        shared_by: number of seeds that were trained together, by which the time is divided.
    """
    try:
        lines = complete_lines(run.folder / "0.monitor.csv")[2:]
        times = [float(line.split(b",")[2]) for line in lines]
    except (OSError, IndexError, ValueError):
        return None
    if not times:
        return None
    stops = [before for before, after in pairwise(times) if after < before]
    return (sum(stops) + times[-1]) / shared_by
