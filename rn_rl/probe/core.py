"""Code lengths of the layers of any network, with or without normalizers."""

from __future__ import annotations

from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from rn_rl.normalization import dispatch, functional
from rn_rl.normalization.phase import decay_per_phase


class CodeLengthProbe:
    """Measure the code length in nats of the output of every linear and convolutional layer.

    Forward hooks observe the outputs of layers in training mode as ``rn`` does; the network computes what
    it did before. :meth:`commit` ends a phase. The code length of a phase is
    ``L = log M - log S``, see :func:`rn_rl.normalization.functional.commit`.

    Args:
        module: any network.
        half_life: number of phases after which an observation counts half; None never forgets.

    Raises:
        UserError: the half-life is not above 0.

    Example:
        >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> with CodeLengthProbe(net) as probe:
        ...     for _ in range(3):
        ...         _ = net(torch.randn(32, 4))
        ...         lengths = probe.commit()
        >>> sorted(lengths)
        ['0', '2']
    """

    def __init__(self, module: nn.Module, half_life: float | None = None) -> None:
        self.decay = decay_per_phase(half_life)
        self._state: dict[str, Tensor] = {}
        self._pending: dict[str, Tensor] = {}
        self._hooks = []
        kinds = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
        for name, layer in module.named_modules():
            if isinstance(layer, kinds):
                self._state[name] = functional.initial_state(1).to(layer.weight.device)
                self._pending[name] = torch.zeros(4, 1).to(self._state[name])
                self._hooks.append(layer.register_forward_hook(self._observer(name)))

    def _observer(self, name: str) -> Any:
        def observe(layer: nn.Module, inputs: Any, output: Tensor) -> None:
            if layer.training:
                x = functional.observed(output)
                dispatch.accumulate(self._pending[name], x, self._state[name])

        return observe

    def commit(self) -> dict[str, float]:
        """End a phase, and return :meth:`code_lengths`."""
        for name, pending in self._pending.items():
            self._state[name] = functional.commit(self._state[name], pending, self.decay)
            pending.zero_()
        return self.code_lengths()

    def code_lengths(self) -> dict[str, float]:
        """Code length in nats of the last phase, by name of the layer; 1 for the first two phases."""
        return {name: float(state[functional.GAIN]) for name, state in self._state.items()}

    def close(self) -> None:
        """Remove the hooks from the network."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    def __enter__(self) -> CodeLengthProbe:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()
