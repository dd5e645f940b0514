"""Replay memories of a seed batch."""

from __future__ import annotations

import math

import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

from rn_rl.agents.seed_batch.distributions import components
from rn_rl.agents.seed_batch.minibatch import Transitions
from rn_rl.agents.seed_batch.vector_envs import Step

ALIGNMENT = 8
"""Bytes to a multiple of which a row is padded, so that its int64 actions stay aligned."""


class SeedReplay:
    """Replay memories of all seeds, ``(seeds, capacity, ...)``, which are filled together.

    A transition is one row of bytes, so that sampling reads one block of memory for each: the memories
    of many seeds are far larger than the CPU's cache.

    Args:
        seeds: number of seeds.
        capacity: number of transitions of each seed; the oldest are overwritten.
        space: observation space; observations are stored with its dtype, as in SB3.
        action_space: discrete actions are stored as int64, others as float32.
        device: device of the memories. Transitions are written through NumPy, whose calls have less
            overhead than torch's; for a GPU a row is assembled on the CPU and copied at once.
        handle_timeouts: as ``handle_timeout_termination`` of SB3's buffer: where a time limit ends an
            episode, the transition is not stored as its end.
    """

    def __init__(
        self,
        seeds: int,
        capacity: int,
        space: spaces.Box,
        action_space: spaces.Space,
        device: torch.device,
        handle_timeouts: bool = True,
    ) -> None:
        self.capacity = capacity
        self.handle_timeouts = handle_timeouts
        self.position, self.full = 0, False
        dtype = torch.from_numpy(np.empty(0, space.dtype)).dtype
        discrete = isinstance(action_space, spaces.Discrete)
        self.parts = {
            "actions": (torch.int64, (1,))
            if discrete
            else (torch.float32, (components(action_space),)),
            "rewards": (torch.float32, (1,)),
            "dones": (torch.float32, (1,)),
            "observations": (dtype, space.shape),
            "next_observations": (dtype, space.shape),
        }
        """Dtype and shape of the parts of a row, in their order."""
        size = sum(math.prod(shape) * dtype.itemsize for dtype, shape in self.parts.values())
        size += -size % ALIGNMENT
        self.rows = torch.zeros(seeds, capacity, size, dtype=torch.uint8, device=device)
        self.tensors = self.split(self.rows)
        """Views of the rows by part, ``(seeds, capacity, ...)``; see :class:`Transitions`."""
        on_cpu = device.type == "cpu"
        self._new = None if on_cpu else torch.zeros(seeds, 1, size, dtype=torch.uint8)
        written = self.tensors if self._new is None else self.split(self._new)
        self._arrays = {name: tensor.numpy() for name, tensor in written.items()}
        self._first = (torch.arange(seeds, device=device) * capacity)[:, None]

    def __len__(self) -> int:
        return self.capacity if self.full else self.position

    def add(self, observations: np.ndarray, actions: np.ndarray, step: Step) -> None:
        """Store one transition of every seed.

        Args:
            observations: observations before the step, ``(seeds, 1, ...)``.
            actions: actions taken, ``(seeds, 1, ...)``.
            step: result of the step.
        """
        values = {
            "observations": observations[:, 0],
            "next_observations": step.next_observations[:, 0],
            "actions": actions.reshape(len(actions), -1),
            "rewards": step.rewards,
            "dones": step.dones & ~step.timeouts if self.handle_timeouts else step.dones,
        }
        position = self.position if self._new is None else 0
        for name, array in values.items():
            self._arrays[name][:, position] = array
        if self._new is not None:
            self.rows[:, self.position] = self._new[:, 0].to(self.rows.device)
        self.position += 1
        if self.position == self.capacity:
            self.position, self.full = 0, True

    def sample(self, uniform: np.ndarray) -> Transitions:
        """Return the transitions at positions ``floor(uniform * len(self))``.

        Args:
            uniform: random numbers in [0, 1), ``(seeds, batch)``.
        """
        positions = torch.from_numpy((uniform * len(self)).astype(np.int64)).to(self._first.device)
        flat = (positions + self._first).view(-1)
        rows = self.rows.flatten(0, 1).index_select(0, flat).view(*uniform.shape, -1)
        return Transitions(**self.split(rows))

    def at(self, positions: np.ndarray) -> Transitions:
        """Return the transitions at the same positions ``(n,)`` of every seed."""
        where = torch.from_numpy(positions).to(self.rows.device)
        return Transitions(**self.split(self.rows.index_select(1, where)))

    def split(self, rows: Tensor) -> dict[str, Tensor]:
        """Return views of the parts of rows of bytes ``(n, m, bytes)``: ``(n, m, ...)`` each."""
        begin, views = 0, {}
        for name, (dtype, shape) in self.parts.items():
            size = math.prod(shape) * dtype.itemsize
            views[name] = rows.narrow(2, begin, size).view(dtype).view(*rows.shape[:2], *shape)
            begin += size
        return views
