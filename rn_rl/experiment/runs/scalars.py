"""TensorBoard events of a run, of which a resumed run drops those after its checkpoint."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.logger import KVWriter, Logger
from tensorboard.compat.proto.event_pb2 import (  # type: ignore[import-untyped]
    Event,
    SessionLog,
)
from tensorboard.summary.writer.record_writer import (  # type: ignore[import-untyped]
    RecordWriter,
)
from torch.utils.tensorboard.summary import hparams, scalar

from rn_rl.experiment.runs.spec import plain_settings
from rn_rl.experiment.runs.tracking import Tracker

FILE_VERSION = "brain.Event:2"
"""Version that the first event of a file states."""


def newest_second(folder: Path) -> int:
    """Return the second in the name of the last event file; -1 if there is none."""
    seconds = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
    return max((int(text) for text in seconds if text.isdecimal()), default=-1)


class ScalarFile:
    """Append scalars to an event file that is open only while they are written.

    A seed batch has one for each seed, and there may be thousands, so neither a file nor a thread is
    held for each, as TensorBoard's own writer does.

    Args:
        folder: run folder.
        done: timestep at which a resumed run continues, after which the events of earlier files are
            dropped; None for a new run.
        settings: values by name, shown in the tab *HPARAMS* of TensorBoard; of a new run.
        tracker: also gets the rows, and is closed with the file.
    """

    def __init__(
        self,
        folder: Path,
        done: int | None,
        settings: dict[str, Any] | None = None,
        tracker: Tracker | None = None,
    ) -> None:
        self.tracker = tracker
        now = time.time()
        # TensorBoard reads the files of a folder in the order of their names
        second = max(int(now), newest_second(folder) + 1)
        self.path = folder / f"events.out.tfevents.{second}.{socket.gethostname()}.{os.getpid()}.0"
        self._first = [Event(wall_time=now, file_version=FILE_VERSION)]
        if done is not None:
            start = SessionLog(status=SessionLog.START)
            self._first[0].step = done + 1
            self._first.append(Event(wall_time=now, step=done + 1, session_log=start))
        elif settings:
            measured = {"eval/mean_reward": 0.0}  # the names count, not the values
            for summary in hparams(plain_settings(settings), measured):
                self._first.append(Event(wall_time=now, summary=summary))

    def write(self, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Append rows of a timestep and its values by tag."""
        rows = list(rows)
        now = time.time()
        events = [
            Event(wall_time=now, step=step, summary=scalar(tag, value))
            for step, row in rows
            for tag, value in row.items()
        ]
        with self.path.open("ab") as stream:
            writer = RecordWriter(stream)
            for event in (*self._first, *events):
                writer.write(event.SerializeToString())
        self._first = []
        if self.tracker is not None:
            self.tracker.add(rows)

    def close(self) -> None:
        """Close the tracker; the file is open only while it is written."""
        if self.tracker is not None:
            self.tracker.close()
            self.tracker = None


class ScalarWriter(KVWriter):
    """Output of SB3's logger to an event file, without the thread of TensorBoard's own writer.

    That thread ends on a full disk, and whoever waits for it then waits for ever.

    Args:
        file: where the rows go.
    """

    def __init__(self, file: ScalarFile) -> None:
        self._file = file

    def write(
        self,
        key_values: dict[str, Any],
        key_excluded: dict[str, tuple[str, ...]],
        step: int = 0,
    ) -> None:
        row = {
            key: float(value)
            for key, value in key_values.items()
            if isinstance(value, int | float | np.number)
            and "tensorboard" not in (key_excluded.get(key) or ())
        }
        self._file.write([(step, row)])

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def make_logger(
    folder: Path, done: int | None, settings: dict[str, Any], tracker: Tracker | None = None
) -> Logger:
    """Return the SB3 logger of a single run; see :class:`ScalarFile` for the arguments."""
    return Logger(str(folder), [ScalarWriter(ScalarFile(folder, done, settings, tracker))])
