"""Many networks of one architecture, stacked and evaluated together."""

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
from rn_rl.normalization import PhaseNorm, constraints, phase_norms, project
from rn_rl.normalization.popart import PopArt

LANES = 32
"""Rows of weights are filled up to a multiple of so many numbers.

Loops over all seeds' weights go in steps of as many, and round the remainder otherwise: without filling,
the last weights of the last seed.
"""


def filled(length: int) -> int:
    """Return the length of a row that has room for so many numbers, a multiple of :data:`LANES`."""
    return -(-length // LANES) * LANES


def to_rows(parts: Sequence[Tensor]) -> Tensor:
    """Return tensors ``(S, *shape)``, one for each parameter, in the layout of stacked weights."""
    rows = [part.flatten(1) for part in parts]
    length = sum(row.shape[1] for row in rows)
    more = filled(length) - length
    if more:
        rows.append(rows[0].new_zeros((rows[0].shape[0], more)))
    return torch.cat(rows, 1)


class ModuleStack:
    """The weights and normalizer states of S networks of one architecture, one network per seed.

    ===============  =================================================================
    ``weights``       ``(S, P)``: the parameters of each network in one row, then zeros
    ``tensors``       the parameters, ``(S, *shape)``, views of ``weights``; then the buffers
    state buffers     ``(rows, S, codes)``, the states of all seeds side by side
    other buffers     ``(S, *shape)``
    ===============  =================================================================

    ``torch.func.stack_module_state`` stacks tensors too, each by itself. Here all parameters of a network
    lie in one row, so that an optimizer step, a target update and a gradient norm are one operation for
    all layers; and states lie side by side, as columns of one
    :class:`~rn_rl.normalization.PhaseNorm`, so that one commit commits all seeds.

    Args:
        modules: S networks, which are copied. The order of their parameters is kept.
    """

    def __init__(self, modules: Sequence[nn.Module]) -> None:
        self.size = len(modules)
        """Number of networks, S."""
        self.module = copy.deepcopy(modules[0])
        """Network that is called with slices of the stack; its normalizers hold the stacked states."""
        self.norms = phase_norms(self.module)
        self.training = False
        with torch.no_grad():
            self.weights = to_rows(
                [torch.stack([parameters_to_vector(m.parameters()) for m in modules])]
            )
        parameters = dict(self.module.named_parameters())
        self.sizes = [p.numel() for p in parameters.values()]
        """Number of weights of each parameter."""
        self.tensors: list[Tensor] = [
            part.view(self.size, *p.shape)
            for part, p in zip(self.split(self.weights), parameters.values(), strict=True)
        ]
        self.num_parameters = len(parameters)
        """Number of leading ``tensors`` that are parameters."""
        self.names = list(parameters)
        """Name of each of ``tensors``."""
        self.axes = [0] * len(parameters)
        """Axis of the seeds in each of ``tensors``."""
        self.constraints = constraints(self.module)
        """Parameters whose norm is fixed, see :mod:`rn_rl.normalization.projection`."""
        buffers = [dict(m.named_buffers()) for m in modules]
        for name in buffers[0]:
            axis = int(name.rpartition(".")[0] in self.norms)
            self.tensors.append(torch.stack([b[name] for b in buffers], axis))
            self.names.append(name)
            self.axes.append(axis)
        self.commit_groups = [self._merge_states(group) for group in self._group_by_commit()]
        """Normalizers that each hold the states of a group that commits alike, with the group's names."""
        self.has_committed = False
        """True once a commit has happened, so that :meth:`tensors_before_commit` is known."""
        captured = bool(self.norms) and self.weights.is_cuda
        self._commit = CudaGraphed(self._commit_all, 0) if captured else self._commit_all

    def _group_by_commit(self) -> list[list[str]]:
        """Names of the normalizers, grouped by equal arithmetic of their commits."""
        groups: dict[Any, list[str]] = {}
        for name, norm in self.norms.items():
            like = norm.commits_like
            groups.setdefault(name if like is None else like, []).append(name)
        return list(groups.values())

    def _merge_states(self, group: list[str]) -> tuple[PhaseNorm, list[str]]:
        """Concatenate the states of a group in one normalizer, whose commit commits the group."""
        leader = copy.deepcopy(self.norms[group[0]])
        for buffer in ("running_state", "pending_sums"):
            indices = [self.names.index(f"{name}.{buffer}") for name in group]
            merged = torch.cat([self.tensors[i] for i in indices], 1)
            leader._buffers[buffer] = merged
            for name, i, part in zip(group, indices, merged.split(self.size, 1), strict=True):
                self.tensors[i] = self.norms[name]._buffers[buffer] = part
        leader._state_before_commit = leader.running_state
        if isinstance(leader, PopArt):
            parts = (self.names.index(f"{group[0]}.linear.{part}") for part in ("weight", "bias"))
            leader.rescale_instead(*(self.tensors[i] for i in parts))
        return leader, group

    @property
    def value_layers(self) -> list[PopArt]:
        """Output layers that know the statistics of their targets, each with the states of all seeds."""
        return [leader for leader, _ in self.commit_groups if isinstance(leader, PopArt)]

    def observe_targets(self, targets: Tensor) -> None:
        """Give the :attr:`value_layers` what they learn to predict.

        Args:
            targets: ``(rows, S)``.
        """
        for layer in self.value_layers:
            layer.observe_targets(targets)

    def adopt_values(self, online: ModuleStack) -> None:
        """Give the :attr:`value_layers` the states of other networks' without a change of outputs."""
        for layer, other in zip(self.value_layers, online.value_layers, strict=True):
            layer.adopt(other.running_state)

    def split(self, rows: Tensor) -> list[Tensor]:
        """Return the columns ``(S, n)`` of each parameter in a tensor with the layout of ``weights``."""
        return list(rows[:, : sum(self.sizes)].split(self.sizes, 1))

    def parameter_view(self, rows: Tensor, name: str) -> Tensor:
        """View of one parameter's columns in a tensor with the layout of ``weights``.

        Args:
            rows: ``(S, P)``, for example the weights, their gradient or an optimizer's average.
            name: name of a parameter.

        Returns:
            ``(S, *shape)``.
        """
        like = self.tensors[self.names.index(name)]
        first = like.storage_offset()
        return rows[:, first : first + like[0].numel()].view(like.shape)

    def set_training_mode(self, mode: bool) -> None:
        """Set the phase: a change from training to evaluation commits all normalizers.

        The module itself is set to a mode only while it is traced, by :meth:`vmap_modules`.
        """
        if self.training and not mode:
            self._commit()
            self.has_committed = True
        self.training = mode

    def _commit_all(self) -> None:
        for leader, _ in self.commit_groups:
            leader.commit()

    def tensors_before_commit(self) -> list[Tensor]:
        """Return ``tensors`` with the normalizer states from before the last commit."""
        before = {
            f"{name}.running_state": state
            for leader, group in self.commit_groups
            for name, state in zip(
                group, leader._state_before_commit.split(self.size, 1), strict=True
            )
        }
        named = zip(self.names, self.tensors, strict=True)
        return [before.get(name, tensor) for name, tensor in named]

    def project(self) -> None:
        """Scale parameters with a fixed norm back to it in every network, after an optimizer step."""
        if self.constraints:
            tensors = dict(zip(self.names, self.tensors, strict=True))
            project(self.constraints, tensors.__getitem__, stacked=True)

    def running_state(self) -> list[Tensor]:
        """Return the tensors that SB3 copies to target networks: those with ``running_`` in the name."""
        named = zip(self.names, self.tensors, strict=True)
        return [tensor for name, tensor in named if "running_" in name]

    @torch.no_grad()
    def restore_running_state(self, states: Sequence[Tensor], seeds: Tensor) -> None:
        """Copy some seeds' columns of an earlier :meth:`running_state` back.

        Args:
            states: copies of :meth:`running_state`.
            seeds: indices of the seeds, ``(n,)``, int64.
        """
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
        """Compute ``function(network, *inputs)`` for every seed, under ``torch.func.vmap``.

        Args:
            function: of a network and of one seed's inputs.
            tensors: parameters and buffers to call the networks with, in the order of ``self.tensors``.
            inputs: tensors with a leading axis of seeds.
            training: mode of the network. In training mode normalizers add their inputs to their pending
                sums, in place.

        Returns:
            The results of ``function`` with a leading axis of seeds.
        """
        set_mode(self.module, training)
        call = _Call(self.module, function)
        names = [f"module.{name}" for name in self.names]

        def call_one(slices: list[Tensor], *args: Tensor) -> Any:
            return functional_call(call, dict(zip(names, slices, strict=True)), args)

        # batches are large while learning and small while acting
        with StackedConvolutions(large_batch=training), StackedGroupNorms():
            mapped = vmap(call_one, in_dims=(self.axes, *(0 for _ in inputs)))
            return mapped(list(tensors), *inputs)

    def unstack(self, seed: int) -> dict[str, Tensor]:
        """Return one seed's tensors by name, as views with the shapes of a single network's."""
        stacked = zip(self.names, self.axes, self.tensors, strict=True)
        return {name: tensor.select(axis, seed) for name, axis, tensor in stacked}

    @torch.no_grad()
    def load_into(self, seed: int, module: nn.Module) -> None:
        """Copy one seed's parameters and buffers into a single network of the same architecture."""
        state = self.unstack(seed)
        for name, value in (*module.named_parameters(), *module.named_buffers()):
            value.copy_(state[name])


def set_mode(module: nn.Module, training: bool) -> None:
    """Set training or evaluation mode without a commit, which ``module.eval()`` would cause."""
    for part in module.modules():
        part.training = training


class _Call(nn.Module):
    """``function(module, ...)`` as a ``forward``, since ``functional_call`` calls modules only."""

    def __init__(self, module: nn.Module, function: Callable[..., Any]) -> None:
        super().__init__()
        self.module = module
        self.function = function

    def forward(self, *inputs: Any) -> Any:
        return self.function(self.module, *inputs)


def clip_gradients(gradients: Tensor, max_norm: float) -> Tensor:
    """Clip the norm of each seed's gradient in place, as ``torch.nn.utils.clip_grad_norm_`` does.

    Args:
        gradients: ``(S, P)``.
        max_norm: largest norm of a row; infinity leaves the gradients unchanged.

    Returns:
        ``gradients``.
    """
    if math.isinf(max_norm):
        return gradients
    norms = torch.linalg.vector_norm(gradients, dim=1, keepdim=True)
    return gradients.mul_((max_norm / (norms + 1e-6)).clamp(max=1.0))
