"""Normalizers that users add: registered, found by ``module:Class``, or of an installed package.

Three ways lead to a row of the table:

- :func:`register` in Python;
- a spec ``mymodule:MyNorm(a=1)``, whose module is imported when the network is built, not when the spec
  is read: reading the specs of a stranger's files then runs nothing;
- the entry-point group :data:`GROUP` of an installed package.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from torch import nn

from rn_rl.errors import UserError
from rn_rl.normalization.phase import PhaseNorm
from rn_rl.normalization.rows import REGISTRY, NormalizerSpec
from rn_rl.own import import_own

GROUP = "rn_rl.normalizers"
"""Entry-point group in which packages name their normalizers."""

NAME = re.compile(r"[a-z][a-z0-9_-]*")
"""Names that can be registered."""

Factory = Callable[..., nn.Module]


def register(
    name: str,
    factory: Factory,
    *,
    summary: str = "",
    source: str = "registered",
    scalar: bool = False,
    scale_invariant: bool = False,
    phase_rule: bool = True,
    origin: str | None = None,
) -> None:
    """Add a normalizer under a name that specs, policies, seed batches and comparisons then know.

    Args:
        name: lower-case letters, digits, ``-`` and ``_``.
        factory: class of a ``torch.nn.Module``, or a function that returns one, called with the number of
            features. Its further arguments can be given in a spec, as in ``"mine(limit=2)"``: numbers,
            texts, booleans, None, and tuples of those. State that changes while it learns belongs in a
            :class:`~rn_rl.normalization.PhaseNorm`.
        summary: description in one line for ``rn-rl norms``; default: the first line of the docstring.
        source: where the method comes from.
        scalar: it multiplies each layer or sample by one positive number.
        scale_invariant: a positive factor on its input does not change its output.
        phase_rule: its state, if any, changes only at commits.
        origin: ``"module:Class"`` by which another process finds the factory; default: its own module and
            name.

    Raises:
        UserError: the name cannot be used or belongs to another normalizer, or the class is not a Module.

    Example:
        >>> class Halved(nn.Module):
        ...     '''Halve activations.'''
        ...     def __init__(self, num_features): super().__init__()
        ...     def forward(self, x): return x / 2
        >>> register("halved", Halved)
        >>> REGISTRY["halved"].summary
        'Halve activations'
    """
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(
            f"register({name!r}): expected a name of lower-case letters, digits, '-' and '_' that begins "
            "with a letter"
        )
    row = row_of(name, factory, origin)
    if name in REGISTRY:
        known = REGISTRY[name]
        # functions without a name of their own have equal origins
        nameless = known.factory is not factory and "<" in (row.origin or "")
        if known.origin is None or known.origin != row.origin or nameless:
            raise UserError(
                f"register({name!r}): there is a normalizer of this name ({known.summary}); expected "
                "another name"
            )
    REGISTRY[name] = replace(
        row,
        summary=summary or row.summary,
        source=source,
        scalar=scalar,
        scale_invariant=scale_invariant,
        phase_rule=phase_rule,
    )


def row_of(name: str, factory: Factory, origin: str | None = None) -> NormalizerSpec:
    """Describe a factory as a row of the table.

    Raises:
        UserError: it is no class of a Module and no function, or cannot be called with a width.
    """
    if isinstance(factory, type) and not issubclass(factory, nn.Module):
        raise UserError(
            f"normalizer {name!r}: {factory.__name__} is not a torch.nn.Module; expected a class of "
            "Modules that is called with the number of features"
        )
    if not callable(factory):
        raise UserError(
            f"normalizer {name!r}: {str(factory)[:80]!r} is not a class; expected a class of "
            "torch.nn.Module that is called with the number of features"
        )
    parameters = [
        p
        for p in inspect.signature(factory).parameters.values()
        if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)
    ]
    missing = [p.name for p in parameters[1:] if p.default is p.empty]
    if not parameters or missing:
        wanted = ", ".join(missing) or "no argument"
        raise UserError(
            f"normalizer {name!r}: it takes {wanted} beside the number of features; expected "
            "a class called with the number of features, whose other arguments have defaults"
        )
    lines = (inspect.getdoc(factory) or "").strip().splitlines()
    inherited = isinstance(factory, type) and factory.__doc__ is None
    summary = "added by the user" if inherited or not lines else lines[0].rstrip(".")
    stateful = isinstance(factory, type) and issubclass(factory, PhaseNorm)
    # an object without a name, such as a partial, cannot be imported
    qualified = getattr(factory, "__qualname__", f"<{type(factory).__qualname__}>")
    own = f"{getattr(factory, '__module__', '__main__')}:{qualified}"
    return NormalizerSpec(
        name,
        factory,
        source="registered",
        summary=summary,
        arguments=tuple(p.name for p in parameters[1:]),
        stateful=stateful,
        origin=origin or own,
    )


def is_importable(origin: str) -> bool:
    """Return True if another process can find ``"module:Class"``, so not in a script or a function."""
    module, _, name = origin.partition(":")
    return module != "__main__" and "<" not in name


def import_factory(name: str, origin: str) -> Factory:
    """Import the factory ``"module:Class"``.

    Commands also look for modules in the working directory, as ``python -m`` does.

    Args:
        name: how the user wrote it, for the message of an error.
        origin: the module and the name in it.

    Raises:
        UserError: the module cannot be imported, or has no such name.
    """
    module, _, path = origin.partition(":")
    found: Any = import_own("normalizer", name, module)
    for part in path.split("."):
        if not hasattr(found, part):
            raise UserError(
                f"normalizer {name!r}: {module!r} has no {path!r}; expected module:Class"
            )
        found = getattr(found, part)
    factory: Factory = found
    return factory


class ImportedLater:
    """Factory ``"module:Class"`` that is imported at its first call.

    Args:
        origin: the module and the name in it.
    """

    def __init__(self, origin: str) -> None:
        self.origin = origin

    def resolve(self) -> Factory:
        """Import the factory, and check that it can be used.

        Raises:
            UserError: see :func:`import_factory` and :func:`row_of`.
        """
        factory = import_factory(self.origin, self.origin)
        row_of(self.origin, factory)
        return factory

    def __call__(self, num_features: int, **arguments: Any) -> nn.Module:
        return self.resolve()(num_features, **arguments)


def row_from_module(origin: str) -> NormalizerSpec:
    """Return the row of a spec ``module:Class``, without importing the module."""
    return NormalizerSpec(
        origin,
        ImportedLater(origin),
        source="registered",
        summary="from a module of the user",
        arguments=None,
        origin=origin,
    )


def installed() -> dict[str, EntryPoint]:
    """Return the normalizers of installed packages by name; nothing is imported."""
    return {point.name: point for point in entry_points(group=GROUP)}


def known_names() -> list[str]:
    """Return the names of the table and those of installed packages; nothing is imported.

    A spec cannot name an entry point with capitals or other letters.
    """
    others = (name for name in installed() if name not in REGISTRY and NAME.fullmatch(name))
    return [*REGISTRY, *others]


def find(name: str) -> NormalizerSpec | None:
    """Return the row of a name, from the table or of an installed package; None for an unknown name.

    Raises:
        UserError: the package's normalizer cannot be used.
    """
    if name not in REGISTRY:
        point = installed().get(name)
        if point is None:
            return None
        origin = point.value.partition(" ")[0]
        package = point.dist.name if point.dist else "installed"
        _register_imported(name, origin, source=package)
    return REGISTRY[name]


def adopt(origins: dict[str, str]) -> None:
    """Register the normalizers that a trusted run names, unless they are known already.

    Args:
        origins: ``"module:Class"`` by name, as ``run.yaml`` records them.

    Raises:
        UserError: one of them cannot be imported or used.
    """
    for name, origin in origins.items():
        if find(name) is None:
            _register_imported(name, origin)


def _register_imported(name: str, origin: str, source: str = "registered") -> None:
    """Import a factory and register it, unless its module registers the name itself.

    What the module says of it, such as ``scale_invariant=True``, is then kept.
    """
    factory = import_factory(name, origin)
    if name not in REGISTRY:
        register(name, factory, source=source, origin=origin)


class WithRegistered:
    """A function that can be sent to another process, where it knows the normalizers registered here.

    Those of a script or of a function are left out, since no other process can import them.

    Args:
        function: what is called there, with the same arguments.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function = function
        self.rows = [
            replace(row, factory=None)  # imported there, so that it need not be picklable
            for row in REGISTRY.values()
            if row.origin is not None and is_importable(row.origin)
        ]

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Register the normalizers that this process lacks, and call the function.

        Raises:
            UserError: one of them cannot be imported.
        """
        for row in self.rows:
            if row.name not in REGISTRY:
                assert row.origin is not None
                factory = import_factory(row.name, row.origin)
                REGISTRY[row.name] = replace(row, factory=factory)
        return self.function(*args, **kwargs)
