"""The table of normalizers and the parser of specs."""

import doctest
import importlib
import os
import pkgutil
import re
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from torch import nn

import rn_rl.normalization
from rn_rl.errors import UserError
from rn_rl.normalization import (
    REGISTRY,
    PhaseNorm,
    RegularityNorm,
    available_normalizers,
    canonical_spec,
    make_normalizers,
    parse_spec,
)


@pytest.mark.parametrize("row", REGISTRY.values(), ids=REGISTRY)
def test_every_row_documents_itself(row, spec_of):
    assert row.summary and row.source
    assert "\n" not in row.summary
    assert row.name == row.name.lower()
    assert canonical_spec(spec_of(row.name)) == spec_of(row.name)
    assert available_normalizers()[row.name] == row.summary


@pytest.mark.parametrize("row", REGISTRY.values(), ids=REGISTRY)
def test_every_row_builds_what_it_says(row, build):
    module = build(row.name)
    assert len(module) == (
        not row.is_identity
    )  # a new module, or the layer whose weights it changed
    assert any(isinstance(m, PhaseNorm) for m in module.modules()) == row.stateful
    assert any("running_" in key for key in module.state_dict()) == row.stateful


@pytest.mark.parametrize("row", REGISTRY.values(), ids=REGISTRY)
def test_modules_are_new_each_time(row, build):
    one, other = build(row.name), build(row.name)
    assert not set(one.modules()) & set(other.modules())
    ours = {t.data_ptr() for t in one.state_dict().values() if t.numel()}
    theirs = {t.data_ptr() for t in other.state_dict().values() if t.numel()}
    assert not ours & theirs


@pytest.mark.parametrize("name", ["wn", "spectral"])
def test_what_changes_the_weights_of_a_layer_needs_one(name):
    with pytest.raises(UserError, match=rf"normalizer {name}: .* needs one; pass layer="):
        make_normalizers(name, 8)


def test_at_most_one_term_changes_the_weights():
    with pytest.raises(UserError, match=r"at most one .* got wn and spectral"):
        parse_spec("wn+rn+spectral")


def test_terms_apply_in_the_order_of_the_spec():
    ln, rn = make_normalizers("ln+rn(half_life=2000)", 16)
    assert isinstance(ln, nn.LayerNorm) and ln.normalized_shape == (16,)
    assert isinstance(rn, RegularityNorm) and rn.half_life == 2000 and rn.axis == "layer"


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ("ramp(5, 5000)", [{"to": 5, "over": 5000}]),
        ("ramp(5)", [{"to": 5}]),
        ("ramp(over=3)", [{"over": 3}]),
        ("ramp(+5, over=1e3)", [{"to": 5, "over": 1000.0}]),
        ("gain(-2)", [{"c": -2}]),
        ("rn()", [{}]),
        ("rn(half_life=None)", [{"half_life": None}]),
        (" LN + Rln ( half_life = 2.5 ) ", [{}, {"half_life": 2.5}]),
        ("rn(2)+rn(+3)+ln", [{"half_life": 2}, {"half_life": 3}, {}]),
        ("sn(50, td)", [{"half_life": 50, "prior": "td"}]),
        ("sn(prior='Reward', shuffled=True)", [{"prior": "reward", "shuffled": True}]),
        ("sn(shuffled=false, prior=None)", [{"prior": None, "shuffled": False}]),
    ],
)
def test_arguments_are_read(spec, arguments):
    assert [term.arguments for term in parse_spec(spec)] == arguments


@pytest.mark.parametrize(
    ("spec", "canonical"),
    [
        ("RN", "rn"),
        (" ln + rn ", "ln+rn"),
        ("rn( half_life = 2000 )", "rn(half_life=2000)"),
        ("rn(2000)", "rn(half_life=2000)"),
        ("ramp(5, 500)", "ramp(over=500)"),
        ("ramp(over=500, to=5)", "ramp(over=500)"),
        ("none", "none"),
        ("None+rn+none", "rn"),
        ("rn()", "rn"),
        ("RN-Paper", "rn-paper"),
        ("SN(50, prior=TD, shuffled=True)", "sn(half_life=50,prior=td,shuffled=true)"),
    ],
)
def test_canonical_spec_is_one_spelling_and_reads_back(spec, canonical):
    assert canonical_spec(spec) == canonical
    assert canonical_spec(canonical) == canonical
    assert str(make_normalizers(canonical, 4)) == str(make_normalizers(spec, 4))


