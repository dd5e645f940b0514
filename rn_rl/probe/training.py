"""One call for a training loop of one's own: a probe, its record, and nothing to remember."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from torch import nn
from torch.optim import Optimizer

from rn_rl.errors import UserError
from rn_rl.probe.arguments import whole
from rn_rl.probe.core import CodeLengthProbe
from rn_rl.probe.records import ProbeLog


class Probed(ProbeLog):
    """Record of a network that is probed until :meth:`close`, or until the end of a ``with`` block.

    :func:`probed` makes it.
    """

    def __init__(self, module: nn.Module, phase: int, arguments: dict[str, Any]) -> None:
        super().__init__()
        self.phase = whole("phase", phase)
        self.steps = 0
        """Number of optimizer steps so far."""
        self.probe = CodeLengthProbe(module, **arguments)
        self._handles: list[Any] = []

    def follow(self, optimizer: Optimizer) -> None:
        """Count the steps of an optimizer from now on.

        Raises:
            UserError: it is no optimizer.
        """
        if not isinstance(optimizer, Optimizer):
            self.close()
            raise UserError(
                f"optimizer of type {type(optimizer).__name__}: expected a torch.optim.Optimizer"
            )
        self._handles.append(optimizer.register_step_post_hook(lambda *_: self.step()))

    def step(self) -> None:
        """Count a step, for loops whose optimizer is not at hand; each ``phase`` of them end a phase."""
        self.steps += 1
        if self.steps % self.phase == 0 and self.probe.end_phase():
            self.append(self.steps, self.probe.readings())

    def close(self) -> None:
        """Remove all hooks; the record stays."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self.probe.close()

    def __enter__(self) -> Probed:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def probed(
    module: nn.Module, optimizer: Optimizer | None = None, *, phase: int = 1, **arguments: Any
) -> Probed:
    """Probe a network: each ``phase`` steps of its optimizer are one phase.

    The loop stays as it is: a hook after ``optimizer.step()`` ends the phases. Where the optimizer is
    made later, give it to :meth:`Probed.follow`, or call :meth:`Probed.step` after each of its steps.

    Args:
        module: the network.
        optimizer: its optimizer; None if it is not known yet.
        phase: number of optimizer steps in a phase.
        arguments: those of :class:`CodeLengthProbe`, such as ``every=10``.

    Returns:
        The record, whose ``arrays()`` can be saved by ``np.savez("probe.npz", **record.arrays())`` and
        shown by ``rn-rl probe probe.npz``. Used with ``with``, the hooks are gone after the block.

    Raises:
        UserError: see :class:`CodeLengthProbe`; the optimizer is none.
    """
    record = Probed(module, phase, arguments)
    if optimizer is not None:
        record.follow(optimizer)
    return record
