"""Table of all normalizers, and the parser of specs such as ``"ln+rn(half_life=2000)"``."""

from __future__ import annotations

import ast
import inspect
import re
import warnings
from collections.abc import Iterator
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
from rn_rl.normalization.plugins import ImportedLater, find, installed, row_from_module
from rn_rl.normalization.projection import fix_gains, nap
from rn_rl.normalization.published import PublishedRegularityNorm
from rn_rl.normalization.recording import RECORDING, read_recording
from rn_rl.normalization.regularity import RegularityNorm
from rn_rl.normalization.rows import REGISTRY, NormalizerSpec
from rn_rl.normalization.running import RunningNorm
from rn_rl.normalization.saliency import SaliencyNorm
from rn_rl.normalization.spectral import spectral
from rn_rl.normalization.tanh import DynamicTanh

LIN = "Lin, Entropy 24(1):59, 2022"


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
    NormalizerSpec(
        "dyt", DynamicTanh, "Zhu et al. 2025", "dynamic tanh, without statistics", ("alpha",),
        stateful=False,
    ),
    NormalizerSpec(
        "rsnorm", RunningNorm, "Lee et al. 2024", "running mean and variance, no parameters", _HALF_LIFE
    ),
    NormalizerSpec(
        "nap", None, "Lyle et al. 2024", "fixes the norm of the layer's weights, as in ln+nap",
        stateful=False, reparametrize=nap, projects=True,
    ),
)  # fmt: skip

REGISTRY.update({row.name: row for row in _TABLE})


def available_normalizers() -> dict[str, str]:
    """Return the names of all normalizers, with a one-line summary each; also of installed packages."""
    names = [*REGISTRY, *(name for name in installed() if name not in REGISTRY)]
    found = {name: find(name) for name in names}
    return {name: row.summary for name, row in found.items() if row is not None}


@dataclass(frozen=True)
class Term:
    """One term of a spec: a row of the registry and its arguments."""

    row: NormalizerSpec
    arguments: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        """Canonical spelling: without defaults, 2000.0 as 2000, a path without quotes."""
        if self.row.recording is not None:
            return f"{self.row.name}({self.arguments[self.row.recording]})"
        if self.row.arguments is None:  # its module is not imported for a spelling
            inside = ",".join(f"{k}={_spelled(v)}" for k, v in sorted(self.arguments.items()))
            return f"{self.row.name}({inside})" if inside else self.row.name
        defaults = inspect.signature(self.row.build).parameters
        given = {k: v for k, v in self.arguments.items() if v != defaults[k].default}
        inside = ",".join(f"{k}={_spelled(v)}" for k, v in given.items())
        return f"{self.row.name}({inside})" if inside else self.row.name


def _spelled(value: Any) -> str:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return "".join(repr(value).split()) if isinstance(value, tuple) else repr(value)


_TERM = re.compile(
    r"\s*([A-Za-z_][\w.]*:[A-Za-z_][\w.]*|[A-Za-z][\w-]*)\s*(?:\((.*)\))?\s*", re.DOTALL
)


