"""Progress where standard output is no terminal: a line at least every 10 seconds, set-up included."""

import io
import itertools
import re
import time

import pytest
from rich.console import Console

from rn_rl.cli import main
from rn_rl.experiment.runs import console
from rn_rl.experiment.runs.console import StatusLines, clock
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.training.progress import TrainingProgress
from tests.factories import slow_unless

DQN = ["--algo", "dqn", "--env", "CartPole-v1", "--set", "learning_starts=50", "buffer_size=1000"]
SHAPE = ["--timesteps", "200", "--eval-freq", "200", "--eval-episodes", "1"]
COMMANDS = {
    "train": ["train", *DQN, *SHAPE],
    "batch": ["train", *DQN, *SHAPE, "--seeds", "2", "--engine", "batch"],
    "process": ["train", *DQN, *SHAPE, "--seeds", "2", "--engine", "process"],
    "compare": ["compare", *DQN, *SHAPE, "--seeds", "1", "--norms", "none,ln", "--jobs", "1"],
}
SETUP = r"  setting up.*, \d+:\d\d passed"
WORK = {
    "train": r"  100%        200  [\d,]+ steps/s",
    "batch": r"  100%        200  [\d,]+ steps/s in all",
    "process": r"  [01] of 2 trained, \d+:\d\d passed",
    "compare": r"  [01] of 2 trained, [01] running.*, \d+:\d\d passed",
}


@pytest.fixture
def hurried(monkeypatch):
    """A line at least every 0.02 seconds; an environment that takes 0.3 seconds to make."""
    make_env = RunSpec.make_env

    def make_env_slowly(self, *args, **kwargs):
        time.sleep(0.3)
        return make_env(self, *args, **kwargs)

    monkeypatch.setattr(RunSpec, "make_env", make_env_slowly)
    monkeypatch.setattr(console, "LINE_INTERVAL", 0.02)


@pytest.mark.parametrize("name", slow_unless(lambda name: name != "process", COMMANDS))
def test_no_command_is_silent_for_long(name, tmp_path, capsys, hurried):
    assert main([*COMMANDS[name], "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    for pattern in (SETUP, WORK[name]):
        assert any(re.match(pattern, line) for line in lines), (pattern, lines)


@pytest.mark.parametrize("name", ["train", "batch", "compare"])
def test_a_quiet_command_prints_nothing(name, tmp_path, capsys, hurried):
    assert main([*COMMANDS[name], "--quiet", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == ""


def test_lines_are_no_closer_than_their_interval(monkeypatch):
    monkeypatch.setattr(console, "LINE_INTERVAL", 0.2)
    file, times = io.StringIO(), []

    def status():
        times.append(time.monotonic())
        return "working"

    with StatusLines(Console(file=file), status) as lines:
        time.sleep(0.5)
        lines.print("done")
        printed, begin = len(times), time.monotonic()
        time.sleep(0.5)
    assert 1 <= printed < len(times)
    assert all(late - early >= 0.2 for early, late in itertools.pairwise(times))
    assert times[printed] - begin >= 0.19  # the line of the block counts
    line = r"(  working, 0:0\d passed\n)+"
    assert re.fullmatch(f"{line}done\n{line}", file.getvalue())


def test_a_slow_training_has_lines_between_its_tenths(monkeypatch):
    file = io.StringIO()
    monkeypatch.setattr(console, "LINE_INTERVAL", 0.0)
    display = TrainingProgress(1000, "run", StatusLines(Console(file=file), ""))
    display.start(0)
    for timesteps in range(1, 6):
        display.update(timesteps, lambda: "5 steps/s")
    _, *lines = file.getvalue().splitlines()
    assert [line.split()[:2] for line in lines] == [["0%", str(n)] for n in range(1, 6)]


def test_durations_are_hours_minutes_seconds():
    assert [clock(s) for s in (0.9, 65, 3723)] == ["0:00", "1:05", "1:02:03"]
