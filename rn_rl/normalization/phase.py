"""The phase rule: a normalizer's state changes between phases, never inside one.

A normalizer whose state moves is a different function after every move. So training forwards only
*observe*, and the state moves when the module goes from training to evaluation mode, which
Stable-Baselines3 does once per phase: after the gradient steps, before the next rollout.
"""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from rn_rl.errors import UserError

Weights = Tensor | Callable[[], Tensor | None]


class PhaseNorm(nn.Module, ABC):
    """Base of every normalizer that keeps state.

    ======================  ==============================================================
    ``forward``, training   observes (adds to ``pending_sums``), applies the frozen state
    ``forward``, eval       applies the frozen state, touches nothing
    ``train() -> eval()``   commits what is pending; nothing pending changes no bit
    ======================  ==============================================================

    Buffers: ``running_state``, which SB3 copies to target networks because of its name, and
    ``pending_sums``, which it does not; both persistent, so a save in the middle of a phase is exact.
    Both keep their precision (float64, float32 where a device has no float64) under ``.half()`` and
    ``.to(dtype)``: in float32 a count stops growing at 1.7e7 elements. Parameters, if there are any,
    follow every cast.

    Raises:
        UserError: an input whose axis 1 is not ``num_features``, where that is set.
    """

    running_state: Tensor
    pending_sums: Tensor
    num_features: int | None = None
    depends_on_batch: bool = False
    """Whether what it makes of a sample, or the gradient, depends on the others of the batch."""
    observes_part: bool = False
    """Whether it looks at a part of a large batch: :func:`rn_rl.normalization.functional.observed`."""

    def __init__(self, state: Tensor, pending: Tensor) -> None:
        super().__init__()
        self.register_buffer("running_state", state)
        self.register_buffer("pending_sums", pending)
        self.frozen = False
        self.observing = True
        self.observation_weight: Weights | None = None
        self._state_before_commit = state.clone()
        self._initial_state = state.clone()

    @abstractmethod
    def observe(self, x: Tensor, weight: Tensor | None) -> None:
        """Add this batch, whose samples have weights ``(batch,)``, to ``pending_sums``, in place."""

    @abstractmethod
    def next_state(self) -> Tensor:
        """The state that a commit now would give; pure."""

    @abstractmethod
    def apply_state(self, x: Tensor) -> Tensor:
        """The output for x under the frozen state; pure."""

    @property
    def commits_like(self) -> Any:
        """Normalizers for which this is equal commit column by column, in the same way.

        So they can commit as one, with their columns side by side; None: this one by itself.
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
            self.observe(x, self.weights())
        return self.apply_state(x)

    def weights(self) -> Tensor | None:
        """Of the samples that are observed now, ``(batch,)``; None where each counts 1."""
        given = self.observation_weight
        return given if given is None or isinstance(given, Tensor) else given()

    def real(self) -> Tensor | None:
        """``(batch,)``, False for samples of no weight, as padding is; None where all are real."""
        weights = self.weights()
        return None if weights is None else weights > 0

    @torch.no_grad()
    def commit(self) -> None:
        """End the phase: move the state by what is pending, then clear that. In place."""
        if self.frozen:
            return
        self._state_before_commit = self.running_state.clone()
        self.running_state.copy_(self.next_state())
        self.pending_sums.zero_()

    def train(self, mode: bool = True) -> PhaseNorm:
        if mode == self.training:
            return self  # every predict of SB3 comes by here: setting the attribute is not free
        if not mode:
            self.commit()
        super().train(mode)
        return self

    def freeze(self, frozen: bool = True) -> PhaseNorm:
        """Stop observing and committing (fine-tuning, target networks); ``freeze(False)`` resumes."""
        self.frozen = frozen
        return self

    @torch.no_grad()
    def reset_running_state(self) -> None:
        """Forget the history and what is pending, in place."""
        self.running_state.copy_(self._initial_state)
        self.pending_sums.zero_()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PhaseNorm:
        """Buffers follow the device of ``.to``, ``.cuda`` and the like, but not their precision."""
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


def decay_per_phase(half_life: float | None) -> float:
    """What a history is multiplied by at a commit: ``2 ** (-1 / half_life)``; 1 for None.

    Raises:
        UserError: a half-life that is not above 0.
    """
    if half_life is None:
        return 1.0
    if not half_life > 0:
        raise UserError(f"half_life={half_life!r}: expected a number of phases above 0, or None")
    return float(2.0 ** (-1.0 / half_life))


def phase_norms(module: nn.Module) -> dict[str, PhaseNorm]:
    """Every :class:`PhaseNorm` inside a module by its dotted name, each once."""
    return {name: m for name, m in module.named_modules() if isinstance(m, PhaseNorm)}


@contextlib.contextmanager
def set_within(modules: Iterable[nn.Module], attribute: str, value: Any) -> Iterator[None]:
    """Inside this context the modules have this value of an attribute, then again their own."""
    before = [(module, getattr(module, attribute)) for module in modules]
    for module, _ in before:
        setattr(module, attribute, value)
    try:
        yield
    finally:
        for module, own in before:
            setattr(module, attribute, own)


@contextlib.contextmanager
def observation_weights(module: nn.Module, weights: Weights) -> Iterator[None]:
    """Weigh the samples that training forwards inside this context observe.

    Statistics then follow the weighted samples (say, the newest in a replay batch), while the output
    and its gradient use the whole batch as before. Where a gain or a gradient depends on the batch
    (``commit="forward"``, ``brn``), samples of weight 0 are left out of it, and others count alike.

    Args:
        module: anything that contains normalizers.
        weights: ``(batch,)``, at least 0; or a function that gives them, asked at every forward, for
            a loop that draws a new batch for each gradient step.
    """
    with set_within(phase_norms(module).values(), "observation_weight", weights):
        yield


@contextlib.contextmanager
def unobserved(module: nn.Module) -> Iterator[None]:
    """Training forwards inside this context observe nothing: they ask, and do not learn."""
    with set_within(phase_norms(module).values(), "observing", False):
        yield


@contextlib.contextmanager
def state_before_commit(module: nn.Module) -> Iterator[None]:
    """Inside this context every normalizer applies the state it had before its last commit.

    This is how the size of a commit, as a step of the policy, is measured.
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
