"""PopArt: an output layer that learns values in units of their targets' standard deviation."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rn_rl.errors import UserError
from rn_rl.normalization import dispatch, functional
from rn_rl.normalization.functional import MEAN, VAR
from rn_rl.normalization.phase import PhaseNorm, decay_per_phase

LEAST_SIGMA = 1e-4
"""Smallest standard deviation of targets, as in RLax."""


class PopArt(PhaseNorm):
    r"""Linear output layer whose outputs are scaled by the running statistics of their targets.

    .. math:: y = \sigma \, (W h + b) + \mu

    with the mean :math:`\mu` and standard deviation :math:`\sigma` of the targets that
    :meth:`observe_targets` was given. When a commit moves them to :math:`\mu', \sigma'`, the layer is
    rescaled so that its outputs stay the same ("preserving outputs precisely"):

    .. math:: W \leftarrow \frac{\sigma}{\sigma'} W, \qquad
        b \leftarrow \frac{\sigma b + \mu - \mu'}{\sigma'} .

    They stay the same up to rounding: in float32 that is about 1e-7 of the largest of the outputs, |mu|
    and sigma, which is more than 1e-6 of an output where targets are far from 0.

    In training, the gradient with respect to y is divided by :math:`\sigma^2`: for a squared error
    :math:`(y - Y)^2` it is then the gradient of the error :math:`((y - Y) / \sigma)^2` of normalized
    targets, as the method has it. For SB3's Huber loss it is not: beyond an error of 1 that loss is
    linear in unnormalized units, whatever sigma is, so prefer ``RNDQN(loss="mse")``. Within
    :func:`~rn_rl.normalization.unobserved`, as where an actor is trained through a critic, the gradient
    is that of the function.

    Args:
        linear: the layer, which becomes part of this one.
        half_life: number of phases after which a target counts half; None never forgets.

    Shape:
        ``(batch, inputs)`` to ``(batch, outputs)``; all outputs share mean and standard deviation.

    State:
        ``running_state``: rows mean, variance, number of targets, ``(3, 1)``; moves at commits. The
        state of an optimizer is left alone, as in the paper.

    Raises:
        UserError: at a commit, if the layer has learned and no targets were observed.

    Source: van Hasselt et al., "Learning values across many orders of magnitude", arXiv 1602.07714,
    2016, algorithm 1; the lower bound of sigma as in RLax. The paper's statistics move at each update
    with a step size; here they move between phases.
    """

    def __init__(self, linear: nn.Linear, half_life: float | None = 100) -> None:
        state = torch.zeros(3, 1, dtype=torch.float64)
        state[VAR] = 1
        super().__init__(state, torch.zeros_like(state))
        self.linear = linear
        self.half_life = half_life
        self.decay = decay_per_phase(half_life)
        self._has_learned = self._has_targets = False
        self._rescaled: tuple[Tensor, Tensor] | None = None

    @property
    def gain(self) -> Tensor:
        """The standard deviation sigma, ``(1,)``."""
        return sigma(self.running_state)

    def observe(self, x: Tensor, weight: Tensor | None) -> None:
        self._has_learned = True  # inputs are not observed, only targets

    @torch.no_grad()
    def observe_targets(self, targets: Tensor) -> None:
        """Add the values that the layer learns to predict to the pending sums.

        Args:
            targets: any shape; not normalized. If this layer holds the states of several networks, their
                axis is the last.
        """
        state, pending = self.running_state.flatten(1), self.pending_sums.flatten(1)
        values = targets.detach().reshape(-1, state.shape[1]).to(state)
        dispatch.accumulate_moments(pending, values, state[MEAN])
        self._has_targets = True

    def rescale_instead(self, weight: Tensor, bias: Tensor) -> None:
        """Let commits rescale the weights of several networks, of which this layer holds the states.

        Args:
            weight: ``(networks, outputs, inputs)``.
            bias: ``(networks, outputs)``.
        """
        self._rescaled = weight, bias

    def next_state(self) -> Tensor:
        return functional.commit_moments(self.running_state, self.pending_sums, self.decay)

    @torch.no_grad()
    def commit(self) -> None:
        if self.frozen:
            return
        if self._has_learned and not self._has_targets:
            raise UserError(
                "value_norm='popart': no targets were observed in a phase; pass "
                "callback=rn_rl.agents.ValueTargets() to learn()"
            )
        before = self.running_state.clone()
        super().commit()
        self._preserve(before)
        self._state_before_commit = self.running_state.clone()  # with the weights of now
        self._has_learned = self._has_targets = False

    @torch.no_grad()
    def adopt(self, state: Tensor) -> None:
        before = self.running_state.clone()
        super().adopt(state)
        self._preserve(before)

    @torch.no_grad()
    def reset_running_state(self) -> None:
        """Set the state to its initial value and clear the pending sums; outputs stay the same."""
        before = self.running_state.clone()
        super().reset_running_state()
        self._preserve(before)
        self._state_before_commit = self.running_state.clone()  # with the weights of now

    def _preserve(self, before: Tensor) -> None:
        """Rescale the layer so that its outputs are those of before; equal states change no bit."""
        old, new = sigma(before), sigma(self.running_state)
        scale, shift = old / new, (before[MEAN] - self.running_state[MEAN]) / new
        weight, bias = self._rescaled or (self.linear.weight, self.linear.bias)
        weight.copy_(weight.to(scale.dtype) * scale[..., None])
        bias.copy_(bias.to(scale.dtype) * scale + shift)

    def apply_state(self, x: Tensor) -> Tensor:
        normalized = self.linear(x)
        scale = sigma(self.running_state)
        y = normalized * scale.to(normalized.dtype) + self.running_state[MEAN].to(normalized.dtype)
        if self.training and self.observing and not self.frozen:
            scaled: Tensor = _ScaledGradient.apply(y, scale.square().reciprocal().to(y.dtype))
            return scaled
        return y

    def extra_repr(self) -> str:
        return f"half_life={self.half_life}"


class _ScaledGradient(torch.autograd.Function):
    """The input as it is; its gradient is multiplied by a factor."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x: Tensor, factor: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(inputs[1])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (factor,) = ctx.saved_tensors
        return gradient * factor, None


def sigma(state: Tensor) -> Tensor:
    """Standard deviation of the targets, ``(1,)``."""
    return state[VAR].clamp(min=LEAST_SIGMA**2).sqrt()


def popart_layers(module: nn.Module) -> list[PopArt]:
    """Find every :class:`PopArt` inside a module."""
    return [part for part in module.modules() if isinstance(part, PopArt)]
