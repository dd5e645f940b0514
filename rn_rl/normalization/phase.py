"""The phase rule: a normalizer's state changes between phases, never inside one.

A network is another function after each change of a normalizer's state. So a training forward only
*observes* (adds its batch to pending sums), and the state changes when the module goes from training to
evaluation mode: the *commit*. Stable-Baselines3 makes that switch once per phase, after the gradient
steps and before the next rollout.
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from numbers import Real
from typing import Any

import torch
from torch import Tensor, nn

from rn_rl.errors import UserError

Weights = Tensor | Callable[[], Tensor | None]


class PhaseNorm(nn.Module, ABC):
    """Base class of normalizers with state.

    ======================  ==============================================================
    ``forward``, training   observes (adds to ``pending_sums``), applies the frozen state
    ``forward``, eval       applies the frozen state, touches nothing
    ``train() -> eval()``   commits what is pending; nothing pending changes no bit
    ======================  ==============================================================

    A subclass implements :meth:`observe`, :meth:`next_state`, :meth:`apply_state` and :attr:`gain`.

    Args:
        state: initial ``running_state``.
        pending: initial ``pending_sums``, zeros.

    State:
        Two persistent buffers, so a save in the middle of a phase is exact: ``running_state``, which SB3
        copies to target networks because its name contains ``running_``, and ``pending_sums``, which
        it does not copy. Both keep their precision (float64; float32 where a device has no float64)
        under ``.half()`` and ``.to(dtype)``: in float32 a count stops growing at 1.7e7 elements.
        Parameters follow every cast.

    Raises:
        UserError: an input whose axis 1 is not ``num_features``, if that is set.
    """

    running_state: Tensor
    pending_sums: Tensor
    num_features: int | None = None
    depends_on_batch: bool = False
    """True if a sample's output or gradient depends on the other samples of the batch."""
    observes_part: bool = False
    """True if it subsamples large batches; see :func:`rn_rl.normalization.functional.observed`."""

    def __init__(self, state: Tensor, pending: Tensor) -> None:
        super().__init__()
        self.register_buffer("running_state", state)
        self.register_buffer("pending_sums", pending)
        self.frozen = False
        self.observing = True
        self.observation_weight: Weights | None = None
        self._state_before_commit = state.clone()
        self._initial_state = state.clone()
        self.register_load_state_dict_post_hook(end_loaded_phase)

    @abstractmethod
    def observe(self, x: Tensor, weight: Tensor | None) -> None:
        """Add a batch to ``pending_sums``, in place.

        Args:
            x: activations, ``(batch, num_features, ...)``.
            weight: ``(batch,)``, weights of the samples; None: each counts 1.
        """

    @abstractmethod
    def next_state(self) -> Tensor:
        """Compute the state after a commit of ``pending_sums``; pure."""

    @abstractmethod
    def apply_state(self, x: Tensor) -> Tensor:
        """Compute the output for x under the frozen state; pure."""

    @property
    def commits_like(self) -> Any:
        """Key of normalizers that can commit together, their states concatenated along columns.

        Equal keys mean equal commits, column by column; None: commits alone.
        """
        return None

    @property
    @abstractmethod
    def gain(self) -> Tensor:
        """The factor that the frozen state applies, ``(F,)``."""

    def forward(self, x: Tensor) -> Tensor:
        if self.num_features is not None and (x.dim() < 2 or x.size(1) != self.num_features):
            raise UserError(
                f"input of shape {tuple(x.shape)}: expected (batch, {self.num_features}, ...); build "
                "the normalizer with num_features equal to the size of axis 1"
            )
        if self.training and self.observing and not self.frozen:
            weights = self.weights()
            activations = self.num_features is not None  # else x is the weight of a layer
            if activations and weights is not None and weights.shape != x.shape[:1]:
                raise UserError(
                    f"observation weights of shape {tuple(weights.shape)}: expected ({x.size(0)},), one "
                    "for each sample of the batch"
                )
            self.observe(x, weights)
        return self.apply_state(x)

    def weights(self) -> Tensor | None:
        """Weights of the samples of this forward, ``(batch,)``; None if each counts 1."""
        given = self.observation_weight
        return given if given is None or isinstance(given, Tensor) else given()

    def real(self) -> Tensor | None:
        """Mask ``(batch,)``, False for samples of weight 0 such as padding; None without weights."""
        weights = self.weights()
        return None if weights is None else weights > 0

    @torch.no_grad()
    def commit(self) -> None:
        """End the phase: update the state by the pending sums, then clear them, in place.

        With nothing pending, no bit of the state changes. A frozen normalizer does nothing.
        """
        if self.frozen:
            return
        self._state_before_commit = self.running_state.clone()
        self.running_state.copy_(self.next_state())
        self.pending_sums.zero_()

    @torch.no_grad()
    def adopt(self, state: Tensor) -> None:
        """Take over the state of another normalizer, in place, as a target network does."""
        self.running_state.copy_(state)

    def train(self, mode: bool = True) -> PhaseNorm:
        if mode == self.training:
            return self  # SB3 calls this in every predict; setting the attribute takes time
        if not mode:
            self.commit()
        super().train(mode)
        return self

    def freeze(self, frozen: bool = True) -> PhaseNorm:
        """Stop observing and committing, as for fine-tuning; ``freeze(False)`` resumes.

        A ``state_dict`` does not hold this, so neither does a saved agent: call it again after a load.
        """
        self.frozen = frozen
        return self

    @torch.no_grad()
    def reset_running_state(self) -> None:
        """Set the state to its initial value and clear the pending sums, in place."""
        self.running_state.copy_(self._initial_state)
        self.pending_sums.zero_()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PhaseNorm:
        """Move buffers to the device of ``.to``, ``.cuda``, ..., without changing their precision."""
        buffers, self._buffers = self._buffers, {}
        super()._apply(fn, recurse)
        self._buffers = buffers
        for name, buffer in self._buffers.items():
            if buffer is None:
                continue
            probe = fn(torch.empty(0, dtype=torch.float32, device=buffer.device))
            if probe.device.type == "mps":
                buffer = buffer.float()  # the device has no float64
            moved = fn(buffer)
            keep = moved if moved.dtype == buffer.dtype else buffer.to(moved.device)
            self._buffers[name] = keep
        self._state_before_commit = self._state_before_commit.to(self.running_state)
        self._initial_state = self._initial_state.to(self.running_state)
        return self


