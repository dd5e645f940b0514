"""Who is working on what, for several processes and machines that share one folder of runs.

A claim is a file that only one can create. Whoever holds it touches it every few seconds; a claim whose
holder is dead, or has not touched it for a minute, is taken over. What a holder is doing stands in
the file, so that anybody can show it.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil

from rn_rl.experiment.runs.console import Watch
from rn_rl.experiment.runs.io import write_json

STALE = 60.0
"""Seconds without a touch after which a claim is free."""

BEAT = 2.0
"""Seconds between two touches."""


def claims_folder(root: Path) -> Path:
    """Inside the folder of runs; hidden from what looks for runs."""
    return root / ".grid" / "claims"


class Claims:
    """The claims of one job, held and touched while the block runs.

    Args:
        root: folder of runs.
        keys: of the trainings that the job wants.
        stop_file: when it exists, the watch asks for a stop.

    Attributes:
        held: keys that were free; the others belong to somebody else.
        watch: written by the training, shown to others.
    """

    def __init__(self, root: Path, keys: Iterable[str], stop_file: Path | None = None) -> None:
        self.folder = claims_folder(root)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.wanted = list(keys)
        self.stop_file = stop_file
        self.held: list[str] = []
        self.watch = Watch()
        self.me = {**holder(), "id": uuid.uuid4().hex}
        self._end = threading.Event()

    def __enter__(self) -> Claims:
        self.held = [key for key in self.wanted if take(self.folder / key, self.me)]
        self._thread = threading.Thread(target=self._beat, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()
        for key in self.held:
            if self._mine(key):
                (self.folder / key).unlink(missing_ok=True)

    def _mine(self, key: str) -> bool:
        return read(self.folder / key).get("id") == self.me["id"]

    def _beat(self) -> None:
        while not self._end.wait(BEAT):
            if self.stop_file is not None and self.stop_file.exists():
                self.watch.stop = True
            for key in list(self.held):
                if not self._mine(key):  # we slept for so long that somebody took it over
                    self.held.remove(key)
                    self.watch.stop = True
                    continue
                with contextlib.suppress(OSError):
                    write_json(self.folder / key, {**self.me, "timesteps": self.watch.timesteps})


def holder() -> dict[str, Any]:
    """Who we are: the process, and the machine (or container) where its number means something."""
    return {"host": place(), "pid": os.getpid()}


def place() -> str:
    """This machine and its process numbers: machines may have one name, and containers one machine."""
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def take(path: Path, me: dict[str, Any] | None = None) -> bool:
    """Claim, unless somebody has it who is alive."""
    for _ in range(2):
        try:
            with path.open("x") as stream:
                json.dump(me or holder(), stream)
            return True
        except FileExistsError:
            if not free(path):
                return False
    return False


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Nobody else is in such a block for this file; waits for who is. For moments, not minutes."""
    claim = path.with_name(f".{path.name}.claim")
    while not take(claim):
        time.sleep(0.1)
    try:
        yield
    finally:
        claim.unlink(missing_ok=True)


def free(path: Path) -> bool:
    """Whether there is no such claim, once one whose holder is gone has been taken away."""
    try:
        touched = path.stat().st_mtime_ns
        if not abandoned(path):
            return False
        aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
        path.rename(aside)  # of several who try, one succeeds
        if aside.stat().st_mtime_ns != touched:  # somebody else was faster, and this is theirs
            with contextlib.suppress(FileExistsError):
                os.link(aside, path)  # and never over a third one's
            aside.unlink()
            return False
        aside.unlink()
    except FileNotFoundError:
        pass
    return True


def abandoned(path: Path, now: float | None = None) -> bool:
    """Whether the holder of a claim is dead, or silent for too long."""
    now = now_at(path.parent) if now is None else now
    if now - path.stat().st_mtime > STALE:
        return True
    found = read(path)
    if found.get("host") != place():
        return False
    return not psutil.pid_exists(int(found.get("pid", os.getpid())))


def now_at(folder: Path) -> float:
    """The time by the clock of the machine that has the folder, which may not be ours."""
    probe = folder / f".{uuid.uuid4().hex}"
    probe.touch()
    now = probe.stat().st_mtime
    probe.unlink()
    return now


def read(path: Path) -> dict[str, Any]:
    """What a claim says; nothing while it is being written, or when it is gone."""
    try:
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    except (OSError, ValueError):
        return {}


def running(root: Path) -> dict[str, int]:
    """Timesteps behind each training that somebody is working on."""
    folder = claims_folder(root)
    if not folder.is_dir():
        return {}
    now = now_at(folder)
    found = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # done in this very moment
            if not path.name.startswith(".") and not abandoned(path, now):
                found[path.name] = int(read(path).get("timesteps", 0))
    return found
