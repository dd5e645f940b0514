"""TensorBoard events of a run, of which a resumed run drops those after its checkpoint."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Mapping
from pathlib import Path

from stable_baselines3.common.logger import Logger, TensorBoardOutputFormat
from tensorboard.compat.proto.event_pb2 import (  # type: ignore[import-untyped]
    Event,
    SessionLog,
)
from tensorboard.summary.writer.record_writer import (  # type: ignore[import-untyped]
    RecordWriter,
)
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import scalar

FILE_VERSION = "brain.Event:2"
"""Version that the first event of a file states."""


class ResumedTensorBoard(TensorBoardOutputFormat):
    """SB3's TensorBoard output, whose file drops the events of earlier files after a timestep.

    Args:
        folder: run folder.
        done: last timestep that is kept.
    """

    def __init__(self, folder: str, done: int) -> None:
        begin = time.monotonic()
        # TensorBoard reads files in the order of their names, which begin with the second
        while int(time.time()) <= newest_second(Path(folder)) and time.monotonic() < begin + 2:
            time.sleep(0.05)
        self.writer = SummaryWriter(log_dir=folder, purge_step=done + 1)
        self._is_closed = False


def newest_second(folder: Path) -> int:
    """Return the second in the name of the last event file; -1 if there is none."""
    seconds = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
    return max((int(text) for text in seconds if text.isdecimal()), default=-1)


def make_logger(folder: Path, done: int | None) -> Logger:
    """Return the SB3 logger of a single run.

    Args:
        folder: run folder.
        done: timestep at which a resumed run continues; None for a new run.
    """
    output = (
        TensorBoardOutputFormat(str(folder))
        if done is None
        else ResumedTensorBoard(str(folder), done)
    )
    return Logger(str(folder), [output])


class ScalarFile:
    """Append scalars to an event file that is open only while they are written.

    A seed batch has one for each seed, and there may be thousands, so neither a file nor a thread is
    held for each, as TensorBoard's own writer does.

    Args:
        folder: run folder.
        done: timestep at which a resumed run continues, after which the events of earlier files are
            dropped; None for a new run.
    """

    def __init__(self, folder: Path, done: int | None) -> None:
        now = time.time()
        # TensorBoard reads the files of a folder in the order of their names
        second = max(int(now), newest_second(folder) + 1)
        self.path = folder / f"events.out.tfevents.{second}.{socket.gethostname()}.{os.getpid()}.0"
        self._first = [Event(wall_time=now, file_version=FILE_VERSION)]
        if done is not None:
            start = SessionLog(status=SessionLog.START)
            self._first[0].step = done + 1
            self._first.append(Event(wall_time=now, step=done + 1, session_log=start))

    def write(self, rows: Iterable[tuple[int, Mapping[str, float]]]) -> None:
        """Append rows of a timestep and its values by tag."""
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
