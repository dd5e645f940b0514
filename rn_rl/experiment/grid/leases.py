"""Leases on trainings, for several processes and machines that share one folder of runs.

A lease is a JSON file that names its holder and how far the training is. Its holder rewrites it every
:data:`BEAT` seconds. The lease of a process that has died on this machine is free at once, any other
after :data:`STALE` seconds without a beat. Leases are taken and given back under one lock of the
filelock library.

``filelock.SoftFileLease`` alone would not do: only an attempt to take a lease tells whether its holder
is dead, while the scheduler and the live table must look without taking; it carries no timesteps; and
it takes another machine with the same host name for this one, and so a training there for a dead one.
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
from filelock import SoftFileLease

from rn_rl.experiment.runs.console import Watch
from rn_rl.experiment.runs.io import DAMAGE, write_json

STALE = 60.0
"""Seconds without a beat after which a lease is free."""

BEAT = 2.0
"""Seconds between two beats."""


def leases_folder(root: Path) -> Path:
    """Return the folder of leases, hidden inside the folder of runs."""
    return root / ".grid" / "leases"


class Leases:
    """The leases of one job, held while the block runs.

    Args:
        root: folder of runs.
        keys: keys of the trainings that the job wants.
        stop_file: when this file exists, ``watch.stop`` is set.

    Attributes:
        held: keys whose lease was free; the others belong to another process.
        watch: its ``timesteps`` are written to the leases. Its ``stop`` is set on request, and when a
            lease was lost because this process was silent for too long.
    """

    def __init__(self, root: Path, keys: Iterable[str], stop_file: Path | None = None) -> None:
        self.folder = leases_folder(root)
        self.wanted = list(keys)
        self.stop_file = stop_file
        self.held: list[str] = []
        self.watch = Watch()
        self._holder = {**holder(), "id": uuid.uuid4().hex}
        self._end = threading.Event()

    def __enter__(self) -> Leases:
        self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder):
            self.held = [key for key in self.wanted if take(self.folder / key, self._holder)]
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join()
        with exclusive(self.folder):
            for key in self.held:
                if self._is_mine(key):
                    (self.folder / key).unlink()

    def _is_mine(self, key: str) -> bool:
        return read_lease(self.folder / key).get("id") == self._holder["id"]

    def _run(self) -> None:
        while not self._end.wait(BEAT):
            if self.stop_file is not None and self.stop_file.exists():
                self.watch.stop = True
            with contextlib.suppress(OSError):
                self._beat()

    def _beat(self) -> None:
        for key in list(self.held):
            if self._is_mine(key):
                content = {**self._holder, "timesteps": self.watch.timesteps}
                write_json(self.folder / key, content)
            else:  # this process was silent for so long that another one took the lease
                self.held.remove(key)
                self.watch.stop = True


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Mutual exclusion on ``path`` among all processes and machines; blocks until it is free.

    A holder that was killed on this machine is replaced at once, one on another machine after
    :data:`STALE` seconds. Use it for moments, not for minutes.
    """
    with SoftFileLease(path.with_name(f".{path.name}.lock"), lease_duration=STALE):
        yield


def holder() -> dict[str, Any]:
    """Return what identifies this process: its number, and where that number is valid."""
    return {"host": host(), "pid": os.getpid()}


def host() -> str:
    """Return an identity of this machine and process namespace.

    Host names alone do not do: two machines may have the same, and two containers on one machine
    have process numbers of their own.
    """
    parts = [socket.gethostname()]
    with contextlib.suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with contextlib.suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def take(path: Path, content: dict[str, Any]) -> bool:
    """Write a lease unless another process holds it; call it within :func:`exclusive`.

    Returns:
        True if the lease is now that of ``content``.
    """
    if path.exists() and not is_abandoned(path):
        return False
    write_json(path, content)
    return True


def is_abandoned(path: Path, now: float | None = None) -> bool:
    """Return True if the holder of a lease has died or was silent for :data:`STALE` seconds.

    Args:
        path: the lease.
        now: time by the clock of the lease's file system; default: :func:`time_at`.

    Raises:
        FileNotFoundError: there is no such lease.
    """
    now = time_at(path.parent) if now is None else now
    if now - path.stat().st_mtime > STALE:
        return True
    found = read_lease(path)
    if found.get("host") != host():
        return False
    pid = found.get("pid")
    return not (isinstance(pid, int) and 0 < pid < 2**31 and psutil.pid_exists(pid))


def time_at(folder: Path) -> float:
    """Return the time by the clock of the machine that has the folder, which may not be this one.

    In a folder that cannot be written, as one of somebody else, it is the time of this machine.
    """
    probe = folder / f".{uuid.uuid4().hex}"
    try:
        probe.touch()
    except OSError:
        return time.time()
    now = probe.stat().st_mtime
    probe.unlink()
    return now


def read_lease(path: Path) -> dict[str, Any]:
    """Return the content of a lease; nothing if it is gone or damaged."""
    try:
        found = json.loads(path.read_text())
        return found if isinstance(found, dict) else {}
    except DAMAGE:
        return {}


def timesteps_in_work(root: Path) -> dict[str, int]:
    """Return the timesteps behind each training that some process is working on, by key."""
    folder = leases_folder(root)
    if not folder.is_dir():
        return {}
    now = time_at(folder)
    found = {}
    for path in folder.iterdir():
        with contextlib.suppress(FileNotFoundError):  # given back since it was listed
            if not path.name.startswith(".") and not is_abandoned(path, now):
                timesteps = read_lease(path).get("timesteps", 0)
                found[path.name] = timesteps if isinstance(timesteps, int) else 0
    return found
