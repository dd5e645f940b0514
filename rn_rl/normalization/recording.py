"""Recordings of gains: the ``code_length.npz`` of a run folder, which ``yoked(RUN)`` replays."""

from __future__ import annotations

import re
import zipfile
from dataclasses import dataclass
from itertools import combinations
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


ELSEWHERE = re.compile(
    r"extractor\.(norms|trunk)\.|(^|\.)parametrizations\.|^lstm_(actor|critic)\.|^value_net$"
)
"""Names of normalizers that follow no hidden layer: of observations, convolutions, weights, inside LSTMs,
and PopArt in on-policy algorithms."""


@dataclass(frozen=True)
class RecordedGains:
    """Gains of a recorded run.

    Attributes:
        run: where it was read.
        gains: ``(phases + 1, columns)``; row t was applied after t commits.
        layers: name of the normalizer of each column, as ``phase_norms`` has it; None if not recorded.
    """

    run: str
    gains: np.ndarray
    layers: tuple[str, ...] | None = None

    def column(self, name: str) -> int | None:
        """Return the column of the normalizer of this name in a policy, if it is recorded.

        Args:
            name: name in the policy; after ``"*"``, the end of one, and the first such column counts.
        """
        end = name.removeprefix("*")
        for column, layer in enumerate(self.layers or ()):
            if layer == name or (end != name and layer.endswith(end)):
                return column
        return None

    def of_hidden(self, index: int) -> np.ndarray:
        """Return the gains of hidden layer ``index``, counted from 0 over all networks of a policy.

        Raises:
            UserError: there is no such layer, or a layer has several gains.
        """
        columns = list(range(self.gains.shape[1]))
        if self.layers is not None:
            columns = [i for i in columns if not ELSEWHERE.search(self.layers[i])]
            for pair in combinations([self.layers[i] for i in columns], 2):
                if share_a_place(*pair):
                    raise UserError(
                        f"yoked({self.run}): {' and '.join(pair)} of the recording may be of one layer; "
                        "give the spec of that run with yoked in place of one term"
                    )
        if index >= len(columns):
            raise UserError(
                f"yoked({self.run}): there is no gain for hidden layer {index + 1}: the recording has "
                f"{len(columns)}; yoke to a run with as many hidden layers"
            )
        return self.gains[:, columns[index]]


def share_a_place(first: str, second: str) -> bool:
    """Return True if two normalizers may follow the same layer, or one of them may be a PopArt.

    Between the normalizers of two layers there are an activation and a layer, so their numbers in a
    ``Sequential`` differ by 3 or more; behind an LSTM (number 0) there is no activation.
    """
    (one, _, i), (other, _, j) = first.rpartition("."), second.rpartition(".")
    if one != other:  # blocks, and PopArt behind them
        return f"{other}.".startswith(f"{one}.0.") or f"{one}.".startswith(f"{other}.0.")
    if not (i.isdecimal() and j.isdecimal()):
        return False
    low, high = sorted((int(i), int(j)))
    return high - low < (2 if low == 0 else 3)


def read_recording(run: str) -> RecordedGains:
    """Read the gains of a recorded run.

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
            layers = arrays.get("layers")
        if gains.ndim != 2 or not gains.size or timesteps.shape != gains.shape[:1]:
            raise ValueError(f"gains {gains.shape}, timesteps {timesteps.shape}")
        if layers is not None and layers.shape != gains.shape[1:]:
            raise ValueError(f"gains {gains.shape}, layers {layers.shape}")
        learned = (timesteps > learning_starts) & (np.arange(len(gains)) > 0)
        recorded = np.concatenate((gains[:1], gains[learned]))
        if not np.isfinite(recorded).all():
            raise ValueError("no finite gains")
    except (OSError, EOFError, TypeError, ValueError, KeyError, zipfile.BadZipFile) as error:
        raise UserError(
            f"yoked({run}): {file} is no recording of gains ({error}); expected finite gains of shape "
            "(phases, layers) and timesteps, as training writes them"
        ) from None
    return RecordedGains(run, recorded, None if layers is None else tuple(map(str, layers)))
