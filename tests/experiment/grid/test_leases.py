"""Leases: one holder each, taken over at once from a process that was killed."""

import json
import os
import subprocess
import sys
import time

import pytest

from rn_rl.experiment.grid import leases

HOLD = """
import sys, time
from pathlib import Path
from rn_rl.experiment.grid.leases import Leases, exclusive
kind, path = sys.argv[1], Path(sys.argv[2])
with exclusive(path) if kind == "lock" else Leases(path, ["key"]):
    print("held", flush=True)
    time.sleep(600)
"""


def wait_for(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.1)


def kill_holder(kind, path):
    """Let another process hold a lease or lock, and kill it."""
    command = [sys.executable, "-c", HOLD, kind, str(path)]
    holder = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    with holder:
        assert holder.stdout.readline() == "held\n"
        if kind == "lease":
            assert leases.timesteps_in_work(path) == {"key": 0}
            with leases.Leases(path, ["key"]) as mine:
                assert mine.held == []
        holder.kill()


@pytest.mark.parametrize("kind", ["lease", "lock"])
def test_a_killed_process_is_replaced_at_once(tmp_path, kind):
    kill_holder(kind, tmp_path)
    begin = time.monotonic()
    if kind == "lease":
        assert leases.timesteps_in_work(tmp_path) == {}
        with leases.Leases(tmp_path, ["key"]) as mine:
            assert mine.held == ["key"]
    else:
        with leases.exclusive(tmp_path):
            pass
    assert time.monotonic() - begin < leases.STALE / 2


def test_a_lease_has_one_holder(tmp_path):
    key = leases.leases_folder(tmp_path) / "key"
    with leases.Leases(tmp_path, ["key", "other"]) as first:
        assert first.held == ["key", "other"]
        with leases.Leases(tmp_path, ["key"]) as second:
            assert second.held == []
        assert key.exists()
    assert not key.exists()


def test_a_lease_of_the_dead_is_taken_over(tmp_path):
    folder = leases.leases_folder(tmp_path)
    folder.mkdir(parents=True)
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    key = folder / "key"
    key.write_text(json.dumps({**leases.holder(), "pid": gone.pid}))
    assert leases.timesteps_in_work(tmp_path) == {}
    with leases.Leases(tmp_path, ["key"]) as mine:
        assert mine.held == ["key"]
    far = json.dumps({"host": "elsewhere", "pid": gone.pid})  # a number that means nothing here
    key.write_text(far)
    assert not leases.take(key, leases.holder())  # alive as far as we know
    old = time.time() - leases.STALE - 1
    os.utime(key, (old, old))
    assert leases.take(key, leases.holder())


def test_one_at_a_time_writes_a_file(tmp_path):
    path = tmp_path / "count"
    path.write_text("0")
    code = (
        "import sys, time; from pathlib import Path; from rn_rl.experiment.grid.leases import exclusive\n"
        "path = Path(sys.argv[1])\n"
        "for _ in range(5):\n"
        "    with exclusive(path):\n"
        "        count = int(path.read_text()); time.sleep(0.02); path.write_text(str(count + 1))\n"
    )
    command = [sys.executable, "-c", code, str(path)]
    several = [subprocess.Popen(command) for _ in range(3)]
    assert [process.wait(timeout=120) for process in several] == [0, 0, 0]
    assert path.read_text() == "15" and list(tmp_path.iterdir()) == [path]


def test_who_slept_for_too_long_stops_and_leaves_the_lease_to_its_new_holder(tmp_path, monkeypatch):
    monkeypatch.setattr(leases, "BEAT", 0.05)
    with leases.Leases(tmp_path, ["key"]) as sleeper:
        theirs = json.dumps({"host": "elsewhere", "pid": 1, "id": "theirs"})
        key = leases.leases_folder(tmp_path) / "key"
        key.write_text(theirs)
        wait_for(lambda: sleeper.watch.stop, 10)
        assert sleeper.held == []
    assert key.read_text() == theirs
