"""Normalizers of one's own: registered, by module:Class, and of an installed package."""

import functools
import os
import subprocess
import sys

import pytest
import torch
from torch import nn

import rn_rl
from rn_rl.errors import UserError
from rn_rl.normalization import (
    REGISTRY,
    available_normalizers,
    canonical_spec,
    check_importable,
    make_normalizers,
    origins,
    parse_spec,
    plugins,
)

MODULE = '''
from torch import nn

print("imported")  # on standard output


class Clip(nn.Module):
    """Clip activations to [-limit, limit]."""

    def __init__(self, num_features, limit=3.0, how="hard"):
        super().__init__()
        self.limit, self.how = limit, how

    def forward(self, x):
        return x.clamp(-self.limit, self.limit)


class NoModule:
    def __init__(self, num_features): ...


class TwoSizes(nn.Module):
    def __init__(self, num_features, other): ...
'''


@pytest.fixture
def registry():
    """The table, restored afterwards."""
    before = dict(REGISTRY)
    yield REGISTRY
    REGISTRY.clear()
    REGISTRY.update(before)


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module ``my_norms`` that can be imported."""
    (tmp_path / "my_norms.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    yield "my_norms"
    sys.modules.pop("my_norms", None)


class Doubled(nn.Module):
    """Double activations. With a second sentence."""

    def __init__(self, num_features, factor=2.0):
        super().__init__()
        self.factor = factor

    def forward(self, x):
        return x * self.factor


def test_a_registered_class_is_a_row_like_any_other(registry):
    rn_rl.register("doubled", Doubled, scalar=True)
    assert available_normalizers()["doubled"] == "Double activations. With a second sentence"
    assert canonical_spec("LN+doubled(3.0)") == "ln+doubled(factor=3)"
    [_, norm] = make_normalizers("ln+doubled(factor=3)", 8)
    assert isinstance(norm, Doubled) and norm.factor == 3
    with pytest.warns(UserWarning, match="the gain of doubled cancels"):
        make_normalizers("doubled+ln", 8)
    assert origins("ln+doubled") == {"doubled": f"{Doubled.__module__}:Doubled"}
    rn_rl.register("doubled", Doubled)  # once more, as a notebook does
    rn_rl.register("halved", functools.partial(Doubled, factor=0.5))
    assert make_normalizers("halved", 8)[0].factor == 0.5


@pytest.mark.parametrize(
    ("name", "factory", "message"),
    [
        ("ln", Doubled, r"register\('ln'\): there is a normalizer of this name .* another name"),
        ("Mine", Doubled, "expected a name of lower-case letters"),
        ("a+b", Doubled, "expected a name of lower-case letters"),
        ("mine", dict, "dict is not a torch.nn.Module"),
        ("mine", 3, "'3' is not a class"),
        ("mine", nn.Bilinear, "it takes in2_features, out_features beside the number of features"),
        ("mine", lambda: nn.Identity(), "it takes no argument beside"),
    ],
)
def test_what_cannot_be_registered_is_one_line(name, factory, message, registry):
    with pytest.raises(UserError, match=message) as error:
        rn_rl.register(name, factory)
    assert "\n" not in str(error.value)
    assert "mine" not in REGISTRY


def test_a_class_of_a_module_is_imported_when_it_is_built(module, capsys):
    spec = "ln + my_norms:Clip(limit=2, how='soft')"
    assert canonical_spec(spec) == "ln+my_norms:Clip(how='soft',limit=2)"
    assert canonical_spec(canonical_spec(spec)) == canonical_spec(spec)
    assert "my_norms" not in sys.modules and not capsys.readouterr().out
    _, clip = make_normalizers(spec, 3)
    assert clip(torch.tensor([[-5.0, 1.0, 9.0]])).tolist() == [[-2, 1, 2]] and clip.how == "soft"
    assert "" not in sys.path or os.getcwd() not in sys.path


@pytest.mark.parametrize(
    ("value", "spelled"),
    [
        (("left arm", "b"), "('left arm','b')"),
        (("a b",), "('a b',)"),
        ((2.0, 3), "(2.0,3)"),
        ((1, ("c d", ())), "(1,('c d',()))"),
        ("(", "'('"),
        ("a) + (b", "'a) + (b'"),
        ('"', "'\"'"),
    ],
)
def test_texts_keep_spaces_and_parentheses(value, spelled):
    for spec in (f"my_norms:Clip(how={value!r})+ln", f"ln+my_norms:Clip(how={value!r})"):
        assert canonical_spec(spec) == spec.replace(repr(value), spelled)
        assert canonical_spec(canonical_spec(spec)) == canonical_spec(spec)
    assert parse_spec(f"my_norms:Clip(how={spelled})")[0].arguments == {"how": value}


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("nowhere_at_all:Norm", r"cannot import 'nowhere_at_all' \(ModuleNotFoundError"),
        ("my_norms:Clap", "'my_norms' has no 'Clap'; expected module:Class"),
        ("my_norms:NoModule", "NoModule is not a torch.nn.Module"),
        ("my_norms:TwoSizes", "it takes other beside the number of features"),
        ("my_norms:Clip(2)", "takes arguments by name"),
        ("my_norms:Clip(width=2)", r"cannot build it for 8 features \(TypeError"),
        ("my_norms:Clip(limit=print(1))", "takes arguments by name"),
        ("my_norms:", "cannot read"),
    ],
)
def test_what_cannot_be_imported_or_built_is_one_line(spec, message, module):
    with pytest.raises(UserError, match=message) as error:
        check_importable(spec)
        make_normalizers(spec, 8)
    assert "\n" not in str(error.value)


@pytest.fixture
def package(tmp_path):
    """An installed package with an entry point, and one that is broken."""
    (tmp_path / "their_norms.py").write_text(MODULE)
    info = tmp_path / "their_norms-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: their-norms\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        f"[{plugins.GROUP}]\ntheirs = their_norms:Clip\nbroken = their_norms:Nothing\n"
    )
    return tmp_path


def test_a_package_brings_its_normalizers(package):
    code = """
