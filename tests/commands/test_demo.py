"""The demo, in small."""

import json
import re

import numpy as np

from rn_rl.analysis.summary import summarize
from rn_rl.cli import run_command
from rn_rl.commands.demo import learning_speed
from rn_rl.experiment.runs.records import find_runs, read_records
from scripts.demo import DemoConfig, run_demo
from tests.factories import made_up_run

TINY = ["--seeds", "2", "--timesteps", "600", "--final-episodes", "2"]


def test_the_demo_compares_and_films_the_best(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # one process, this one

    def demo():
        arguments = [*TINY, "--out", str(tmp_path)]
        assert run_command(DemoConfig, {DemoConfig: run_demo}, "demo.py", None, arguments) == 0
        return capsys.readouterr().out

    first = demo()
    assert "4 trainings, 0 of them done" in first
    table = first[first.index("last return, IQM") : first.index("Exploratory")]
    rows = {line.split("  ")[0]: line.split() for line in table.splitlines()[1:]}
    assert list(rows)[:3] == ["none", "ln", "RL Zoo, published"]
    assert rows["RL Zoo, published"][-1] == "500.0"
    returns = {}
    for path in tmp_path.glob("ln/ppo/*/final.json"):
        returns[path.parent] = json.loads(path.read_text())["mean_return"]
    assert len(returns) == 2
    worst, best = sorted(returns, key=returns.__getitem__)
    assert float(rows["ln"][-4]) == round(returns[worst], 2 if returns[worst] < 20 else 1)
    assert (best / "video.mp4").stat().st_size > 1000
    assert f"the best of 2: {best}/video.mp4" in first
    assert "mean return over the whole training: ln " in first
    made_up_run(tmp_path, "ln", 0, np.full((4, 1), 500.0))  # another demo left this one there
    assert "4 trainings, 4 of them done" in demo()


def test_the_sentence_on_learning_speed_has_the_areas(tmp_path):
    for seed in range(10):
        made_up_run(tmp_path, "none", seed, np.array([[seed], [100.0 + seed]]))
        made_up_run(tmp_path, "ln", seed, np.array([[80.0 + seed], [100.0 + seed]]))
    [task] = summarize(*read_records(find_runs(tmp_path))).tasks
    sentence = learning_speed(task)
    assert (
        "probability that a run with ln has the higher one 1.00 [1.00, 1.00], p = 0.0001"
        in sentence
    )
    areas = [float(re.search(rf"{norm} ([\d.]+) ", sentence)[1]) for norm in ("ln", "none")]
    assert areas[0] > areas[1] + 30
