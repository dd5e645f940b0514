"""Normalizers on the state that a recurrent network feeds back, and cells that have them."""

from __future__ import annotations

import math
from typing import Literal

from torch import Tensor, nn

from rn_rl.errors import UserError
from rn_rl.normalization import canonical_spec, make_normalizers, phase_norms

Sharing = Literal["step", "shared"]
Place = Literal["after", "before"]


class FedBackNorm(nn.Module):
    r"""Normalizers of a hidden state, one set for each time step or one for all.

    With a gain :math:`g_t` on a state that is fed back, :math:`h_t = g_t \, f(h_{t-1}, x_t)`, the gain of
    one step multiplies the input of the next. A gain that grows without bound, as that of ``rn`` does
    with the number of phases, then saturates or explodes the state. Bound it with a half-life,
    ``"rn(half_life=8)"``, whose gain tends to ``-log(1 - 2 ** (-1 / half_life))``, 2.5 for 8 phases; or
    commit once an epoch.

    Args:
        spec: normalizer spec, see :func:`rn_rl.make_normalizers`. ``wn`` and ``spectral``, which change a
            layer's weights, have none here.
        num_features: size of the state.
        steps: number of time steps; None with ``sharing="shared"`` takes sequences of any length.
        sharing: ``"step"`` (default): each time step has normalizers of its own, with their own
            statistics and parameters. ``"shared"``: one set, which sees the states of all steps.

    Shape:
        ``(batch, num_features)`` to the same shape and dtype.

    State:
        That of the normalizers, under the phase rule.

    Raises:
        UserError: the spec is wrong or changes weights; ``steps`` is below 1 or missing; a time step is
            not below ``steps``.

    Example:
        >>> norm, cell = FedBackNorm("rn(half_life=8)", 16, steps=3), nn.GRUCell(4, 16)
        >>> h = torch.zeros(32, 16)
        >>> for t in range(3):
        ...     h = norm(cell(torch.randn(32, 4), h), t)
        >>> len(norm.norms)
        3
    """

    def __init__(
        self, spec: str, num_features: int, steps: int | None = None, sharing: Sharing = "step"
    ) -> None:
        super().__init__()
        if sharing not in ("step", "shared"):
            raise UserError(f"sharing={sharing!r}: expected 'step' or 'shared'")
        if sharing == "step" and (steps is None or steps < 1):
            raise UserError(
                f"steps={steps!r}: expected the number of time steps, at least 1; for sequences of any "
                "length use sharing='shared'"
            )
        self.spec = canonical_spec(spec)
        self.steps = steps
        self.sharing = sharing
        count = (steps or 1) if sharing == "step" else 1
        self.norms = nn.ModuleList(
            nn.Sequential(*make_normalizers(spec, num_features)) for _ in range(count)
        )

    def forward(self, h: Tensor, t: int) -> Tensor:
        """Normalize the state of time step t, counted from 0."""
        if self.sharing == "shared":
            t = 0
        elif not 0 <= t < len(self.norms):
            raise UserError(
                f"time step {t}: expected 0 to {len(self.norms) - 1}; build it with more steps, or with "
                "sharing='shared'"
            )
        normalized: Tensor = self.norms[t](h)
        return normalized

    def gains(self) -> list[float]:
        """Mean gain of each time step under the frozen state; NaN where none is frozen, 1 without one."""
        return [
            math.prod(float(norm.gain.mean()) for norm in phase_norms(norms).values())
            for norms in self.norms
        ]

    def extra_repr(self) -> str:
        return f"{self.spec}, sharing={self.sharing!r}"


class NormRNNCell(nn.Module):
    r"""Elman cell with normalizers: ``h' = norm(tanh(W x + U h + b))``, or tanh after the normalizer.

    Args:
        input_size: features of the input.
        hidden_size: size of the state.
        norm: normalizer spec.
        steps: number of time steps; None with ``sharing="shared"``.
        sharing: see :class:`FedBackNorm`.
        place: ``"after"`` (default): the normalizer is after tanh, so its gain is on the state itself.
            ``"before"``: between the sum and tanh, which bounds the state whatever the gain.

    Shape:
        x ``(batch, input_size)``, h ``(batch, hidden_size)`` or None (zeros), to h' like h.

    Raises:
        UserError: see :class:`FedBackNorm`; ``place`` is neither.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        norm: str = "none",
        steps: int | None = None,
        sharing: Sharing = "step",
        place: Place = "after",
    ) -> None:
        super().__init__()
        if place not in ("after", "before"):
            raise UserError(f"place={place!r}: expected 'after' or 'before'")
        self.cell = nn.RNNCell(input_size, hidden_size)
        self.place = place
        self.norm = FedBackNorm(norm, hidden_size, steps, sharing)

    def forward(self, x: Tensor, h: Tensor | None = None, t: int = 0) -> Tensor:
        """Return the state after time step t, counted from 0."""
        cell = self.cell
        if h is None:
            h = x.new_zeros(x.shape[0], cell.hidden_size)
        if self.place == "after":
            return self.norm(cell(x, h), t)
        z = nn.functional.linear(x, cell.weight_ih, cell.bias_ih)
        return self.norm(z + nn.functional.linear(h, cell.weight_hh, cell.bias_hh), t).tanh()


class NormLSTMCell(nn.Module):
    r"""LSTM cell whose hidden state is normalized before it is fed back: ``h' = norm(o * tanh(c'))``.

    The cell state c' is not normalized: it is torch's.

    Args:
        input_size: features of the input.
        hidden_size: size of the states.
        norm: normalizer spec.
        steps: number of time steps; None with ``sharing="shared"``.
        sharing: see :class:`FedBackNorm`.

    Shape:
        x ``(batch, input_size)``, state ``(h, c)`` of ``(batch, hidden_size)`` each or None (zeros), to
        the new ``(h, c)``.

    Raises:
        UserError: see :class:`FedBackNorm`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        norm: str = "none",
        steps: int | None = None,
        sharing: Sharing = "step",
    ) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(input_size, hidden_size)
        self.norm = FedBackNorm(norm, hidden_size, steps, sharing)

    def forward(
        self, x: Tensor, state: tuple[Tensor, Tensor] | None = None, t: int = 0
    ) -> tuple[Tensor, Tensor]:
        """Return the states after time step t, counted from 0."""
        h, c = self.cell(x, state)
        return self.norm(h, t), c


class NormGRUCell(nn.Module):
    r"""GRU cell whose state is normalized before it is fed back: ``h' = norm(GRU(x, h))``.

    Args:
        input_size: features of the input.
        hidden_size: size of the state.
        norm: normalizer spec.
        steps: number of time steps; None with ``sharing="shared"``.
        sharing: see :class:`FedBackNorm`.

    Shape:
        x ``(batch, input_size)``, h ``(batch, hidden_size)`` or None (zeros), to h' like h.

    Raises:
        UserError: see :class:`FedBackNorm`.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        norm: str = "none",
        steps: int | None = None,
        sharing: Sharing = "step",
    ) -> None:
        super().__init__()
        self.cell = nn.GRUCell(input_size, hidden_size)
        self.norm = FedBackNorm(norm, hidden_size, steps, sharing)

    def forward(self, x: Tensor, h: Tensor | None = None, t: int = 0) -> Tensor:
        """Return the state after time step t, counted from 0."""
        return self.norm(self.cell(x, h), t)
