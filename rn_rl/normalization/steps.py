"""Commits that are counted in optimizer steps, for trainings of one epoch."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any

from torch import nn
from torch.optim import Optimizer
from torch.optim.optimizer import register_optimizer_step_post_hook

from rn_rl.errors import UserError
from rn_rl.normalization.phase import phase_norms


class CommitEvery:
    """Handle of :func:`commit_every`; a context manager, or ended by :meth:`remove`.

    Attributes:
        steps: optimizer steps of a phase.
        counted: optimizer steps since the last commit.
        commits: commits so far.
    """

    def __init__(
        self, module: nn.Module, steps: int, then: Callable[[], object] | None = None
    ) -> None:
        if isinstance(steps, bool) or not isinstance(steps, int) or steps < 1:
            raise UserError(f"commit_every(steps={steps!r}): expected a whole number of at least 1")
        self.steps = steps
        self.counted = 0
        self.commits = 0
        self._module = module
        self._then = then
        # weak, so that a handle that nobody removed counts no more once it is garbage
        me = weakref.WeakMethod(self._after_step)

        def hook(optimizer: Optimizer, arguments: Any, keywords: Any) -> None:
            count = me()
            if count is not None:
                count(optimizer)

        self._hook = register_optimizer_step_post_hook(hook)
        weakref.finalize(self, self._hook.remove)

    def _after_step(self, optimizer: Optimizer) -> None:
        # looked up at each step: layers may be added, and parameters replaced
        ours = {id(parameter) for parameter in self._module.parameters()}
        groups = optimizer.param_groups
        if not any(id(parameter) in ours for group in groups for parameter in group["params"]):
            return
        self.counted += 1
        if self.counted == self.steps:
            self.commit()

    def commit(self) -> None:
        """Commit now, and count from 0 again."""
        self.counted = 0
        self.commits += 1
        for norm in phase_norms(self._module).values():
            norm.commit()
        if self._then is not None:
            self._then()

    def remove(self) -> None:
        """Stop counting; what is pending is committed by the next ``eval()``."""
        self._hook.remove()

    def __enter__(self) -> CommitEvery:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.remove()


def commit_every(
    module: nn.Module, steps: int, then: Callable[[], object] | None = None
) -> CommitEvery:
    """Commit the normalizers of a module after every ``steps`` optimizer steps.

    In supervised training a phase is one epoch: the batches between ``train()`` and ``eval()``, which
    plain loops and Lightning call by themselves. A training of one epoch would then have one phase, in
    which the gain of ``rn`` is 1. There, end a phase every ``steps`` optimizer steps instead::

        with commit_every(net, 10):
            for x, y in loader:
                optimizer.zero_grad()
                loss(net(x), y).backward()
                optimizer.step()
        net.eval()

    The handle counts the steps of every optimizer that has a parameter of the module, by a hook of
    ``torch.optim``, so a trainer that steps the optimizer itself (Lightning) needs no change: begin in
    ``on_fit_start``, :meth:`~CommitEvery.remove` in ``on_fit_end``. Gradient accumulation counts one
    step, and a step that a gradient scaler skips counts none. ``eval()`` still commits what is pending;
    with nothing pending it changes no bit.

    Args:
        module: network with normalizers, in training mode.
        steps: optimizer steps of a phase, at least 1.
        then: called after each commit, for example ``probe.commit`` of a
            :class:`~rn_rl.CodeLengthProbe`, whose phases are then the same.

    Returns:
        The handle. Keep it: it stops counting when it is removed or garbage.

    Raises:
        UserError: ``steps`` is not a whole number of at least 1.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from rn_rl.normalization import commit_every, make_normalizers
        >>> net = nn.Sequential(nn.Linear(4, 8), *make_normalizers("rn", 8), nn.Linear(8, 1))
        >>> optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        >>> with commit_every(net, 2) as handle:
        ...     for _ in range(6):
        ...         net(torch.randn(32, 4)).square().mean().backward()
        ...         optimizer.step()
        >>> handle.commits
        3
    """
    return CommitEvery(module, steps, then)
