"""Many networks of one architecture as one: stacked weights and states, evaluated together."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap
from torch.nn.utils import parameters_to_vector

from rn_rl.engine.cuda_graph import CudaGraphed
from rn_rl.engine.ops.conv import StackedConvolutions
from rn_rl.engine.ops.group_norm import StackedGroupNorms
from rn_rl.normalization import PhaseNorm, phase_norms


class ModuleStack:
    """The weights and normalizer states of S networks, which were built one by one and alike.

    ===============  =================================================================
    ``weights``       ``(S, P)``, all parameters of a network in a row: what an optimizer,
                      a target update and a gradient norm want
    ``tensors``       the same by parameter, ``(S, *shape)``, views of ``weights``; then buffers
    state buffers     ``(rows, S, codes)``: S more columns of one state, so that the commit
                      of all of them is the commit of one :class:`~rn_rl.normalization.PhaseNorm`
    other buffers     ``(S, *shape)``
    ===============  =================================================================

    Args:
        modules: S networks; they are copied. The parameters keep their order.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.size = len(modules)
        self.module = copy.deepcopy(modules[0])
        """Applied to a slice of the stack; its normalizers hold the stacked states."""
        self.norms = phase_norms(self.module)
        self.training = False
        with torch.no_grad():
            self.weights = torch.stack([parameters_to_vector(m.parameters()) for m in modules])
        named = dict(self.module.named_parameters())
        sizes = [p.numel() for p in named.values()]
        self.tensors: list[Tensor] = [
            part.view(self.size, *p.shape)
            for part, p in zip(self.weights.split(sizes, 1), named.values(), strict=True)
        ]
        self.num_parameters = len(named)
        """How many of the tensors are parameters; they come first."""
        self.names = list(named)
        self.axes = [0] * len(named)
        others = [dict(m.named_buffers()) for m in modules]
        for name in others[0]:
            axis = int(name.rpartition(".")[0] in self.norms)
            self.tensors.append(torch.stack([o[name] for o in others], axis))
            self.names.append(name)
            self.axes.append(axis)
        self.commit_groups = [self._committing(group) for group in self._groups()]
        """Normalizers that hold the states of all that commit alike, and whose states those are."""
        self.has_committed = False
        """Whether :meth:`tensors_before_commit` is known: not until the first commit here."""
        captured = bool(self.norms) and self.weights.is_cuda
        self._commit = CudaGraphed(self._commit_all, 0) if captured else self._commit_all

    def _groups(self) -> list[list[str]]:
        groups: dict[Any, list[str]] = {}
        for name, norm in self.norms.items():
            like = norm.commits_like
            groups.setdefault(name if like is None else like, []).append(name)
        return list(groups.values())

    def _committing(self, group: list[str]) -> tuple[PhaseNorm, list[str]]:
        """Put the states of these normalizers side by side, and give what commits them as one."""
        leader = copy.deepcopy(self.norms[group[0]])
        for buffer in ("running_state", "pending_sums"):
            places = [self.names.index(f"{name}.{buffer}") for name in group]
            whole = torch.cat([self.tensors[i] for i in places], 1)
            leader._buffers[buffer] = whole
            for name, i, part in zip(group, places, whole.split(self.size, 1), strict=True):
                self.tensors[i] = self.norms[name]._buffers[buffer] = part
        leader._state_before_commit = leader.running_state
        return leader, group

    def parameter_view(self, rows: Tensor, name: str) -> Tensor:
        """Of what lies as the weights do, ``(S, P)``, what belongs to one parameter; a view."""
        like = self.tensors[self.names.index(name)]
        first = like.storage_offset()
        return rows[:, first : first + like[0].numel()].view(like.shape)

    def set_training_mode(self, mode: bool) -> None:
        """As SB3's, and as there the normalizers commit when training ends.

        The modules themselves change their mode only when something is recorded.
        """
        if self.training and not mode:
            self._commit()
            self.has_committed = True
        self.training = mode

    def _commit_all(self) -> None:
        for leader, _ in self.commit_groups:
            leader.commit()

    def tensors_before_commit(self) -> list[Tensor]:
        """The tensors with the normalizer states of before the last commit."""
        old = {
            f"{name}.running_state": state
            for leader, group in self.commit_groups
            for name, state in zip(
                group, leader._state_before_commit.split(self.size, 1), strict=True
            )
        }
        named = zip(self.names, self.tensors, strict=True)
        return [old.get(name, tensor) for name, tensor in named]

    def running_state(self) -> list[Tensor]:
        """The state that SB3 copies to targets: every tensor with ``running_`` in its name."""
        named = zip(self.names, self.tensors, strict=True)
        return [tensor for name, tensor in named if "running_" in name]

    @torch.no_grad()
    def restore_running_state(self, states: Sequence[Tensor], seeds: Tensor) -> None:
        """Give these seeds the :meth:`running_state` that they had."""
        axes = [a for n, a in zip(self.names, self.axes, strict=True) if "running_" in n]
        for now, before, axis in zip(self.running_state(), states, axes, strict=True):
            now.index_copy_(axis, seeds, before.index_select(axis, seeds))

    def vmap_modules(
        self,
        function: Callable[..., Any],
        tensors: Sequence[Tensor],
        *inputs: Tensor,
        training: bool = False,
    ) -> Any:
        """``function(network, *inputs)`` for every seed, with these tensors as what it is made of."""
        set_mode(self.module, training)
        call = _Call(self.module, function)
        names = [f"module.{name}" for name in self.names]

        def one(slices: list[Tensor], *given: Tensor) -> Any:
            return functional_call(call, dict(zip(names, slices, strict=True)), given)

        # acting asks about few observations
        with StackedConvolutions(many=training), StackedGroupNorms():
            return vmap(one, in_dims=(self.axes, *(0 for _ in inputs)))(list(tensors), *inputs)

    def unstack(self, seed: int) -> dict[str, Tensor]:
        """One seed's tensors by name, in the shapes of an ordinary network; views of the stack."""
        each = zip(self.names, self.axes, self.tensors, strict=True)
        return {name: tensor.select(axis, seed) for name, axis, tensor in each}

    @torch.no_grad()
    def load_into(self, seed: int, module: nn.Module) -> None:
        """Copy one seed's weights and state into an ordinary network."""
        state = self.unstack(seed)
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            value.copy_(state[name])


def set_mode(module: nn.Module, training: bool) -> None:
    """Training or evaluation mode without what follows from a change of it: no normalizer commits."""
    for part in module.modules():
        part.training = training


class _Call(nn.Module):
    """``function(module, ...)`` as a forward, which is all that ``functional_call`` calls."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(self.module, *inputs)


def clip_gradients(gradients: Tensor, max_norm: float) -> Tensor:
    """``clip_grad_norm_`` for each row of ``(seeds, parameters)``, in place."""
    if math.isinf(max_norm):
        return gradients
    norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    return gradients.mul_((max_norm / (norms + 1e-6)).clamp(max=1.0))