@pytest.mark.parametrize(
    ("spec", "same"),
    [
        ("rn(half_life=None)", "rn"),
        ("rn(half_life=2000.0)", "rn(half_life=2000)"),
        ("ramp(5, 5000)", "ramp"),
        ("gain(3)", "gain(3.0)"),
        ("sn(shuffled=True, prior='td')", "sn(prior=td,shuffled=true)"),
        ("sn(prior=None, shuffled=false)", "sn"),
    ],
)
def test_specs_of_one_meaning_have_one_spelling(spec, same):
    assert canonical_spec(spec) == canonical_spec(same)


@pytest.mark.parametrize(
    ("spec", "nearest"), [("rnn", "'rn'"), ("ln+lnr", "'rln'"), ("logtt", "'logt'")]
)
def test_an_unknown_name_is_answered_with_the_nearest_and_the_whole_list(spec, nearest):
    with pytest.raises(
        UserError, match=rf"unknown normalizer '\w+'. Did you mean .*{nearest}"
    ) as e:
        parse_spec(spec)
    assert ", ".join(REGISTRY) in str(e.value)
    assert repr(spec.split("+")[-1]) in str(e.value)


def test_a_name_near_to_nothing_gets_the_list_alone():
    with pytest.raises(UserError, match=r"unknown normalizer 'zzzz'\. \(known: none, ln, rn") as e:
        parse_spec("zzzz")
    assert "mean" not in str(e.value)


@pytest.mark.parametrize("spec", ["", "  ", "+", "rn+", "+rn", "rn(", "rn)", "rn ln", "3", "rn(1"])
def test_what_cannot_be_read_is_shown(spec):
    with pytest.raises(UserError, match="normalizer '") as error:
        parse_spec(spec)
    assert repr(spec) in str(error.value) and "expected" in str(error.value)


@pytest.mark.parametrize("spec", [None, 3, ["rn"]])
def test_what_is_no_text_is_shown(spec):
    with pytest.raises(UserError, match="expected a spec such as 'rn' or 'ln") as error:
        parse_spec(spec)
    assert repr(spec) in str(error.value)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("rn(life=3)", r"rn\(life=3\): rn takes \(half_life\)"),
        ("rn(1, 2)", r"rn\(1, 2\): rn takes \(half_life\)"),
        ("rn(1, half_life=2)", r"rn takes \(half_life\)"),
        ("rn(half_life=1, half_life=2)", r"rn takes \(half_life\)"),
        ("rn(half_life=)", r"rn takes \(half_life\)"),
        ("rn(half_life=print(1))", r"rn takes \(half_life\)"),
        ("rn(**{'half_life': 2})", r"rn takes \(half_life\)"),
        ("rn(1)(2)", r"rn takes \(half_life\)"),
        ("rn(1) if f(2)", r"normalizer"),
        ("ln(3)", r"ln\(3\): ln takes no arguments"),
        ("ramp(steps=3)", r"ramp takes \(to, over\)"),
        ("rn(half_life='long')", "rn: half_life='long': expected a number"),
        ("rn(half_life=True)", "rn: half_life=True: expected a number"),
        ("rn(half_life=1e999)", "rn: half_life=inf: expected a finite number of phases, or None"),
        ("rn(half_life=[2])", r"rn: half_life=\[2\]: expected a number"),
        ("rn(half_life=long)", r"rn\(half_life=long\): rn takes \(half_life\)"),
        ("sn(half_life=td)", r"sn takes \(half_life, prior, shuffled\)"),
        (
            "sn(prior=tdd)",
            r"unknown prior of sn 'tdd'. Did you mean 'td'\? \(known: td, reward, action",
        ),
        ("sn(prior=3)", r"unknown prior of sn '3'"),
        ("sn(prior=td, shuffled=1)", "sn: shuffled=1: expected true or false"),
        ("sn(prior=td, shuffled=no)", "sn: shuffled='no': expected true or false"),
    ],
)
def test_bad_arguments_are_named_with_what_is_taken(spec, message):
    with pytest.raises(UserError, match=message):
        parse_spec(spec)


