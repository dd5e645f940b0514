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
largest singular value, repeated along the row, for :attr:`SpectralNorm.gain`."""

INITIAL_ITERATIONS = 15
"""Number of power iterations on a new weight."""

EPS = 1e-12
"""Smallest norm to divide by."""


class SpectralNorm(PhaseNorm):
    r"""Parametrization that divides a weight by its largest singular value.

    .. math:: \hat{W} = W / \sigma, \qquad \sigma = |W^T u|,

    for W of shape ``(out, ...)``, flattened to a matrix. u is frozen within a phase, and the gradient
    of :math:`\sigma` is that of :math:`u^T W v` at :math:`v = W^T u / |W^T u|`. Each training forward
    makes one step of the power iteration on a pending u, which the commit makes the frozen one.
    ``torch.nn.utils.parametrizations.spectral_norm`` moves u in every training forward instead, which
    changes PPO's ratio, and its buffers never reach a target network.

    Args:
        weight: the weight to normalize. u starts from a fixed direction and 15 power iterations, and
            draws no global random numbers: a seed gives the same network with and without it.

    Shape:
        ``(out, ...)`` to the same shape and dtype.

    State:
        ``running_state``: rows u and sigma, ``(2, out)``; moves at commits. Assigning the weight, as an
        initialization does, restarts it. A weight of zeros or one that is not finite leaves u
        unchanged. Observation weights have no effect, because no samples are observed.

    Source: Miyato et al., ICLR 2018.
    """

    def __init__(self, weight: Tensor) -> None:
        state = initial_state(weight)
        super().__init__(state, torch.zeros_like(state))

    @property
    def gain(self) -> Tensor:
        """``1 / sigma``, ``(1,)``, at the last commit; the weight may have changed since."""
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
        """Keep an assigned weight as it is and restart u for it; torch calls this on assignment."""
        self._initial_state.copy_(initial_state(weight))
        self.reset_running_state()
        return weight


def initial_state(weight: Tensor) -> Tensor:
    """State after :data:`INITIAL_ITERATIONS` power iterations from a fixed pseudo-random direction."""
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(weight.shape[0], dtype=torch.float64, generator=generator)
    state = torch.stack((F.normalize(start, dim=0), torch.ones_like(start))).to(weight.device)
    for _ in range(INITIAL_ITERATIONS):
        state = power_iteration(weight.detach(), state)
    return state


def power_iteration(weight: Tensor, state: Tensor) -> Tensor:
    """One power iteration: ``v = W^T u / |W^T u|``, ``u' = W v / |W v|``, ``sigma = |W v|``; pure."""
    matrix = as_matrix(weight)
    v = F.normalize(matrix.mT @ state[U].to(matrix.dtype), dim=0, eps=EPS)
    u = (matrix @ v).to(state.dtype)
    sigma = torch.linalg.vector_norm(u)
    usable = (sigma > EPS) & (sigma < math.inf)  # false for NaN too
    return torch.where(usable, torch.stack((u / sigma, sigma.expand_as(u))), state)


def as_matrix(weight: Tensor) -> Tensor:
    """Flatten a weight to ``(out, in)``, in float32 or float64."""
    return weight.flatten(1).to(torch.promote_types(weight.dtype, torch.float32))


def spectral(layer: nn.Module) -> nn.Module:
    """Put a :class:`SpectralNorm` on ``layer.weight``, in place."""
    norm = SpectralNorm(layer.weight)  # type: ignore[arg-type]
    # unsafe leaves out a trial forward, which would be observed
    parametrize.register_parametrization(layer, "weight", norm, unsafe=True)
    return layer
