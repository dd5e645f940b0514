"""Table of all normalizers, and the parser of specs such as ``"ln+rn(half_life=2000)"``."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from pathlib import PurePath
from typing import Any

from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from rn_rl.errors import UserError, unknown
from rn_rl.normalization.adaptive import AdaptiveNorm
from rn_rl.normalization.batch import BatchNorm, BatchRenorm
from rn_rl.normalization.controls import gain, logt, ramp, yoked
from rn_rl.normalization.established import GroupNorm, LayerNorm, RMSNorm
from rn_rl.normalization.homeostatic import HomeostaticNorm
from rn_rl.normalization.parametrized import make_picklable
from rn_rl.normalization.published import PublishedRegularityNorm
from rn_rl.normalization.recording import RECORDING, read_recording
from rn_rl.normalization.regularity import RegularityNorm
from rn_rl.normalization.saliency import SaliencyNorm
from rn_rl.normalization.spectral import spectral

LIN = "Lin, Entropy 24(1):59, 2022"


@dataclass(frozen=True)
class NormalizerSpec:
    """One row of the table: the name and properties of a normalizer.

    Attributes:
        name: name in specs, lower case.
        factory: builds the module from the number of features and ``arguments``. None for the
            identity, which adds no module, and for rows with ``reparametrize``.
        source: paper.
        summary: description in one line.
        arguments: keyword arguments that a spec may give, in positional order.
        stateful: whether it keeps running state.
        phase_rule: whether its state changes only between phases.
        scalar: whether it multiplies each layer or sample by one positive number.
        scale_invariant: whether such a factor on its input does not change its output.
        recording: name of the argument that is the path of a recorded run, if there is one. It is
            then required, and the factory also takes ``index``, see :func:`make_normalizers`.
        reparametrize: changes the weights of a given layer in place (weight and spectral
            normalization) instead of adding a module.
    """

    name: str
    factory: Callable[..., nn.Module] | None
    source: str
    summary: str
    arguments: tuple[str, ...] = ()
    stateful: bool = True
    phase_rule: bool = True
    scalar: bool = False
    scale_invariant: bool = False
    recording: str | None = None
    reparametrize: Callable[..., nn.Module] | None = None

    @property
    def is_identity(self) -> bool:
        """True for ``none``."""
        return self.factory is None and self.reparametrize is None

    @property
    def build(self) -> Callable[..., nn.Module]:
        """``factory`` or ``reparametrize``, whichever the row has."""
        build = self.factory or self.reparametrize
        assert build is not None
        return build


_rln = partial(RegularityNorm, axis="neuron")
_rsn = partial(RegularityNorm, axis="sample")
_rln_paper = partial(PublishedRegularityNorm, axis="neuron")
_HALF_LIFE = ("half_life",)

_TABLE = (
    NormalizerSpec("none", None, "-", "identity: no normalizer", stateful=False),
    NormalizerSpec(
        "ln", LayerNorm, "Ba et al. 2016", "layer normalization (torch)", stateful=False,
        scale_invariant=True,
    ),
    NormalizerSpec(
        "rn", RegularityNorm, LIN, "regularity, one gain per layer", _HALF_LIFE, scalar=True
    ),
    NormalizerSpec("rln", _rln, LIN, "regularity, one gain per neuron", _HALF_LIFE),
    NormalizerSpec(
        "rsn", _rsn, "this library", "regularity, one gain per sample", _HALF_LIFE, scalar=True
    ),
    NormalizerSpec(
        "rn-paper", PublishedRegularityNorm, LIN, "RN as published", phase_rule=False, scalar=True
    ),
    NormalizerSpec("rln-paper", _rln_paper, LIN, "RLN as published", phase_rule=False),
    NormalizerSpec(
        "logt", logt, "this library", "control: the gain of rn on stationary data", scalar=True
    ),
    NormalizerSpec(
        "ramp", ramp, "this library", "control: a gain that rises linearly", ("to", "over"), scalar=True
    ),
    NormalizerSpec("gain", gain, "this library", "control: a constant gain", ("c",), scalar=True),
    NormalizerSpec(
        "yoked", yoked, "this library", "control: another run's gains, replayed", ("run",),
        scalar=True, recording="run",
    ),
    NormalizerSpec(
        "sn", SaliencyNorm, LIN, "saliency: rn with a data prior", _HALF_LIFE, scalar=True
    ),
    NormalizerSpec(
        "bn", BatchNorm, "Ioffe & Szegedy 2015", "batch normalization between phases", _HALF_LIFE
    ),
    NormalizerSpec(
        "brn", BatchRenorm, "Ioffe 2017", "bn with the gradient of batch renormalization",
        _HALF_LIFE,
    ),
    NormalizerSpec(
        "rms", RMSNorm, "Zhang & Sennrich 2019", "root mean square normalization (torch)",
        stateful=False, scale_invariant=True,
    ),
    NormalizerSpec(
        "gn", GroupNorm, "Wu & He 2018", "group normalization (torch)", ("groups",),
        stateful=False, scale_invariant=True,
    ),
    NormalizerSpec(
        "wn", None, "Salimans & Kingma 2016", "weight normalization of the layer (torch)",
        stateful=False, reparametrize=weight_norm,
    ),
    NormalizerSpec(
        "spectral", None, "Miyato et al. 2018", "spectral normalization of the layer",
        reparametrize=spectral,
    ),
    NormalizerSpec(
        "uan", AdaptiveNorm, "Faye et al. 2024", "adaptive: by clusters of a learned Gaussian mixture",
        _HALF_LIFE,
    ),
    NormalizerSpec(
        "hs", HomeostaticNorm, "after Shen et al. 2021", "homeostatic scaling, one gain per neuron",
        ("rate", "target", "momentum"),
    ),
)  # fmt: skip

REGISTRY: dict[str, NormalizerSpec] = {row.name: row for row in _TABLE}


def available_normalizers() -> dict[str, str]:
    """Return the names of all normalizers, with a one-line summary each."""
    return {row.name: row.summary for row in _TABLE}


@dataclass(frozen=True)
class Term:
    """One term of a spec: a row of the registry and its arguments."""

    row: NormalizerSpec
    arguments: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Canonical spelling: without defaults, 2000.0 as 2000, a path without quotes."""
        if self.row.recording is not None:
            return f"{self.row.name}({self.arguments[self.row.recording]})"
        defaults = inspect.signature(self.row.build).parameters
        given = {k: v for k, v in self.arguments.items() if v != defaults[k].default}
        inside = ",".join(f"{k}={_spelled(v)}" for k, v in given.items())
        return f"{self.row.name}({inside})" if inside else self.row.name


