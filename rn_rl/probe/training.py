"""One call for a training loop of one's own: a probe, its record, and nothing to remember."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.optim import Optimizer

from rn_rl.probe.core import CodeLengthProbe
from rn_rl.probe.records import ProbeLog


@contextmanager
def probed(
    module: nn.Module, optimizer: Optimizer, *, phase: int = 1, **arguments: Any
) -> Iterator[ProbeLog]:
    """Probe a network inside this context: each ``phase`` steps of its optimizer are one phase.

    The loop stays as it is, be it plain PyTorch or Lightning: a hook after ``optimizer.step()`` ends the
    phases.

    Args:
        module: the network.
        optimizer: its optimizer.
        phase: number of optimizer steps in a phase.
        arguments: those of :class:`CodeLengthProbe`, such as ``every=10``.

    Yields:
        The record, whose ``arrays()`` can be saved by ``np.savez("probe.npz", **record.arrays())`` and
        shown by ``rn-rl probe probe.npz``.

    Raises:
        UserError: see :class:`CodeLengthProbe`.
    """
    log, steps = ProbeLog(), 0
    with CodeLengthProbe(module, **arguments) as probe:

        def after_step(*_: Any) -> None:
            nonlocal steps
            steps += 1
            if steps % phase == 0 and probe.end_phase():
                log.append(steps, probe.readings())

        handle = optimizer.register_step_post_hook(after_step)
        try:
            yield log
        finally:
            handle.remove()