from rn_rl.normalization import canonical_spec, make_normalizers
from rn_rl.errors import UserError
import sys
assert "their_norms" not in sys.modules
assert canonical_spec("ln+theirs(2)") == "ln+theirs(limit=2)"
assert make_normalizers("theirs", 4)[0].limit == 3
try:
    canonical_spec("broken")
except UserError as error:
    assert "has no 'Nothing'" in str(error)
else:
    raise AssertionError
try:
    canonical_spec("their")
except UserError as error:
    assert "Did you mean 'theirs'" in str(error) and "theirs, broken; " in str(error)
else:
    raise AssertionError
"""
    done = in_process_with(package, code)
    assert done.returncode == 0, done.stderr


def test_a_broken_package_is_left_out_with_one_line(package):
    code = """
import sys, warnings
from rn_rl.normalization import available_normalizers
from rn_rl.experiment.runs.trust import unsafe_names
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.cli import main
spec = RunSpec("dqn", "CartPole-v1", "ln", 0, 0, 1, 0, 1, "cpu", 1, "zoo", {})
spec.normalizers.update(theirs="their_norms:Clip", broken="x:Y", mine="own:Mine")
assert [what for what, why in unsafe_names(spec)] == ["its normalizer 'mine' of own:Mine"]
assert "their_norms" not in sys.modules
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    found = available_normalizers()
assert found["theirs"] == "Clip activations to [-limit, limit]" and "broken" not in found
[warning] = caught
assert str(warning.message).startswith("normalizer 'broken' is left out: normalizer 'broken'")
assert main(["norms"]) == 0
"""
    done = in_process_with(package, code)
    assert done.returncode == 0, done.stderr
    assert " theirs " in done.stdout and " broken " not in done.stdout
    assert done.stderr.count("\n") == 1 and "warning: normalizer 'broken' is left" in done.stderr


def in_process_with(package, code):
    """Run code where the package is installed."""
    path = os.pathsep.join(
        [str(package), *filter(None, [os.environ.get("PYTHONPATH")]), os.getcwd()]
    )
    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def test_functions_without_a_name_do_not_replace_each_other(registry):
    """Lambdas and partials of one class have equal origins, which do not say that they are the same."""
    for first, second in (
        (lambda n: nn.Identity(), lambda n: nn.LayerNorm(n)),
        (functools.partial(Doubled, factor=1.0), functools.partial(Doubled, factor=3.0)),
    ):
        rn_rl.register("nameless", first)
        rn_rl.register("nameless", first)
        with pytest.raises(UserError, match="there is a normalizer of this name"):
            rn_rl.register("nameless", second)
        REGISTRY.pop("nameless")
