"""Recordings of gains: the ``code_length.npz`` of a run folder, which ``yoked(RUN)`` replays."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from rn_rl.errors import UserError

RECORDING = "code_length.npz"
"""Name of the file in a run folder."""


def recording_file(run: str) -> Path:
    """Path of the recording of a run folder; the path of an npz file itself is returned as it is."""
    path = Path(run)
    return path if path.suffix == ".npz" else path / RECORDING


def no_recording(run: str) -> str:
    """Beginning of the messages about a missing file."""
    return f"yoked({run}): no recording {recording_file(run)}"


def read_recording(run: str) -> np.ndarray:
    """Read the gains of a recorded run: ``(phases + 1, layers)``; row t was applied after t commits.

    The file has one row for each rollout, written at its start, after the commit. Rollouts before the
    first update are one phase together (phase 0): row 0, and for DQN all rows up to ``learning_starts``,
    which the file holds.

    Args:
        run: a run folder, or an npz file.

    Raises:
        UserError: the file is missing, or is not a recording of gains.
    """
    file = recording_file(run)
    if not file.exists():
        raise UserError(
            f"{no_recording(run)}; give the folder of a run that had a normalizer with gains"
        )
    try:
        # opened here, because np.load leaves a file open that it cannot read
        with file.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            gains, timesteps = np.asarray(arrays["gains"], float), arrays["timesteps"]
            learning_starts = arrays.get("learning_starts", 0)
        if gains.ndim != 2 or not gains.size or timesteps.shape != gains.shape[:1]:
            raise ValueError(f"gains {gains.shape}, timesteps {timesteps.shape}")
        learned = (timesteps > learning_starts) & (np.arange(len(gains)) > 0)
        recorded = np.concatenate((gains[:1], gains[learned]))
        if not np.isfinite(recorded).all():
            raise ValueError("no finite gains")
    except (OSError, EOFError, TypeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"yoked({run}): {file} is no recording of gains ({error}); expected finite gains of shape "
            "(phases, layers) and timesteps, as training writes them"
        ) from None
    return recorded
