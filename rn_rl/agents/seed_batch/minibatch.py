"""Minibatches of all seeds as named tuples.

A traced function (:class:`~rn_rl.engine.trace.TracedFunction`) takes flat tensors: its caller flattens
named tuples with ``*``, and the function rebuilds them with :func:`unflatten`, while it is traced only.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from torch import Tensor


class Transitions(NamedTuple):
    """Transitions drawn from the replay memories, ``(seeds, batch, ...)`` each."""

    observations: Tensor
    next_observations: Tensor
    actions: Tensor
    """``(seeds, batch, 1)``, int64, if discrete; ``(seeds, batch, components)`` in [-1, 1] otherwise."""
    rewards: Tensor
    """``(seeds, batch, 1)``."""
    dones: Tensor
    """``(seeds, batch, 1)``: 1 where the episode terminated, 0 elsewhere and at a time limit."""


class RolloutSamples(NamedTuple):
    """Rows of a rollout without their observations, which are deduplicated; ``(seeds, batch)`` each."""

    actions: Tensor
    """``(seeds, batch)`` if discrete, ``(seeds, batch, components)`` otherwise."""
    old_values: Tensor
    old_log_probs: Tensor
    advantages: Tensor
    returns: Tensor


class ClipRanges(NamedTuple):
    """Clip ranges of PPO, float64 scalars: the float32 nearest to 0.2 is not the 0.2 that SB3 uses."""

    ratio: Tensor
    values: Tensor
    """Ignored if ``clip_range_vf`` is None."""


class Sequences(NamedTuple):
    """Sequences of a minibatch for an LSTM, each padded to the number of steps of a rollout."""

    mask: Tensor
    """``(seeds, sequences * steps)``: 0 for padding, 1 otherwise."""
    states: Tensor
    """``(seeds, sequences, state_size)``: LSTM state before the first step of each sequence."""
    keep: Tensor
    """``(seeds, sequences, steps)``: 0 where an episode begins and the state is reset, 1 otherwise."""


def unflatten(tensors: Sequence[Tensor], *kinds: type[tuple[Any, ...]]) -> list[Any]:
    """Rebuild named tuples from flat tensors, the inverse of ``(*a, *b, *rest)``.

    Args:
        tensors: fields of one named tuple after the other, and the rest.
        kinds: named tuple classes, in the order in which they were flattened.

    Returns:
        One named tuple for each class, and then the rest as a tuple.
    """
    parts: list[Any] = []
    for kind in kinds:
        count = len(kind._fields)  # type: ignore[attr-defined]
        parts.append(kind(*tensors[:count]))
        tensors = tensors[count:]
    return [*parts, tuple(tensors)]


def masked_mean(x: Tensor, mask: Tensor | None) -> Tensor:
    """Return the means ``(seeds,)`` of the rows of ``(seeds, rows)`` that are not padding."""
    return x.mean(1) if mask is None else (x * mask).sum(1) / mask.sum(1)


def standardized(x: Tensor, mask: Tensor | None) -> Tensor:
    """Shift and scale the rows of ``(seeds, rows)`` to mean 0 and standard deviation 1 in each seed."""
    count: Any = x.shape[1] if mask is None else mask.sum(1)
    centred = x - masked_mean(x, mask)[:, None]
    variance = masked_mean(centred.square(), mask) * (count / (count - 1))
    return centred / (variance.sqrt()[:, None] + 1e-8)
