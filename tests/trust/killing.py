"""Trainings in a child process that is killed, and the comparison of two run folders."""

from __future__ import annotations

import contextlib
import io
import json
import multiprocessing
import os
import resource
import signal
import time
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from rn_rl.cli import main
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.launch import several, train_seeds
from rn_rl.experiment.training.single import train

QUIET = Console(quiet=True)


def run_training(config: TrainConfig) -> None:
    if several(config):
        train_seeds(config, QUIET)
    else:
        train(config, QUIET)


CLEAN = multiprocessing.get_context("forkserver")
"""Forks from a process that has imported what a training needs, and has done nothing else."""
CLEAN.set_forkserver_preload([__name__, "rn_rl.experiment.training.seed_batch_run"])


def limited(words: list[str], size: int, pipe) -> None:
    """Run a command whose files may have so many bytes, and send its status and what it printed."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # so that a write fails, as on a full disk
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    error = io.StringIO()
    with contextlib.redirect_stderr(error), contextlib.redirect_stdout(io.StringIO()):
        status = main(words)
    pipe.send((status, error.getvalue()))


def run_limited(words: list[str], size: int = 2**40) -> tuple[int, str]:
    """Run a command in a process of its own; return its status and what it printed as errors."""
    ours, theirs = CLEAN.Pipe()
    child = CLEAN.Process(target=limited, args=(words, size, theirs))
    child.start()
    theirs.close()
    assert ours.poll(120), "no end"
    found = ours.recv()
    child.join(30)
    return found


def train_until_write(config: TrainConfig, n: int) -> None:
    """Train, and be killed when the n-th file is written and not yet renamed; n = 0: never."""
    torch.set_num_threads(1)
    replace, count = os.replace, 0

    def counting(*args: Any, **kwargs: Any) -> None:
        nonlocal count
        count += 1
        if count == n:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*args, **kwargs)

    os.replace = counting
    run_training(config)


def killed_at_write(config: TrainConfig, n: int) -> bool:
    """Train in a process that is killed at its n-th write.

    Returns:
        False if the training wrote fewer files, and so ended.
    """
    child = CLEAN.Process(target=train_until_write, args=(config, n))
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def killed_after(config: TrainConfig, seconds: float) -> None:
    """Train in a process that is killed after so many seconds."""
    child = CLEAN.Process(target=train_until_write, args=(config, 0))
    child.start()
    time.sleep(seconds)
    child.kill()
    child.join()


def contents(folder: Path) -> dict[str, Any]:
    """Return what the files of a run hold, without times and names of folders."""
    run = Run(folder)
    spec = run.read_spec()
    found: dict[str, Any] = {"policy.safetensors": load_file(run.policy_file)}
    for name in ("evaluations.npz", "code_length.npz", "checkpoint/state.npz"):
        if (folder / name).is_file():
            found[name] = dict(np.load(folder / name))
    plain = json.loads(str(found["checkpoint/state.npz"].pop("plain")))
    for one in plain.get("episodes", []):
        one.pop("t")
    found["plain"] = plain
    for path in (run.zip_file(spec.env), run.best_model_file):
        if path.is_file():
            with zipfile.ZipFile(path) as archive:
                for member in archive.namelist():
                    if member.endswith(".pth"):
                        with archive.open(member) as stream:
                            found[f"{path.name}/{member}"] = torch.load(stream, weights_only=True)
                    elif member == "vecnormalize.json":
                        found[f"{path.name}/{member}"] = json.loads(archive.read(member))
    if run.vecnormalize_file.is_file():
        found["vecnormalize.json"] = json.loads(run.vecnormalize_file.read_text())
    for path in folder.glob("*.monitor.csv"):
        lines = path.read_bytes().splitlines()[2:]
        found[path.name] = [line.split(b",")[:2] for line in lines]
    events = EventAccumulator(str(folder)).Reload()
    found["scalars"] = {
        tag: [(event.step, event.value) for event in events.Scalars(tag)]
        for tag in events.Tags()["scalars"]
        if not tag.startswith("time/")
    }
    found["hidden files"] = [path.name for path in folder.rglob(".*")]
    found["files"] = sorted(
        str(path.relative_to(folder))
        for path in folder.rglob("*")
        if path.is_file() and "tfevents" not in path.name
    )
    return found


def check_equal(mine: Any, theirs: Any, where: str = "") -> None:
    """Assert that nested data are equal, bit for bit; NaN equals NaN."""
    if isinstance(theirs, dict):
        assert mine.keys() == theirs.keys(), where
        for key in theirs:
            check_equal(mine[key], theirs[key], f"{where}/{key}")
    elif isinstance(theirs, (list, tuple)):
        assert len(mine) == len(theirs), f"{where}: {len(mine)} and {len(theirs)}"
        for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
            check_equal(a, b, f"{where}[{i}]")
    elif isinstance(theirs, torch.Tensor):
        check_equal(mine.detach().numpy(), theirs.detach().numpy(), where)
    elif isinstance(theirs, np.ndarray):
        assert mine.dtype == theirs.dtype and mine.shape == theirs.shape, where
        assert mine.tobytes() == theirs.tobytes(), where
    else:
        assert mine == theirs or (mine != mine and theirs != theirs), f"{where}: {mine}, {theirs}"
