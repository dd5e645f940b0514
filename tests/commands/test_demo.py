"""The demo, in small."""

import json

from rn_rl.cli import run_command
from scripts.demo import DemoConfig, run_demo

TINY = ["--seeds", "2", "--timesteps", "1300", "--final-episodes", "2"]


def test_the_demo_compares_and_films_the_best(tmp_path, capsys):
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
    assert "4 trainings, 4 of them done" in demo()
