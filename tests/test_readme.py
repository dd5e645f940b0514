"""The README's examples run, its table names every policy, and links in repository pages resolve."""

import re
import tomllib
from pathlib import Path

import rn_rl.policies
from rn_rl.experiment.settings.algorithms import ALGORITHMS
from rn_rl.normalization import REGISTRY
from rn_rl.policies.nets import NETS

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def test_the_python_in_it_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert len(blocks) >= 3
    names: dict = {}
    for block in blocks:
        exec(block.replace("100_000", "64"), names)
    assert type(names["model"]).__name__ == "SAC"


def test_it_names_every_normalizer_network_extra_and_agent():
    names = README.split("## Normalizers")[1].split("\n## ")[0]
    assert {name for name in REGISTRY if f"`{name}`" not in names} == set()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert len(extras) >= 9 and {e for e in extras if f"`[{e}]`" not in README} == set()
    assert {n for n in NETS if n != "mlp" and f'"{n}"' not in README} == set()
    assert "`RNDQN`" in README and "`PQN`" in README and "rn-rl probe" in README


def test_it_stays_short():
    assert len(README.splitlines()) <= 200


def test_the_docs_name_every_algorithm_and_the_policy_for_it():
    page = (ROOT / "docs/how-to/classes.md").read_text()
    table = page.split("| `--algo` |")[1].split("\n\n")[0]
    for row in ALGORITHMS.values():
        assert f"`{row.name}`" in table
    policies = set(re.findall(r"`(Norm\w+Policy)`", table))
    assert policies == {
        name for name in rn_rl.policies.__all__ if re.fullmatch(r"Norm\w+Policy", name)
    }


def test_links_in_pages_at_the_root_and_in_results_resolve():
    found = 0
    for page in (*ROOT.glob("*.md"), *(ROOT / "results").rglob("*.md")):
        for link in re.findall(r"\]\(([^)#\s]+)", page.read_text()):
            if "://" not in link:
                assert (page.parent / link).exists(), f"{page}: {link}"
                found += 1
    assert found > 30
