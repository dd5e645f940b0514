"""Rooms import one way, as the contracts of import-linter in pyproject.toml say."""

import ast
import os
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(p for p in (ROOT / "rn_rl").rglob("*.py") if p != ROOT / "rn_rl/__init__.py")


def imported(file):
    """Dotted names of all that a file imports, wherever in it; relative ones made absolute."""
    package = file.relative_to(ROOT).parent.parts
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join([*base, *filter(None, [node.module])])
            yield from (f"{module}.{alias.name}" for alias in node.names)


def part(file):
    """Which part of rn_rl a file belongs to."""
    return file.relative_to(ROOT / "rn_rl").parts[0].removesuffix(".py")


def contracts():
    """Contracts of import-linter, by name."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]
    return {contract["name"]: contract for contract in settings["contracts"]}


def lint(folder):
    """Run the contracts on a copy of the packages, or on the packages themselves."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    env = {**os.environ, "PYTHONPATH": str(folder)}
    return subprocess.run(
        [*command, "--no-cache"], cwd=folder, env=env, capture_output=True, text=True
    )


def test_rooms_import_what_their_contracts_allow():
    done = lint(ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("file", "line", "contract"),
    [
        ("rn_rl/engine/host.py", "import rn_rl.policies", "rooms of the library"),
        ("rn_rl/experiment/runs/io.py", "import rn_rl.experiment.grid.jobs", "rooms of an exper"),
        ("rn_rl/engine/host.py", "import rn_rl.engine.trace", "rooms of the engine"),
        ("rn_rl/analysis/metrics.py", "import rn_rl.experiment.training.single", "analysis reads"),
        ("rn_rl/engine/ops/gather.py", "import gymnasium", "no reinforcement learning below"),
        ("rn_rl/cli.py", "import benchmarks.learning", "benchmarks are above the library"),
        ("rn_rl/nobody_knows.py", "", "rooms of the library"),
        ("rn_rl/experiment/nobody_knows.py", "", "rooms of an experiment"),
    ],
)
def test_a_contract_breaks_for(tmp_path, file, line, contract):
    for package in ("rn_rl", "benchmarks"):
        shutil.copytree(
            ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / file).open("a") as opened:
        opened.write(f"\n{line}\n")
    done = lint(tmp_path)
    assert done.returncode == 1
    told = next(row for row in done.stdout.splitlines() if row.startswith(contract))
    assert "BROKEN" in told


@pytest.mark.parametrize("package", ["rn_rl", "rn_rl.experiment", "rn_rl.engine"])
def test_contracts_cover_every_module(package):
    (found,) = (c for c in contracts().values() if package in c.get("containers", ()))
    covered = {name.strip() for layer in found["layers"] for name in layer.split("|")}
    folder = ROOT / package.replace(".", "/")
    there = {p.parent.name for p in folder.glob("*/__init__.py")}
    there |= {p.stem for p in folder.glob("*.py")} - {"__init__"}
    assert covered == there and found["exhaustive"]


def test_the_imports_are_seen():
    assert "rn_rl.policies.NormDQNPolicy" in imported(ROOT / "rn_rl/agents/rndqn.py")
    assert len(FILES) > 20


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_nothing_imports_through_the_doors(file):
    assert not {name.split(".")[0] for name in imported(file)} & {
        "agents",
        "policies",
        "scripts",
        "benchmarks",
        "tests",
    }


@pytest.mark.parametrize(
    "file", [f for f in FILES if part(f) in ("errors", "normalization", "probe")]
)
def test_normalization_is_torch_only(file):
    third_party = {name.split(".")[0] for name in imported(file)} - set(sys.stdlib_module_names)
    segmentation = {"scipy", "ruptures"} if file.name == "stages.py" else set()
    assert third_party <= {"torch", "numpy", "rn_rl"} | segmentation


def test_importing_loads_neither_sb3_nor_gymnasium():
    code = """
import sys
import rn_rl
assert "torch" not in sys.modules
import rn_rl.normalization
rn_rl.RegularityNorm, rn_rl.CodeLengthProbe
assert "torch" in sys.modules
loaded = {"stable_baselines3", "sb3_contrib", "gymnasium"} & set(sys.modules)
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)
