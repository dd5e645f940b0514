"""A disk that is full, and a folder that cannot be written: one line, and nothing trained is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from rn_rl.cli import main
from rn_rl.experiment.runs.folder import Run
from rn_rl.experiment.runs.records import find_runs
from tests.factories import slow_unless
from tests.trust.killing import CLEAN, limited, run_limited

TRAIN = (
    "train --algo ppo --env CartPole-v1 --timesteps 256 --n-envs 1 --eval-freq 64 --eval-episodes 1 "
    "--set n_steps=32 batch_size=32 n_epochs=1 normalize=true --quiet --out"
)


SIZES = (10, 1_000, 20_000, 60_000, 90_000)


@pytest.mark.parametrize("size", slow_unless((10, 60_000).__contains__, SIZES))
def test_a_full_disk_ends_a_training_with_one_line(size, tmp_path):
    status, error = run_limited([*TRAIN.split(), str(tmp_path)], size)
    assert status == 2 and error.count("\n") == 1 and "Traceback" not in error, error
    assert "File too large" in error
    assert not [path for path in tmp_path.rglob(".*") if path.is_file()]
    for folder in find_runs(tmp_path):
        run = Run(folder)
        if run.policy_file.is_file():
            _, env = run.load_agent()
            env.close()
        if (run.checkpoint / "state.npz").is_file():
            assert main(["train", "--resume", str(folder), "--quiet"]) == 0


def test_a_comparison_on_a_full_disk_says_so(tmp_path):
    words = TRAIN.replace("train", "compare", 1).split()
    words = [*words[:-1], "--norms", "none", "--seeds", "2", "--jobs", "1", "--out", str(tmp_path)]
    status, error = run_limited(words, 20_000)
    assert status == 2 and "File too large" in error and error.count("\n") <= 2, error


def test_the_tables_of_a_task_on_a_full_disk_say_which_file_and_what_to_do(tmp_path):
    """The error of a write names no file: the command adds it."""
    words = f"task babi --toy --norms none,ln --settings 18 --quiet --out {tmp_path}".split()
    assert run_limited(words) == (0, "")
    whole = (tmp_path / "babi-toy.svg").read_bytes()
    status, error = run_limited(words, 3_000)
    assert status == 2 and error.count("\n") == 1, error
    assert f"{tmp_path}/babi-toy.svg: File too large; make room and run it again" in error
    assert (tmp_path / "babi-toy.svg").read_bytes() == whole


def test_sigterm_is_ctrl_c(tmp_path):
    """Slurm and Docker send it: the training stops at a checkpoint and can be continued."""
    words = [*TRAIN.replace("--timesteps 256", "--timesteps 1000000").split(), str(tmp_path)]
    ours, theirs = CLEAN.Pipe()
    child = CLEAN.Process(target=limited, args=(words, 2**40, theirs))
    child.start()
    theirs.close()
    while not list(Path(tmp_path).rglob("0.monitor.csv")):
        assert child.is_alive()
        child.join(0.1)
    child.join(1)
    child.terminate()
    assert ours.poll(60)
    status, error = ours.recv()
    assert status == 130 and "--resume" in error
    [folder] = find_runs(tmp_path)
    assert (folder / "checkpoint/state.npz").is_file() and Run(folder).policy_file.is_file()
