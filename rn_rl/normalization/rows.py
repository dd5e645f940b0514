"""Rows of the table of normalizers, and the table itself, which ``registry.py`` and users fill."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import nn


@dataclass(frozen=True)
class NormalizerSpec:
    """One row of the table: the name and properties of a normalizer.

    Attributes:
        name: name in specs, lower case.
        factory: builds the module from the number of features and ``arguments``. None for the
            identity, which adds no module, and for rows with ``reparametrize``.
        source: paper.
        summary: description in one line.
        arguments: keyword arguments that a spec may give, in positional order; None if they are not
            known before its module is imported.
        stateful: whether it keeps running state.
        phase_rule: whether its state changes only between phases.
        scalar: whether it multiplies each layer or sample by one positive number.
        scale_invariant: whether such a factor on its input does not change its output.
        recording: name of the argument that is the path of a recorded run, if there is one. It is
            then required, and the factory also takes ``index``, see
            :func:`~rn_rl.normalization.make_normalizers`.
        reparametrize: changes the weights of a given layer in place (weight and spectral
            normalization) instead of adding a module.
        projects: whether ``reparametrize`` fixes the norm of the weights, and with it that of the
            learned gains of the other terms; see :mod:`rn_rl.normalization.projection`.
        origin: ``"module:Class"`` of a normalizer that a user added.
        choices: values of the arguments that are words, as in ``sn(prior=td)``, or true and false; all
            others are numbers.
    """

    name: str
    factory: Callable[..., nn.Module] | None
    source: str
    summary: str
    arguments: tuple[str, ...] | None = ()
    stateful: bool = True
    phase_rule: bool = True
    scalar: bool = False
    scale_invariant: bool = False
    recording: str | None = None
    reparametrize: Callable[..., nn.Module] | None = None
    projects: bool = False
    origin: str | None = None
    choices: Mapping[str, tuple[Any, ...]] = field(default_factory=dict, hash=False)

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


REGISTRY: dict[str, NormalizerSpec] = {}
"""All normalizers by name: those of this library first, then those that users added."""
