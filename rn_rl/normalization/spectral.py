"""Spectral normalization under the phase rule."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812
from torch.nn.utils import parametrize

from rn_rl.normalization.phase import PhaseNorm

U, SIGMA = range(2)
"""Rows of the state, ``(2, out)``: the left singular vector, of length 1, and an estimate of the
largest singular value that is there to be looked at (repeated, as it is shared)."""

INITIAL_ITERATIONS = 15
EPS = 1e-12


class SpectralNorm(PhaseNorm):
    r"""A parametrization that divides a weight by its largest singular value.

    .. math:: \hat{W} = W / \sigma, \qquad \sigma = |W^T u|,

    for W of shape ``(out, ...)``, flattened to a matrix. u is frozen within a phase, and the gradient
    of :math:`\sigma` is that of :math:`u^T W v` at :math:`v = W^T u / |W^T u|`. Each training forward
    makes one step of the power iteration, on the pending u; the commit makes that the frozen one.
    Torch's own moves u in every training forward, which changes PPO's ratio, and its buffers never
    reach a target network.

    Args:
        weight: the weight it is for. The start of u is the same for all and takes no random numbers,
            so the same seed gives the same network with and without it; 15 steps follow.

    State:
        ``running_state``: rows u and sigma. A weight that is assigned (an initialization) starts it
        anew. A weight of zeros, or one that is not finite, leaves u as it is. Weights of
        observations do not apply: what is observed is the weight of the layer.

    Source: Miyato et al., ICLR 2018.
    """

    def __init__(self, weight: Tensor) -> None:
        state = initial_state(weight)
        super().__init__(state, torch.zeros_like(state))

    @property
    def gain(self) -> Tensor:
        """``1 / sigma``, ``(1,)``, by the last step of the iteration; the weight may have moved since."""
        return self.running_state[SIGMA, :1].reciprocal()

    def observe(self, x: Tensor, weight: Tensor | None) -> None:
        self.pending_sums.copy_(power_iteration(x.detach(), self.next_state()))

    def next_state(self) -> Tensor:
        nothing = (self.pending_sums == 0).all()  # a unit vector is never all zeros
        return torch.where(nothing, self.running_state, self.pending_sums)

    def apply_state(self, x: Tensor) -> Tensor:
        matrix = as_matrix(x)
        sigma = torch.linalg.vector_norm(matrix.mT @ self.running_state[U].to(matrix.dtype))
        return x / sigma.clamp(min=EPS).to(x.dtype)

    @torch.no_grad()
    def right_inverse(self, weight: Tensor) -> Tensor:
        """What torch calls for a weight that is assigned: it is kept whole, and u fits itself to it."""
        self._initial_state.copy_(initial_state(weight))
        self.reset_running_state()
        return weight


def initial_state(weight: Tensor) -> Tensor:
    """u after :data:`INITIAL_ITERATIONS` steps from the same random direction for all weights."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(weight.shape[0], dtype=torch.float64, generator=generator)
    state = torch.stack((F.normalize(start, dim=0), torch.ones_like(start))).to(weight.device)
    for _ in range(INITIAL_ITERATIONS):
        state = power_iteration(weight.detach(), state)
    return state


def power_iteration(weight: Tensor, state: Tensor) -> Tensor:
    """The next state: ``v = W^T u / |W^T u|``, ``u' = W v / |W v|``, ``sigma = |W v|``; pure."""
    matrix = as_matrix(weight)
    v = F.normalize(matrix.mT @ state[U].to(matrix.dtype), dim=0, eps=EPS)
    u = (matrix @ v).to(state.dtype)
    sigma = torch.linalg.vector_norm(u)
    usable = (sigma > EPS) & (sigma < math.inf)  # false for NaN too
    return torch.where(usable, torch.stack((u / sigma, sigma.expand_as(u))), state)


def as_matrix(weight: Tensor) -> Tensor:
    """``(out, in)`` in float32 or better."""
    return weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))


def spectral(layer: nn.Module) -> nn.Module:
    """Put a :class:`SpectralNorm` on ``layer.weight``, in place."""
    norm = SpectralNorm(layer.weight)  # type: ignore[arg-type]
    # unsafe leaves out a trial forward, which would be observed
    parametrize.register_parametrization(layer, "weight", norm, unsafe=True)
    return layer
