"""What the README shows runs, and what there is it names."""

import re
from pathlib import Path

import rn_rl.policies
from rn_rl.experiment.settings.algorithms import ALGORITHMS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


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


def test_what_it_and_the_results_link_to_is_there():
    found = 0
    for page in (ROOT / "README.md", *(ROOT / "results").rglob("*.md")):
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page}: {link}"
                found += 1
    assert found > 30
