"""Checkpoint of a run: one file, whole or not there, from which the run resumes exactly.

A checkpoint is taken between two phases: when a rollout begins, or after the last one. It is a single
``.npz`` of arrays and one JSON text, renamed into place when complete, without pickle. What it holds of
a training: :mod:`rn_rl.experiment.training.state`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from rn_rl.errors import UserError
from rn_rl.experiment.runs.console import shell
from rn_rl.experiment.runs.io import DAMAGE, replace_file, sync_folder, write_npz


def state_file(folder: Path) -> Path:
    """Return the path of a run's checkpoint."""
    return folder / "state.npz"


def pending_file(folder: Path) -> Path:
    """Return the path of a checkpoint that waits for those of the other runs of its seed batch."""
    return folder / "next.npz"


def write_state(folder: Path, arrays: dict[str, Any], plain: dict[str, Any]) -> None:
    """Write arrays and JSON data as the checkpoint of a run."""
    write_npz(state_file(folder), durable=True, **arrays, plain=np.array(json.dumps(plain)))


def write_pending(folder: Path, arrays: dict[str, Any], plain: dict[str, Any]) -> None:
    """Write a checkpoint that becomes the run's by :func:`adopt_pending`, now or when it is resumed."""
    write_npz(pending_file(folder), durable=True, **arrays, plain=np.array(json.dumps(plain)))


def adopt_pending(folders: Sequence[Path]) -> bool:
    """Make the pending checkpoints of a seed batch the current ones, all of them or none.

    If the process was killed while it wrote them, some runs lack one, and the others are deleted; if it
    was killed while it renamed them, the rest are renamed. So all runs resume at one timestep.

    Args:
        folders: checkpoint folders of the runs that are still in the batch.

    Returns:
        True if checkpoints were adopted.
    """
    pending = [folder for folder in folders if pending_file(folder).is_file()]
    newest = [timesteps_in(pending_file(folder)) for folder in pending]
    others = [timesteps_in(state_file(folder)) for folder in folders if folder not in pending]
    complete = len({*newest, *others}) == 1
    for folder in pending:
        if complete:
            replace_file(pending_file(folder), state_file(folder))
            sync_folder(folder)
        else:
            pending_file(folder).unlink()
    return complete and bool(pending)


def timesteps_in(path: Path) -> int:
    """Return the number of timesteps trained before a checkpoint file; -1 if it cannot be read."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return timesteps_of(json.loads(str(arrays["plain"])))
    except DAMAGE:
        return -1


def timesteps_of(plain: Mapping[str, Any]) -> int:
    """Return the number of timesteps in the JSON data of a checkpoint, at least 0."""
    found = int(plain["counters"]["num_timesteps"])
    if found < 0:
        raise ValueError(f"num_timesteps {found}")
    return found


def timesteps_done(folder: Path) -> int:
    """Return the number of timesteps trained before the checkpoint of a run.

    Raises:
        UserError: there is no checkpoint, or it is damaged.
    """
    with open_state(folder) as arrays:
        return timesteps_of(json.loads(str(arrays["plain"])))


def read_plain(folder: Path) -> dict[str, Any]:
    """Return the JSON data of a checkpoint.

    Raises:
        UserError: there is no checkpoint, or it is damaged.
    """
    with open_state(folder) as arrays:
        return dict(json.loads(str(arrays["plain"])))


@contextmanager
def open_state(folder: Path) -> Iterator[Any]:
    """Open a checkpoint and yield its arrays, which are read from disk when they are used.

    Raises:
        UserError: there is no checkpoint, or it is damaged: it cannot be read, lacks an array, or holds
            one that does not fit where the block puts it.
    """
    path = state_file(folder)
    if not path.is_file():
        raise UserError(
            f"run {folder.parent}: no checkpoint to continue from; start another run, with "
            f"{shell('--from', folder.parent)} to begin with its weights"
        )
    # np.load would leave a damaged file open
    with (
        damage_named(folder),
        path.open("rb") as stream,
        np.load(stream, allow_pickle=False) as arrays,
    ):
        yield arrays


@contextmanager
def damage_named(folder: Path, also: str = "") -> Iterator[None]:
    """Raise :class:`UserError` where what a checkpoint holds cannot be read or used.

    Args:
        folder: checkpoint folder of the run.
        also: other files that may be the damaged one.
    """
    try:
        yield
    except UserError:
        raise
    except DAMAGE as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(
            f"{state_file(folder)} is damaged ({reason}){also}; start another run, "
            f"with {shell('--from', folder.parent)} to begin with its weights"
        ) from error
