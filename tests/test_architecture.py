"""Imports point one way: cli, scripts -> experiment -> agents -> policies -> normalization."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = [
    {"errors"},
    {"normalization"},
    {"probe", "policies"},
    {"agents"},
    {"experiment"},
    {"cli"},
    {"__main__"},
]
RANK = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}
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


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_no_layer_imports_a_higher_one(file):
    rank = RANK[part(file)]
    for name in imported(file):
        if name.startswith("rn_rl.") and name.split(".")[1] in RANK:
            target = name.split(".")[1]
            assert target == part(file) or RANK[target] < rank, f"{part(file)} imports {name}"


def test_the_imports_are_seen():
    assert "rn_rl.policies.NormDQNPolicy" in imported(ROOT / "rn_rl/agents/sb3.py")
    assert len(FILES) > 20


@pytest.mark.parametrize("file", FILES, ids=lambda f: str(f.relative_to(ROOT)))
def test_nothing_imports_through_the_doors(file):
    assert not {name.split(".")[0] for name in imported(file)} & {"agents", "policies", "scripts"}


@pytest.mark.parametrize(
    "file", [f for f in FILES if part(f) in ("errors", "normalization", "probe")]
)
def test_normalization_is_torch_only(file):
    third_party = {name.split(".")[0] for name in imported(file)} - set(sys.stdlib_module_names)
    assert third_party <= {"torch", "numpy", "rn_rl"}


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
