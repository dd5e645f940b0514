"""The one table of normalizers, and the grammar of specs such as ``"ln+rn(half_life=2000)"``."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

from torch import nn

from rn_rl.errors import UserError, unknown
from rn_rl.normalization.controls import gain, logt, ramp
from rn_rl.normalization.regularity import RegularityNorm

LIN = "Lin, Entropy 24(1):59, 2022"


@dataclass(frozen=True)
class NormalizerSpec:
    """One row: a new normalizer is one file and one row.

    Attributes:
        name: what users write.
        factory: called with the number of features; None for the identity, which adds no module, and
            for a row with ``reparametrize``.
        reparametrize: changes the weights of the layer itself (weight and spectral normalization).
        arguments: the keyword arguments a spec may give, in positional order.
        stateful: whether it keeps running state.
        phase_rule: whether its state moves between phases alone.
        scalar: whether it multiplies a whole layer or sample by one positive number.
        source: where it comes from.
        summary: one line.
    """

    name: str
    factory: Callable[..., nn.Module] | None
    source: str
    summary: str
    arguments: tuple[str, ...] = ()
    stateful: bool = True
    phase_rule: bool = True
    scalar: bool = False
    reparametrize: Callable[..., nn.Module] | None = None

    @property
    def is_identity(self) -> bool:
        """Whether it changes nothing."""
        return self.factory is None and self.reparametrize is None

    @property
    def build(self) -> Callable[..., nn.Module]:
        """What is called with the number of features, or with the layer, and the arguments."""
        build = self.factory or self.reparametrize
        assert build is not None
        return build


_rln = partial(RegularityNorm, axis="neuron")
_rsn = partial(RegularityNorm, axis="sample")
_rn_paper = partial(RegularityNorm, commit="forward")
_rln_paper = partial(RegularityNorm, axis="neuron", commit="forward")
_HALF_LIFE = ("half_life",)

_TABLE = (
    NormalizerSpec("none", None, "-", "identity: no normalizer", stateful=False),
    NormalizerSpec(
        "ln", nn.LayerNorm, "Ba et al. 2016", "layer normalization (torch)", stateful=False
    ),
    NormalizerSpec(
        "rn", RegularityNorm, LIN, "regularity, one gain per layer", _HALF_LIFE, scalar=True
    ),
    NormalizerSpec("rln", _rln, LIN, "regularity, one gain per neuron", _HALF_LIFE),
    NormalizerSpec(
        "rsn", _rsn, "this library", "regularity, one gain per sample", _HALF_LIFE, scalar=True
    ),
    NormalizerSpec(
        "rn-paper", _rn_paper, LIN, "RN as published", phase_rule=False, scalar=True
    ),
    NormalizerSpec("rln-paper", _rln_paper, LIN, "RLN as published", phase_rule=False),
    NormalizerSpec(
        "logt", logt, "this library", "control: rn's ramp on stationary data", scalar=True
    ),
    NormalizerSpec(
        "ramp", ramp, "this library", "control: a linear ramp", ("to", "over"), scalar=True
    ),
    NormalizerSpec("gain", gain, "this library", "control: a constant", ("c",), scalar=True),
)  # fmt: skip

REGISTRY: dict[str, NormalizerSpec] = {row.name: row for row in _TABLE}


def available_normalizers() -> dict[str, str]:
    """Names of all normalizers with a one-line summary each."""
    return {row.name: row.summary for row in _TABLE}


@dataclass(frozen=True)
class Term:
    """One term of a spec: a row of the registry and the arguments given to it."""

    row: NormalizerSpec
    arguments: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """One spelling: defaults left out, 2000.0 as 2000."""
        defaults = inspect.signature(self.row.build).parameters
        given = {k: v for k, v in self.arguments.items() if v != defaults[k].default}
        inside = ",".join(f"{k}={int(v) if float(v).is_integer() else v}" for k, v in given.items())
        return f"{self.row.name}({inside})" if inside else self.row.name


_TERM = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)
_PLUS_OUTSIDE_PARENTHESES = re.compile(r"\+(?![^(]*\))")


def parse_spec(spec: str) -> list[Term]:
    """Read ``"ln+rn(half_life=2000)"``: terms joined by ``+``, applied in that order.

    Raises:
        UserError: a name that is not in the table (with the nearest ones and the whole list), or
            arguments that the normalizer does not take.
    """
    if not isinstance(spec, str) or not spec.strip():
        raise UserError(f"normalizer {spec!r}: expected a spec such as 'rn' or 'ln+rn'")
    terms = []
    for text in _PLUS_OUTSIDE_PARENTHESES.split(spec):
        match = _TERM.fullmatch(text)
        if match is None:
            raise UserError(
                f"normalizer {spec!r}: cannot read {text!r}; expected name or name(argument=value), "
                "joined by '+'"
            )
        name, inside = match.groups()
        if name.lower() not in REGISTRY:
            raise unknown("normalizer", name, REGISTRY)
        row = REGISTRY[name.lower()]
        terms.append(Term(row, _parse_arguments(row, inside or "")))
    return terms


def _parse_arguments(row: NormalizerSpec, text: str) -> dict[str, Any]:
    takes = f"takes ({', '.join(row.arguments)})" if row.arguments else "takes no arguments"
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise SyntaxError
        positional = [ast.literal_eval(value) for value in call.args]
        named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        if len(named) < len(call.keywords):
            raise TypeError("an argument is given twice")
        parameters = [
            inspect.Parameter(a, inspect.Parameter.POSITIONAL_OR_KEYWORD) for a in row.arguments
        ]
        arguments = inspect.Signature(parameters).bind_partial(*positional, **named).arguments
    except (SyntaxError, ValueError, TypeError):
        raise UserError(f"normalizer {row.name}({text}): {row.name} {takes}") from None
    for key, value in arguments.items():
        optional = inspect.signature(row.build).parameters[key].default is None
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number and not (value is None and optional):
            raise UserError(f"normalizer {row.name}: {key}={value!r}: expected a number")
    return dict(arguments)


def canonical_spec(spec: str) -> str:
    """One spelling per meaning, without spaces: names of run folders are made from it."""
    terms = [term for term in parse_spec(spec) if not term.row.is_identity]
    return "+".join(map(str, terms)) or "none"


def make_normalizers(
    spec: str, num_features: int, layer: nn.Module | None = None, index: int = 0
) -> list[nn.Module]:
    """The modules to put, in this order, between a layer and its activation.

    Args:
        spec: such as ``"none"`` (no module), ``"rn"``, ``"ln+rn"``, ``"ramp(5, 5000)"``.
        num_features: size of axis 1 of what will pass through.
        layer: the linear or convolutional layer before them, whose weights ``wn`` and ``spectral``
            change in place; needed for these alone.
        index: which hidden layer of its network that is; a recording (``yoked``) has a gain for each.

    Returns:
        New modules, with their own state.

    Warns:
        UserWarning: one positive gain per layer or sample right before LayerNorm cancels.

    Raises:
        UserError: see :func:`parse_spec`.

    Example:
        >>> [type(module).__name__ for module in make_normalizers("ln+rn", 64)]
        ['LayerNorm', 'RegularityNorm']
    """
    terms = [term for term in parse_spec(spec) if not term.row.is_identity]
    for before, after in pairwise(terms):
        if before.row.scalar and after.row.name == "ln":
            warnings.warn(
                f"{before.row.name}+ln: LayerNorm is scale-invariant, so the gain of "
                f"{before.row.name} cancels; ln+{before.row.name} keeps it",
                stacklevel=2,
            )
    modules = []
    for term in terms:
        if term.row.factory is not None:
            modules.append(term.row.factory(num_features, **term.arguments))
        elif layer is not None:
            term.row.build(layer, **term.arguments)
        else:
            raise UserError(
                f"normalizer {term.row.name}: it changes the weights of a layer, so it needs one; "
                "pass layer=, or use it through rn_rl.policies"
            )
    return modules