def test_arguments_out_of_range_are_found_when_building():
    with pytest.raises(UserError, match="half_life=-1: expected a number of phases above 0"):
        make_normalizers("rn(half_life=-1)", 8)
    with pytest.raises(UserError, match="half_life=inf: expected a finite number of phases"):
        RegularityNorm(8, half_life=float("inf"))
    with pytest.raises(UserError, match="half_life='10': expected a number of phases above 0"):
        RegularityNorm(4, half_life="10")


@pytest.mark.parametrize("row", [r for r in REGISTRY.values() if r.scalar], ids=lambda r: r.name)
@pytest.mark.parametrize("between", ["+", "+none+"])
def test_a_gain_that_layer_norm_cancels_is_warned_of(row, between, spec_of):
    with pytest.warns(UserWarning, match=rf"{row.name}\+ln: LayerNorm is scale-invariant"):
        make_normalizers(f"{spec_of(row.name)}{between}ln", 8)


@pytest.mark.parametrize("spec", ["ln+rn", "rln+ln", "rn", "ln", "ln+rn+rln+ln"])
def test_no_other_order_is_warned_of(spec):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        make_normalizers(spec, 8)


def test_none_gives_no_module():
    assert make_normalizers("none", 8) == []
    assert len(make_normalizers("none+rn+none", 8)) == 1


PACKAGE = rn_rl.normalization
MODULES = [f"{PACKAGE.__name__}.{m.name}" for m in pkgutil.iter_modules(PACKAGE.__path__)]


def test_examples_in_docstrings_are_true():
    before = dict(REGISTRY)
    results = [doctest.testmod(importlib.import_module(name)) for name in MODULES]
    REGISTRY.clear()
    REGISTRY.update(before)  # an example registers one
    assert sum(result.attempted for result in results) >= 4
    assert sum(result.failed for result in results) == 0


def test_a_new_normalizer_is_one_file_and_one_row(tmp_path):
    """Run the worked example of CONTRIBUTING.md in a copy of the package."""
    root = Path(__file__).parents[2]
    shutil.copytree(
        root / "rn_rl", tmp_path / "rn_rl", ignore=shutil.ignore_patterns("__pycache__")
    )
    text = (root / "CONTRIBUTING.md").read_text().partition("## A new normalizer")[2]
    file, row = re.findall(r"```(?:python|text)\n(.*?)```", text, re.DOTALL)[:2]
    folder = tmp_path / "rn_rl/normalization"
    (folder / "clip.py").write_text(file)
    table = (folder / "registry.py").read_text()
    assert table.count("_TABLE = (\n") == 1
    imported = "_TABLE = (\n".join(
        ("from rn_rl.normalization.clip import ClipNorm\n", f"    {row}")
    )
    (folder / "registry.py").write_text(table.replace("_TABLE = (\n", imported))
    code = """
import torch, sys
from rn_rl.cli import main
from rn_rl.normalization import canonical_spec, make_normalizers
assert canonical_spec("LN+clip(3.0)+clip(2)") == "ln+clip+clip(limit=2)"
_, clip = make_normalizers("ln+clip(limit=2)", 3)
assert clip(torch.tensor([[-5.0, 1.0, 9.0]])).tolist() == [[-2, 1, 2]]
sys.exit(main(["norms"]))
"""
    command = [sys.executable, "-c", code]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
    )
    assert done.returncode == 0, done.stderr
    assert "clip activations" in done.stdout and "limit" in done.stdout
