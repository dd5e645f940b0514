"""Regularity normalization: RN, RLN and RSN in one module."""

from __future__ import annotations

import functools
from typing import Any, Literal

import torch
from torch import Tensor

from rn_rl.errors import UserError
from rn_rl.normalization import dispatch, functional, sample_gain
from rn_rl.normalization.phase import PhaseNorm, decay_per_phase

Axis = Literal["layer", "neuron", "sample"]
Commit = Literal["phase", "forward"]


class RegularityNorm(PhaseNorm):
    r"""Multiply activations by the length of their universal code: surprising ones are amplified.

    With z the activations standardized by the running mean and variance, S the mean over a phase of the
    standard normal density of z, and the code mass M the sum of S over the phases so far,

    .. math:: y = L x, \qquad L = \log M - \log S \;\text{(nats)}.

    ``axis="layer"`` (RN) has one gain L per layer and ``"neuron"`` (RLN) one per neuron; both are
    constant within a phase, so forward is one multiplication. ``"sample"`` (RSN) has one per sample, a
    function of that sample and the frozen state through which the gradient flows; see
    :func:`~rn_rl.normalization.sample_gain.sample_gain`. On stationary data the gain of RN and RLN is
    ``log(t + e - 1)`` at the t-th phase after the first: it starts at 1 and rises, so compare any
    effect with that of the control ``logt``. Whatever the data, it stays between 0.1 and 100.

    A *phase* is the time between two commits: in SB3, one rollout and its gradient steps. The number of
    phases in a run differs widely; choose ``half_life`` by it:

    ================================================  =======
    DQN, CartPole-v1, zoo configuration, 50k steps        192
    DQN, paper configuration, 50k steps                12,500
    PPO, RedBlueDoors-6x6, zoo configuration, 1M          245
    ================================================  =======

    Args:
        num_features: size of axis 1 of the input.
        axis: ``"layer"``, ``"neuron"`` or ``"sample"``: the elements that share a code.
        half_life: number of phases after which an observation counts half. The gain then tends to
            ``-log(1 - 2 ** (-1 / half_life))`` on stationary data. None (default) never forgets.
        commit: ``"phase"`` (default): the state changes only at commits. ``"forward"``: builds a
            :class:`~rn_rl.normalization.PublishedRegularityNorm`, whose state changes in every training
            forward, as in the paper; for reproduction only.
        eps: floor of the variance.

    Shape:
        ``(batch, num_features, ...)`` to the same shape and dtype.

    State:
        ``running_state``: rows mean, variance, elements, log code mass, phases, gain, ``(6, 1)`` or
        ``(6, num_features)``; moves at commits. ``pending_sums``: see
        :mod:`rn_rl.normalization.functional`. At most 64 samples of a batch are observed, see
        :func:`~rn_rl.normalization.functional.observed`. A batch with a NaN or an infinity, or with
        squares too large for its precision, is skipped for the codes it touches.

    Raises:
        UserError: an argument is outside its range, or axis 1 of an input is not ``num_features``.

    Example:
        >>> norm = RegularityNorm(8)
        >>> for _ in range(3):
        ...     _ = norm.train()(torch.randn(64, 8)); _ = norm.eval()
        >>> 1.2 < norm.gain.item() < 1.4      # log(2 + e - 1)
        True

    Source: Lin, Entropy 24(1):59, 2022; :func:`~rn_rl.normalization.functional.commit` says where and
    why this departs from it.
    """

    num_features: int
    commit_on: Commit = "phase"
    observes_part = True

    def __init__(
        self,
        num_features: int,
        axis: Axis = "layer",
        half_life: float | None = None,
        commit: Commit = "phase",
        eps: float = 1e-5,
    ) -> None:
        if num_features < 1:
            raise UserError(f"num_features={num_features}: expected at least 1")
        if axis not in ("layer", "neuron", "sample"):
            raise UserError(f"axis={axis!r}: expected 'layer', 'neuron' or 'sample'")
        if commit not in ("phase", "forward"):
            raise UserError(f"commit={commit!r}: expected 'phase' or 'forward'")
        if commit != self.commit_on:
            raise UserError(
                f"commit={commit!r}: {type(self).__name__} has commit={self.commit_on!r}; inherit from "
                "PublishedRegularityNorm for 'forward' and from RegularityNorm for 'phase'"
            )
        if not eps > 0:
            raise UserError(f"eps={eps!r}: expected a variance above 0")
        self.num_features = num_features
        self.axis = axis
        self.half_life = half_life
        self.decay = decay_per_phase(half_life)
        self.eps = eps
        super().__init__(*self.empty(num_features if axis == "neuron" else 1))

    # wraps: inspect.signature then shows the arguments of __init__
    @functools.wraps(__init__, assigned=())  # type: ignore[misc]
    def __new__(cls, *args: Any, **kwargs: Any) -> RegularityNorm:
        """Build a :class:`PublishedRegularityNorm` where ``commit="forward"``."""
        if cls is RegularityNorm and "forward" in (*args[3:4], kwargs.get("commit")):
            # not at the top: that module imports this one
            from rn_rl.normalization.published import PublishedRegularityNorm

            cls = PublishedRegularityNorm
        return super().__new__(cls)

    @staticmethod
    def empty(num_codes: int) -> tuple[Tensor, Tensor]:
        """State and pending sums before any observation."""
        state = functional.initial_state(num_codes)
        return state, torch.zeros(4, num_codes, dtype=state.dtype)

    @property
    def gain(self) -> Tensor:
        """The frozen gain in nats, ``(1,)`` or ``(num_features,)``; for ``"sample"``, that of RN."""
        return self.running_state[functional.GAIN]

    @property
    def code_length(self) -> Tensor:
        """Code length of the last phase in nats, ``(1,)`` or ``(num_features,)``; for RN, the gain."""
        return self.gain

    def observe(self, x: Tensor, weight: Tensor | None) -> None:
        some = functional.observed(x, weight)
        buffers: Any = self._buffers  # attribute lookup on a module is as slow as an operation
        pending, state = buffers["pending_sums"], buffers["running_state"]
        dispatch.accumulate(pending, some, state, weight)

    def next_state(self) -> Tensor:
        return dispatch.commit(self.running_state, self.pending_sums, self.decay, self.eps)

    @property
    def commits_like(self) -> Any:
        return "regularity", self.decay, self.eps, self.frozen, self.running_state.shape[-1]

    def apply_state(self, x: Tensor) -> Tensor:
        state: Any = self._buffers["running_state"]
        if self.axis == "sample":
            return sample_gain.times_sample_gain(x, state)
        if self.axis == "layer":
            return x * state[functional.GAIN, 0]  # 0-dim: keeps x's dtype
        gain = state[functional.GAIN]
        if torch.compiler.is_compiling():
            [gain] = functional.at_precision(x.dtype, gain)
        return x * functional.on_axis_1(gain.to(x.dtype), x)

    def extra_repr(self) -> str:
        forgets = "" if self.half_life is None else f", half_life={self.half_life}"
        return f"{self.num_features}, axis={self.axis}{forgets}"