def _spelled(value: float | None) -> str:
    return str(int(value) if value is not None and float(value).is_integer() else value)


_TERM = re.compile(r"\s*([A-Za-z][\w-]*)\s*(?:\((.*)\))?\s*", re.DOTALL)


def parse_spec(spec: str) -> list[Term]:
    """Parse a spec such as ``"ln+rn(half_life=2000)"``: terms joined by ``+``, applied in that order.

    Args:
        spec: names in any case, with arguments by position or name.

    Raises:
        UserError: the text is no spec, a name is unknown (with the nearest names and the whole list),
            arguments do not fit, or two terms change the weights of the layer.
    """
    if not isinstance(spec, str) or not spec.strip():
        raise UserError(f"normalizer {spec!r}: expected a spec such as 'rn' or 'ln+rn'")
    terms = []
    for text in split_outside(spec, "+"):
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
        parse = _parse_arguments if row.recording is None else _parse_path
        terms.append(Term(row, parse(row, inside or "")))
    changing = [term.row.name for term in terms if term.row.reparametrize is not None]
    if len(changing) > 1:
        raise UserError(
            f"normalizer {spec!r}: expected at most one term that changes the weights of the layer, got "
            f"{' and '.join(changing)}"
        )
    return terms


def split_outside(spec: str, mark: str) -> Iterator[str]:
    """Split a text at each ``mark`` that is not inside parentheses."""
    start = depth = 0
    for i, character in enumerate(spec):
        depth += (character == "(") - (character == ")")
        if character == mark and depth == 0:
            yield spec[start:i]
            start = i + 1
    yield spec[start:]


def split_names(text: str | None) -> list[str]:
    """Split names at the commas outside of parentheses; each name is returned once."""
    text = text or ""
    return list(dict.fromkeys(name.strip() for name in split_outside(text, ",") if name.strip()))


