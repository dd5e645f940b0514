"""The list of arguments that are normalizer specs is complete: no other one imports a module."""

from __future__ import annotations

import contextlib
import inspect
import sys
import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium import spaces

from rn_rl import agents, policies
from rn_rl.policies.extractors import EXTRACTORS
from rn_rl.policies.spec_arguments import NORMALIZER_ARGUMENTS, normalizer_specs

POLICIES = [n for n in policies.__all__ if n.startswith("Norm") and n.endswith("Policy")]
VECTOR = spaces.Box(-1, 1, (3,), np.float32)
IMAGE = spaces.Box(0, 255, (3, 7, 7), np.uint8)
NATURE = spaces.Box(0, 255, (3, 36, 36), np.uint8)
DICT = spaces.Dict({"a": VECTOR, "b": NATURE})
MODULE = """
from torch import nn


class Norm(nn.Identity):
    def __init__(self, num_features):
        super().__init__()
"""


@pytest.fixture
def imports(tmp_path, monkeypatch):
    """A function that says whether a call imports the module of ``own_spec:Norm``."""
    (tmp_path / "own_spec.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)

    def imported(call: Any) -> bool:
        sys.modules.pop("own_spec", None)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with contextlib.suppress(Exception):  # most arguments take no such text
                call()
        return "own_spec" in sys.modules

    yield imported
    sys.modules.pop("own_spec", None)


def arguments_of(cls: type) -> list[str]:
    """Names of the arguments of a class and of its bases."""
    found: dict[str, None] = {}
    for base in cls.__mro__:
        if "__init__" in vars(base):
            found |= dict.fromkeys(inspect.signature(vars(base)["__init__"]).parameters)
    others = ("self", "args", "kwargs", "observation_space", "action_space", "lr_schedule", "trunk")
    return [name for name in found if name not in others]


@pytest.mark.parametrize("name", POLICIES)
def test_only_listed_arguments_of_a_policy_import_a_module(name, imports):
    policy: Any = getattr(policies, name)
    box = any(word in name for word in ("SAC", "TD3", "TQC", "CrossQ"))
    actions: spaces.Space = spaces.Box(-1, 1, (2,), np.float32) if box else spaces.Discrete(2)
    rate = () if name == "NormARSPolicy" else (lambda _: 1e-3,)
    found = set()
    for argument in arguments_of(policy):
        given = {"net_arch": [4], argument: "own_spec:Norm"}
        for space, more in ((VECTOR, {}), (IMAGE, {"features": "minigrid"})):
            if imports(lambda g={**more, **given}, s=space: policy(s, actions, *rate, **g)):
                found.add(argument)
    assert "norm" in found and ("obs_norm" in found) == (name != "NormARSPolicy")
    assert ("lstm_norm" in found) == ("Recurrent" in name)
    assert found <= set(NORMALIZER_ARGUMENTS)


@pytest.mark.parametrize("name", EXTRACTORS)
def test_only_listed_arguments_of_an_extractor_import_a_module(name, imports):
    space = {"mlp": VECTOR, "minigrid": IMAGE, "nature": NATURE, "dict": DICT}[name]
    cls: Any = EXTRACTORS[name]
    found = {
        a for a in arguments_of(cls) if imports(lambda a=a: cls(space, **{a: "own_spec:Norm"}))
    }
    assert "norm" in found and ("trunk_norm" in found) == (name != "mlp")
    assert found <= set(NORMALIZER_ARGUMENTS)


@pytest.mark.parametrize("name", ["RNDQN", "RNPPO", "PQN"])
def test_only_listed_arguments_of_an_agent_import_a_module(name, imports):
    cls: Any = getattr(agents, name)
    names = [a for a in arguments_of(cls) if a not in ("policy", "env")]
    call = {a: {a: "own_spec:Norm"} for a in names}
    found = {a for a in names if imports(lambda a=a: cls("MlpPolicy", "CartPole-v1", **call[a]))}
    assert found == {"norm"}


def test_specs_are_found_at_any_depth():
    given = {
        "norm": "ln",
        "policy_kwargs": {"lstm_norm": "rn", "features_extractor_kwargs": {"trunk_norm": "gn"}},
        "others": [{"obs_norm": "rsnorm"}, {"norm": 3}, "norm"],
    }
    assert normalizer_specs(given) == ["ln", "rn", "gn", "rsnorm"]
