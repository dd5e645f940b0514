"""Table of all normalizers, and how their modules are built."""

from __future__ import annotations

import warnings
from functools import partial
from itertools import pairwise

from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from rn_rl.errors import UserError, first_line
from rn_rl.normalization.adaptive import AdaptiveNorm
from rn_rl.normalization.batch import BatchNorm, BatchRenorm
from rn_rl.normalization.controls import gain, logt, ramp, yoked
from rn_rl.normalization.established import GroupNorm, LayerNorm, RMSNorm
from rn_rl.normalization.homeostatic import HomeostaticNorm
from rn_rl.normalization.parametrized import make_picklable
from rn_rl.normalization.plugins import find, known_names
from rn_rl.normalization.projection import fix_gains, nap
from rn_rl.normalization.published import PublishedRegularityNorm
from rn_rl.normalization.regularity import RegularityNorm
from rn_rl.normalization.rows import REGISTRY, NormalizerSpec
from rn_rl.normalization.running import RunningNorm
from rn_rl.normalization.saliency import NAMED_PRIORS, SaliencyNorm
from rn_rl.normalization.specs import Term, parse_spec
from rn_rl.normalization.spectral import spectral
from rn_rl.normalization.tanh import DynamicTanh

LIN = "Lin, Entropy 24(1):59, 2022"


_rln = partial(RegularityNorm, axis="neuron")
_rsn = partial(RegularityNorm, axis="sample")
_rln_paper = partial(PublishedRegularityNorm, axis="neuron")
_HALF_LIFE = ("half_life",)
_PRIOR = {"prior": NAMED_PRIORS, "shuffled": (False, True)}

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
        "sn", SaliencyNorm, LIN, "saliency: rn with a data prior", (*_HALF_LIFE, *_PRIOR),
        scalar=True, choices=_PRIOR,
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


def available_rows() -> list[NormalizerSpec]:
    """Return the rows of the table, and those of installed packages, whose modules are imported.

    Warns:
        UserWarning: a package cannot be used; its normalizer is left out.
    """
    found = []
    for name in known_names():
        try:
            row = find(name)
        except Exception as error:  # of a package's code
            warnings.warn(f"normalizer {name!r} is left out: {first_line(error)}", stacklevel=2)
            continue
        assert row is not None
        found.append(row)
    return found


def available_normalizers() -> dict[str, str]:
    """Return the names of all normalizers, with a one-line summary each; also of installed packages.

    Warns:
        UserWarning: see :func:`available_rows`.
    """
    return {row.name: row.summary for row in available_rows()}


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
            stacklevel=1,  # one place for all layers of a network, so that Python shows it once
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
            f"({type(error).__name__}: {first_line(error)})"
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
                stacklevel=1,  # as above
            )