def _parse_path(row: NormalizerSpec, text: str) -> dict[str, Any]:
    """Read the path of a recorded run, with or without quotes, and spell it as the run's folder."""
    assert row.recording is not None
    named = re.fullmatch(rf"(?:{row.recording}\s*=)?\s*(.*)", text.strip(), re.DOTALL)
    quoted = re.fullmatch(r"""(['"]?)\s*([^'"]*?)\s*\1""", named[1] if named else "")
    path = quoted[2] if quoted else ""
    if not path or not path.isprintable():
        raise UserError(
            f"normalizer {row.name}({text!r}): expected one argument, {row.recording}: the folder of a "
            f"recorded run, such as {row.name}(runs/rn/dqn/CartPole-v1_1)"
        )
    given = PurePath(path)
    # "/" on Windows too, so that a run has one spelling on every system
    return {row.recording: (given.parent if given.name == RECORDING else given).as_posix()}


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
        optional = "None" in str(inspect.signature(row.build).parameters[key].annotation)
        number = isinstance(value, int | float) and not isinstance(value, bool)
        if not number and not (value is None and optional):
            raise UserError(f"normalizer {row.name}: {key}={value!r}: expected a number")
    return dict(arguments)


def canonical_spec(spec: str) -> str:
    """Spell a spec in the one canonical way, without spaces; run folders are named by it.

    Raises:
        UserError: see :func:`parse_spec`.
    """
    terms = [term for term in parse_spec(spec) if not term.row.is_identity]
    terms.sort(key=lambda term: term.row.reparametrize is None)  # their position has no effect
    return "+".join(map(str, terms)) or "none"


def check_recordings(spec: str) -> None:
    """Check that every recording that a spec replays can be read, before a training starts.

    Raises:
        UserError: a recording is missing or broken; see also :func:`parse_spec`.
    """
    for term in parse_spec(spec):
        if term.row.recording is not None:
            read_recording(term.arguments[term.row.recording])


def make_normalizers(
    spec: str, num_features: int, layer: nn.Module | None = None, index: int = 0
) -> list[nn.Module]:
    """Build the modules of a spec, to put in this order between a layer and its activation.

    Args:
        spec: for example ``"none"`` (no module), ``"rn"``, ``"ln+rn"``, ``"ramp(5, 5000)"``.
        num_features: size of axis 1 of the activations.
        layer: the linear or convolutional layer before the modules. Only ``wn`` and ``spectral`` need
            it: they change its weights in place.
        index: number of that layer among the hidden layers of its network; ``yoked`` replays the gains
            of the recorded layer of this number.

    Returns:
        New modules with initial state; ``wn`` and ``spectral`` add none.

    Warns:
        UserWarning: a gain per layer or sample stands right before LayerNorm, RMSNorm or GroupNorm,
            which cancels it; or a recording is missing.

    Raises:
        UserError: see :func:`parse_spec`; or an argument is outside its range.

    Example:
        >>> [type(module).__name__ for module in make_normalizers("ln+rn", 64)]
        ['LayerNorm', 'RegularityNorm']
    """
    terms = [term for term in parse_spec(spec) if not term.row.is_identity]
    if num_features < 1:
        raise UserError(f"num_features={num_features}: expected at least 1")
    _warn_of_gains_that_cancel(terms)
    modules = []
    for term in terms:
        if term.row.factory is not None:
            place = {} if term.row.recording is None else {"index": index}
            modules.append(term.row.factory(num_features, **term.arguments, **place))
        elif layer is not None:
            make_picklable(term.row.build(layer, **term.arguments))
        else:
            raise UserError(
                f"normalizer {term.row.name}: it changes the weights of a layer, so it needs one; "
                "pass layer=, or use it through rn_rl.policies"
            )
    return modules


def _warn_of_gains_that_cancel(terms: list[Term]) -> None:
    rows = [term.row for term in terms if term.row.factory is not None]
    for before, after in pairwise(rows):
        if before.scalar and after.scale_invariant:
            warnings.warn(
                f"{before.name}+{after.name}: {after.build.__name__} is scale-invariant, so the gain "
                f"of {before.name} cancels; {after.name}+{before.name} keeps it",
                stacklevel=3,
            )
