"""The page of three days: each command runs, in small, in the order in which it stands there."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from rn_rl.cli import main

PAGE = (Path(__file__).parents[2] / "docs/tutorials/three-days.md").read_text(encoding="utf-8")
DAYS = dict(re.findall(r"^## (.*?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))

SMALL = {
    "train": "--timesteps 1000 --eval-episodes 1 --set learning_starts=100 gradient_steps=1",
    "compare": "--timesteps 256 --eval-freq 128 --eval-episodes 1 --final-episodes 1 --jobs 1",
    "tune": "--eval-freq 128 --eval-episodes 1",
    "export": "--episodes 2",
}
"""Options that make a command quick."""

FEWER = (
    ("--seeds 10", "--seeds 2"),
    ("--trials 50", "--trials 2"),
    ("--timesteps 50000", "--timesteps 256"),
    ("--episodes 200", "--episodes 2"),
    (",Acrobot-v1", ""),
    ("learning_rate=1e-3 ", "learning_rate=1e-3 dqn:learning_starts=100 dqn:gradient_steps=1 "),
)


def in_small(line: str) -> list[str]:
    for words, fewer in FEWER:
        line = line.replace(words, fewer)
    name, *rest = shlex.split(line)[1:]
    more = SMALL.get(name, "").split()
    if name == "compare" and "dqn" in line and "--set" not in line:
        more += ["--set", "learning_starts=100", "gradient_steps=1"]
    return [name, *rest, *more]


@pytest.mark.slow
@pytest.mark.parametrize("day", DAYS)
def test_a_day(day, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```(\w*)\n(.*?)^```", DAYS[day], re.DOTALL | re.MULTILINE)
    assert len(blocks) >= 3
    for language, block in blocks:
        if language == "python":
            exec(block, {"__name__": "page"})
        for line in block.splitlines() if not language else ():
            assert main(in_small(line)) == 0, capsys.readouterr().err
    made = {path.name for path in tmp_path.iterdir()}
    expected = {
        "A researcher compares": {"own.yml", "study", "study.html", "study-paper"},
        "An engineer tunes": {"tuning", "tuned", "ppo-CartPole-v1"},
        "A student looks at RN": {"look", "look.html", "control"},
    }
    assert expected[day] <= made
    if day == "A researcher compares" and shutil.which("pdflatex"):
        latex = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"]
        subprocess.run(latex, cwd="study-paper", check=True, capture_output=True, timeout=300)
        assert (tmp_path / "study-paper/paper.pdf").stat().st_size > 10_000