def parse_spec(spec: str) -> list[Term]:
    """Parse a spec such as ``"ln+rn(half_life=2000)"``: terms joined by ``+``, applied in that order.

    A name is one of this library in any case, one that was registered or is of an installed package, or
    ``module:Class``. The module is not imported here, but when the network is built.

    Args:
        spec: names, with arguments by position or name.

    Raises:
        UserError: the text is no spec, a name is unknown (with the nearest names and the whole list),
            arguments do not fit, two terms change the weights of the layer, or ``rsnorm`` occurs twice.
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
        row = row_from_module(name) if ":" in name else find(name.lower())
        if row is None:
            raise unknown("normalizer", name, REGISTRY)
        parse = _parse_arguments if row.recording is None else _parse_path
        terms.append(Term(row, parse(row, inside or "")))
    changing = [term.row.name for term in terms if term.row.reparametrize is not None]
    if len(changing) > 1:
        raise UserError(
            f"normalizer {spec!r}: expected at most one term that changes the weights of the layer, got "
            f"{' and '.join(changing)}"
        )
    if [term.row.name for term in terms].count("rsnorm") > 1:
        raise UserError(
            f"normalizer {spec!r}: rsnorm twice; expected it once, since the second finds mean 0 and "
            "variance 1"
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


def imported_names(spec: str) -> list[str]:
    """Return the terms ``module:Class`` of a text that may be a spec; building it imports the modules."""
    names = [part.partition("(")[0].strip() for part in split_outside(spec, "+")]
    return [name for name in names if ":" in name]


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
    known = row.arguments
    takes = f"takes ({', '.join(known)})" if known else "takes no arguments"
    takes = "takes arguments by name, as in module:Class(a=1)" if known is None else takes
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        if not isinstance(call, ast.Call) or not isinstance(call.func, ast.Name):
            raise SyntaxError
        positional = [ast.literal_eval(value) for value in call.args]
        named = {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
        if len(named) < len(call.keywords):
            raise TypeError("an argument is given twice")
        if known is None and positional:
            raise TypeError("their order is not known before the module is imported")
        parameters = [
            inspect.Parameter(a, inspect.Parameter.POSITIONAL_OR_KEYWORD)
            for a in (named if known is None else known)
        ]
        arguments = inspect.Signature(parameters).bind_partial(*positional, **named).arguments
    except (SyntaxError, ValueError, TypeError):
        raise UserError(f"normalizer {row.name}({text}): {row.name} {takes}") from None
    if row.origin is not None:  # a user's own takes any literal
        return dict(arguments)
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
    # what changes weights may stand anywhere: wn and spectral are spelled first, nap last
    terms.sort(key=lambda term: (term.row.projects, term.row.reparametrize is None))
    return "+".join(map(str, terms)) or "none"


def check_recordings(spec: str) -> None:
    """Check that every recording that a spec replays can be read, before a training starts.

    Raises:
        UserError: a recording is missing or broken; see also :func:`parse_spec`.
    """
    for term in parse_spec(spec):
        if term.row.recording is not None:
            read_recording(term.arguments[term.row.recording])


def check_importable(spec: str) -> None:
    """Import the modules that a spec names, before a training starts.

    Only for a spec that the user typed, or of a run that the user trusts.

    Raises:
        UserError: a module cannot be imported, or what it names is not a class of Modules; see also
            :func:`parse_spec`.
    """
    for term in parse_spec(spec):
        if isinstance(term.row.factory, ImportedLater):
            term.row.factory.resolve()


def origins(spec: str) -> dict[str, str]:
    """Return ``"module:Class"`` of the registered names in a spec, which another process imports."""
    rows = [term.row for term in parse_spec(spec)]
    return {r.name: r.origin for r in rows if r.origin is not None and r.arguments is not None}


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
            which cancels it; ``nap`` stands without one of these; or a recording is missing.

    Raises:
        UserError: see :func:`parse_spec`; or an argument is outside its range; or a user's own normalizer
            cannot be built.

    Example:
        >>> [type(module).__name__ for module in make_normalizers("ln+rn", 64)]
        ['LayerNorm', 'RegularityNorm']
    """
    terms = [term for term in parse_spec(spec) if not term.row.is_identity]
    if num_features < 1:
        raise UserError(f"num_features={num_features}: expected at least 1")
    _warn_of_gains_that_cancel(terms)
    projects = any(term.row.projects for term in terms)
    if projects and not any(term.row.scale_invariant for term in terms):
        warnings.warn(
            f"{spec}: nap fixes the norm of the weights, which is harmless only under a scale-invariant "
            "normalizer; expected one beside it, as in ln+nap",
            stacklevel=2,
        )
    modules: list[nn.Module] = []
    for term in terms:
        if term.row.factory is not None:
            place = {} if term.row.recording is None else {"index": index}
            modules.append(_built(term, num_features, **place))
        elif layer is not None:
            make_picklable(term.row.build(layer, **term.arguments))
        else:
            raise UserError(
                f"normalizer {term.row.name}: it changes the weights of a layer, so it needs one; "
                "pass layer=, or use it through rn_rl.policies"
            )
        if projects and term.row.scale_invariant:
            fix_gains(modules[-1])
    return modules


def _built(term: Term, num_features: int, **place: int) -> nn.Module:
    """Build the module of a term; errors of a user's own normalizer become one line."""
    assert term.row.factory is not None
    if term.row.origin is None:
        return term.row.factory(num_features, **term.arguments, **place)
    try:
        module = term.row.factory(num_features, **term.arguments)
    except UserError:
        raise
    except Exception as error:
        raise UserError(
            f"normalizer {str(term)!r}: cannot build it for {num_features} features "
            f"({type(error).__name__}: {error})"
        ) from error
    if not isinstance(module, nn.Module):
        raise UserError(
            f"normalizer {str(term)!r}: it made {type(module).__name__}; expected a torch.nn.Module"
        )
    return module


def _warn_of_gains_that_cancel(terms: list[Term]) -> None:
    rows = [term.row for term in terms if term.row.factory is not None]
    for before, after in pairwise(rows):
        if before.scalar and after.scale_invariant:
            warnings.warn(
                f"{before.name}+{after.name}: {after.build.__name__} is scale-invariant, so the gain "
                f"of {before.name} cancels; {after.name}+{before.name} keeps it",
                stacklevel=3,
            )
