"""What the README shows runs, and what there is it names."""

import re
from pathlib import Path

import rn_rl.policies
from rn_rl.experiment.algorithms import ALGORITHMS

README = (Path(__file__).parents[1] / "README.md").read_text()


def test_the_python_in_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # it saves an agent
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 4
    names: dict = {}
    for block in blocks:
        exec(block.replace("100_000", "64"), names)
    assert names["stock"].num_timesteps >= 64
    assert (tmp_path / "seed3.zip").is_file()


def test_it_names_every_algorithm_and_the_policy_for_it():
    table = README.split("| `--algo` |")[1].split("\n\n")[0]
    for row in ALGORITHMS.values():
        assert f"`{row.name}`" in table
    policies = set(re.findall(r"`(Norm\w+Policy)`", table))
    assert policies == {name for name in rn_rl.policies.__all__ if name.endswith("Policy")}