def end_loaded_phase(norm: nn.Module, _: Any) -> None:
    """Commit pending sums that were loaded in evaluation mode, which has none: nothing else would.

    So a copy in evaluation mode that takes over the ``state_dict`` of a network in the middle of a phase
    computes what that network will compute after ``eval()``, not what it computes now.
    """
    assert isinstance(norm, PhaseNorm)
    if not norm.training and norm.pending_sums.any():
        norm.commit()


LEAST_HALF_LIFE = 0.01
"""Smallest half-life in phases: below it, the factor of a phase is too close to 0 for its logarithm."""


def decay_per_phase(half_life: float | None) -> float:
    """Factor on counts and code mass at each commit: ``2 ** (-1 / half_life)``; 1 for None.

    Args:
        half_life: number of phases after which an observation counts half; None never forgets.

    Raises:
        UserError: the half-life is no number, below :data:`LEAST_HALF_LIFE`, or infinite.
    """
    if half_life is None:
        return 1.0
    if not isinstance(half_life, Real):
        raise UserError(f"half_life={half_life!r}: expected a number of phases above 0, or None")
    if half_life == math.inf:
        raise UserError(
            "half_life=inf: expected a finite number of phases, or None to never forget"
        )
    if half_life > 0 and half_life < LEAST_HALF_LIFE:
        raise UserError(
            f"half_life={half_life!r}: expected at least {LEAST_HALF_LIFE} phases, or None"
        )
    if not half_life > 0:
        raise UserError(f"half_life={half_life!r}: expected a number of phases above 0, or None")
    return float(2.0 ** (-1.0 / half_life))


def phase_norms(module: nn.Module) -> dict[str, PhaseNorm]:
    """Find every :class:`PhaseNorm` inside a module, by dotted name; a shared one appears once."""
    return {name: m for name, m in module.named_modules() if isinstance(m, PhaseNorm)}


@contextlib.contextmanager
def set_within(objects: Iterable[Any], attribute: str, value: Any) -> Iterator[None]:
    """Set an attribute of several objects inside this context; restore their own values after it."""
    before = [(each, getattr(each, attribute)) for each in objects]
    for each, _ in before:
        setattr(each, attribute, value)
    try:
        yield
    finally:
        for each, own in before:
            setattr(each, attribute, own)


@contextlib.contextmanager
def observation_weights(module: nn.Module, weights: Weights) -> Iterator[None]:
    """Weight the samples that training forwards inside this context observe.

    The statistics follow the weighted samples, for example the newest of a replay batch; the output and
    its gradient still use the whole batch. Where a gain or a gradient depends on the batch (``rn-paper``,
    ``rln-paper``, ``brn``), samples of weight 0 are left out of it and all others count 1.

    Args:
        module: any module that contains normalizers.
        weights: ``(batch,)``, at least 0; or a function that returns them and is called in every
            forward, for a loop that draws a new batch for each gradient step.

    Raises:
        UserError: a weight is negative or not finite, or there is not one for each sample.
    """
    if not callable(weights):
        weights = torch.as_tensor(weights)
        if not (torch.isfinite(weights).all() and (weights >= 0).all()):
            raise UserError(
                f"observation weights from {weights.min():g} to {weights.max():g}: expected finite "
                "numbers of at least 0"
            )
    with weighted(module, weights):
        yield


def weighted(module: nn.Module, weights: Weights) -> contextlib.AbstractContextManager[None]:
    """Return :func:`observation_weights` without its checks, which ``torch.func.vmap`` cannot follow."""
    return set_within(phase_norms(module).values(), "observation_weight", weights)


@contextlib.contextmanager
def unobserved(module: nn.Module) -> Iterator[None]:
    """Observe nothing in training forwards inside this context, as for values that train nothing."""
    with set_within(phase_norms(module).values(), "observing", False):
        yield


@contextlib.contextmanager
def state_before_commit(module: nn.Module) -> Iterator[None]:
    """Apply the state before the last commit inside this context; restore the current one after it.

    Comparing the policy inside and outside measures a commit as a step of the policy.
    """
    norms = list(phase_norms(module).values())
    now = [norm.running_state.clone() for norm in norms]
    with torch.no_grad():
        for norm in norms:
            norm.running_state.copy_(norm._state_before_commit)
    try:
        yield
    finally:
        with torch.no_grad():
            for norm, state in zip(norms, now, strict=True):
                norm.running_state.copy_(state)
