"""Runs on a mount that cannot be written: reading works, writing is refused in one line."""

from __future__ import annotations

import shlex
import subprocess
import sys

import pytest

from rn_rl.cli import main

TRAIN = "--algo dqn --env CartPole-v1 --timesteps 300 --eval-episodes 1 --set gradient_steps=1"


def unshared(script: str) -> subprocess.CompletedProcess[str]:
    """Run a shell script that may mount."""
    command = ["unshare", "--mount", "--map-root-user", "sh", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    try:
        able = unshared("mount --bind /tmp /tmp && mount -o remount,bind,ro /tmp").returncode == 0
    except FileNotFoundError:
        able = False
    if not able:
        pytest.skip("this account cannot mount")
    runs = tmp_path_factory.mktemp("runs")
    assert main([*f"train {TRAIN} --norm rn --quiet --out".split(), str(runs)]) == 0
    [spec] = runs.rglob("run.yaml")
    return spec.parent


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        ("train --resume RUN --timesteps 600", 2, "Read-only file system"),
        *(
            pytest.param(*case, marks=pytest.mark.slow)
            for case in (
                ("report RUNS --out OUT/report.html", 0, ""),
                (f"train {TRAIN} --out RUNS", 2, "Read-only file system"),
                (f"compare {TRAIN} --norms none --seeds 1 --out RUNS", 2, "Read-only file system"),
                ("video RUN", 2, "Read-only file system"),
                ("probe RUN", 0, ""),
                ("evaluate RUN --episodes 2", 0, ""),
            )
        ),
    ],
)
def test_a_read_only_mount(run, command, status, said, tmp_path):
    runs = run.parents[2]
    for name, path in (("RUNS", runs), ("RUN", run), ("OUT", tmp_path)):
        command = command.replace(name, shlex.quote(str(path)))
    there = shlex.quote(str(runs))
    mount = f"mount --bind {there} {there} && mount -o remount,bind,ro {there}"
    done = unshared(f"{mount} && {shlex.quote(sys.executable)} -m rn_rl {command}")
    assert done.returncode == status and "Traceback" not in done.stderr, done.stderr
    if said:
        assert done.stderr.count("\n") == 1 and said in done.stderr, done.stderr
