"""Interface of a task: what a task gives, so that ``rn-rl task`` can do the rest.

A task is one class in one module, and one row in :data:`rn_rl.tasks.registry.TASKS`. It gives

1. its ``arms`` (normalizer specs), its ``settings`` (texts such as ``"n=9"``) and its ``metrics``;
2. :meth:`Task.train_one`, one run: a seed of an arm on a setting;
3. the published numbers, figures, and one sentence of finding.

Rules for :meth:`Task.train_one`:

- Same seed, same bits, in any process: draw everything from :mod:`rn_rl.tasks.seeding`, whose generators
  depend on the seed and a purpose, not on the arm. So all arms of a seed share data, order of batches and
  initial weights. Build the layers right after ``seed_torch(seed)``, then the normalizers.
- A phase is one epoch of ``train()``, ended by ``eval()``; with ``commit_every=K`` wrap the training in
  :func:`~rn_rl.normalization.commit_every`. ``phases(net, commit_every)`` of this module does both.
- Evaluate in ``eval()`` under ``no_grad``. Return finite numbers where a run diverged too, or NaN.
- ``toy=True``: a few steps on little data, so that a whole toy command is mostly imports.
- No printing, no files, no downloads. Raise :class:`~rn_rl.errors.UserError` for what the user can fix.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from torch import nn

from rn_rl.errors import UserError, unknown
from rn_rl.normalization import canonical_spec, commit_every, parse_spec, prior_terms

if TYPE_CHECKING:
    from rn_rl.tasks.results import Results

EVERY = "@"
"""Mark before the optimizer steps of a phase in the name of an arm: ``rn@10``."""


@dataclass(frozen=True)
class Metric:
    """One number of a run: a column of the table and of the CSV file."""

    key: str
    """Its key in :attr:`Result.metrics`."""
    title: str
    """Head of its column."""
    unit: str = ""
    """Unit, such as ``%`` or ``nats``."""
    lower_is_better: bool = True
    """Direction of improvement."""


@dataclass
class Result:
    """Outcome of one run. Everything in it is plain: numbers, texts, lists and mappings."""

    metrics: dict[str, float] = field(default_factory=dict)
    """The numbers of :attr:`Task.metrics` by key, and others, which are in the CSV file only."""
    curves: dict[str, Any] = field(default_factory=dict)
    """Lists, nested where need be (of equal shape for all seeds): error by epoch, recall by class, ..."""


class Task(ABC):
    """Supervised task: arms, settings, one run, published numbers, figures, finding."""

    name: ClassVar[str]
    """Name on the command line and of the files."""
    title: ClassVar[str]
    """Heading of the page: one line."""
    arms: ClassVar[tuple[str, ...]]
    """Arms that run by default: normalizer specs, ``SPEC@K`` (commit every K steps), ``extra_arms``."""
    settings: ClassVar[tuple[str, ...]]
    """Settings that run by default."""
    metrics: ClassVar[tuple[Metric, ...]]
    """Columns of the table; the first one decides: its paired differences are printed."""
    known_settings: ClassVar[tuple[str, ...]] = ()
    """All settings that ``--settings`` takes, if there are more than those by default."""
    extra_arms: ClassVar[Mapping[str, str]] = {}
    """Arms that are no normalizer spec, with their meaning in one line."""
    toy_arms: ClassVar[tuple[str, ...]] = ("none", "ln", "rn", "logt")
    """Arms of ``--toy``."""
    toy_settings: ClassVar[tuple[str, ...]] = ()
    """Settings of ``--toy``, by default those of :attr:`settings`."""
    published_on: ClassVar[str] = ""
    """Data of the published values, which their rows name: those of ``--data`` are others."""
    class_prior: ClassVar[bool] = False
    """True if training gives the share of each sample's class, as the prior of ``sn``."""
    commit_every: ClassVar[int | None] = None
    """Optimizer steps of a phase by default; None: a phase is one epoch."""

    @abstractmethod
    def protocol(self, data: Path | None, toy: bool) -> str:
        """Describe network, data and training in one sentence; runs of another protocol are not reused.

        It is called before any run, so it reads the data.

        Args:
            data: value of ``--data``.
            toy: value of ``--toy``.

        Raises:
            UserError: the data cannot be read, or an extra is not installed.
        """

    @abstractmethod
    def train_one(
        self,
        arm: str,
        setting: str,
        seed: int,
        *,
        data: Path | None,
        toy: bool,
        commit_every: int | None,
    ) -> Result:
        """Train and evaluate one run; see the rules at the top of this module.

        Args:
            arm: normalizer spec in canonical spelling, or a name of :attr:`extra_arms`; without ``@K``.
            setting: one of :attr:`settings` or :attr:`known_settings`.
            seed: seed of data, order and weights.
            data: value of ``--data``; None: the data that ship in packages.
            toy: a few steps on little data.
            commit_every: optimizer steps of a phase; None: one epoch.
        """

    def recounted(self, result: Result) -> Result:
        """Return the outcome of a stored run as this version counts it, where an earlier one erred."""
        return result

    def published(self, setting: str) -> Mapping[str, Mapping[str, str]]:
        """Return the paper's values by arm and key of the metric, as text such as ``"90.11 ± 0.24"``."""
        return {}

    def figures(self, results: Results) -> dict[str, str]:
        """Draw the figures: SVG texts by the suffix of their file name (``""`` for the main one).

        Use :mod:`rn_rl.analysis.drawing` (``styled``, ``picture``, ``Palette``, ``legend``, ``svg``,
        ``by_itself``); some arms, settings or seeds may be missing.
        """
        return {}

    @abstractmethod
    def finding(self, results: Results) -> str:
        """Say in one sentence what these runs show, with the paired difference and its interval.

        A difference whose interval contains 0 "cannot be told".
        """

    def check_setting(self, setting: str) -> str:
        """Return a setting as it is spelled in files.

        Raises:
            UserError: the setting is unknown.
        """
        known = self.known_settings or self.settings
        if setting not in known:
            raise unknown("setting", setting, known)
        return setting

    def check_arm(self, name: str) -> str:
        """Return the name of an arm in canonical spelling.

        Raises:
            UserError: it is neither a normalizer spec nor one of :attr:`extra_arms`, its ``@K`` is no
                number of steps, or its ``sn`` has a prior that the task does not give.
        """
        text, mark, steps = name.rpartition(EVERY)
        text = text if mark else name
        if mark and not (steps.isdecimal() and int(steps) > 0):
            raise UserError(
                f"arm {name!r}: expected a number of optimizer steps of at least 1 after "
                f"{EVERY}, such as rn{EVERY}10"
            )
        known = text in self.extra_arms
        spelled = text if known else canonical_spec(text)
        if not known and prior_terms(text):
            instead = "sn" if self.class_prior else "rn"
            raise UserError(
                f"arm {name!r}: prior= is of an agent's transitions, and a task has none; expected "
                f"{instead}"
            )
        if not (known or self.class_prior) and any(t.row.name == "sn" for t in parse_spec(text)):
            raise UserError(
                f"arm {name!r}: sn needs a prior, which task {self.name} does not give, so it would "
                "be rn; expected rn, or task imbalanced"
            )
        return f"{spelled}{EVERY}{int(steps)}" if mark else spelled


def split_arm(name: str) -> tuple[str, int | None]:
    """Split the name of an arm into its spec and the optimizer steps of a phase; None: the default."""
    spec, mark, steps = name.rpartition(EVERY)
    return (spec, int(steps)) if mark else (name, None)


@contextlib.contextmanager
def phases(net: nn.Module, steps: int | None) -> Iterator[None]:
    """Commit the normalizers of a network every ``steps`` optimizer steps inside this context.

    Args:
        net: the network.
        steps: optimizer steps of a phase. None: only ``eval()`` commits, at the end of each epoch.
    """
    if steps is None:
        yield
    else:
        with commit_every(net, steps):
            yield
