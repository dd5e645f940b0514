"""DQN for many seeds in one process."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from rn_rl.agents.sb3 import LOSSES
from rn_rl.agents.seed_batch.base import SeedBatch
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.agents.seed_batch.vector_envs import SeedEnvs, Step
from rn_rl.engine.ensemble import ModuleStack, clip_gradients
from rn_rl.engine.trace import TracedFunction
from rn_rl.normalization import observed_acting
from rn_rl.policies.divergence import evenly_spaced

SAMPLED = ("observations", "next_observations", "actions", "rewards", "dones")
"""What a minibatch consists of."""

ALIGNED = 8
"""Bytes that a row is a multiple of, as the largest number in it asks for."""


class SeedReplay:
    """The replay memories of all seeds, ``(seeds, capacity, ...)``; they fill together.

    A transition is one row of bytes, so that a sample of it is fetched at once: the memories of many
    seeds are far larger than a cache.

    Args:
        seeds: how many.
        capacity: transitions of each seed.
        space: of the observations, which are stored at their own type, as SB3 does.
        device: where. New transitions are written through NumPy, which starts faster than torch, and
            for a GPU put together here, so that they are one copy.
    """

    def __init__(self, seeds: int, capacity: int, space: spaces.Box, device: torch.device) -> None:
        self.capacity = capacity
        self.position, self.full = 0, False
        dtype = torch.from_numpy(np.empty(0, space.dtype)).dtype
        self.parts = {
            "actions": (torch.int64, (1,)),
            "rewards": (torch.float32, (1,)),
            "dones": (torch.float32, (1,)),
            "observations": (dtype, space.shape),
            "next_observations": (dtype, space.shape),
        }
        """Type and shape of what a row consists of, in its order."""
        size = sum(math.prod(shape) * dtype.itemsize for dtype, shape in self.parts.values())
        size += -size % ALIGNED
        self.rows = torch.zeros(seeds, capacity, size, dtype=torch.uint8, device=device)
        self.tensors = self.parted(self.rows)
        """``dones`` is 1 where a transition has no future: not at a time limit."""
        on_cpu = device.type == "cpu"
        self._new = None if on_cpu else torch.zeros(seeds, 1, size, dtype=torch.uint8)
        written = self.tensors if self._new is None else self.parted(self._new)
        self._arrays = {name: tensor.numpy() for name, tensor in written.items()}
        self._first = (torch.arange(seeds, device=device) * capacity)[:, None]

    def __len__(self) -> int:
        return self.capacity if self.full else self.position

    def add(self, observations: np.ndarray, actions: np.ndarray, step: Step) -> None:
        """One transition of every seed."""
        given = {
            "observations": observations[:, 0],
            "next_observations": step.next_observations[:, 0],
            "actions": actions,
            "rewards": step.rewards,
            "dones": step.dones & ~step.timeouts,
        }
        place = self.position if self._new is None else 0
        for name, array in given.items():
            self._arrays[name][:, place] = array
        if self._new is not None:
            self.rows[:, self.position] = self._new[:, 0].to(self.rows.device)
        self.position += 1
        if self.position == self.capacity:
            self.position, self.full = 0, True

    def sample(self, uniform: np.ndarray) -> list[Tensor]:
        """Transitions at ``uniform * len(self)``, ``(seeds, batch)``; actions and numbers get an axis."""
        where = torch.from_numpy((uniform * len(self)).astype(np.int64)).to(self._first.device)
        flat = (where + self._first).view(-1)
        rows = self.rows.flatten(0, 1).index_select(0, flat).view(*uniform.shape, -1)
        parts = self.parted(rows)
        return [parts[name] for name in SAMPLED]

    def parted(self, rows: Tensor) -> dict[str, Tensor]:
        """What is in rows of bytes, ``(n, m, bytes)``, as views of them; a number has an axis."""
        begin, found = 0, {}
        for name, (dtype, shape) in self.parts.items():
            size = math.prod(shape) * dtype.itemsize
            found[name] = rows.narrow(2, begin, size).view(dtype).view(*rows.shape[:2], *shape)
            begin += size
        return found


class SeedBatchDQN(SeedBatch[DQN]):
    """SB3's DQN for S seeds at once; see :class:`~rn_rl.agents.seed_batch.base.SeedBatch`.

    Each step of all environments is one batched matrix product a layer, each update one for all
    minibatches. Exploration, replay sampling, target updates and schedules are those of SB3's DQN.

    Args:
        models: see :class:`~rn_rl.agents.seed_batch.base.SeedBatch`.
        envs: see there; one environment a seed.
        compile: compile the update with ``torch.compile``: some ten seconds once, then faster.
    """

    model: DQN

    def __init__(self, models: Sequence[DQN], envs: SeedEnvs, compile: bool = False) -> None:
        super().__init__(models, envs)
        model = self.model
        self.target = ModuleStack([m.q_net_target for m in models])
        assert isinstance(model.observation_space, spaces.Box)
        self.memory = SeedReplay(self.size, model.buffer_size, model.observation_space, self.device)
        self.exploration = Streams(self.seeds, "exploration", (2,))
        self.replay = Streams(self.seeds, "replay", (model.batch_size,))
        self.exploration_rates = np.full(self.size, float(model.exploration_rate))
        """Epsilon of each seed: the same for all, unless it falls at the end of each episode."""
        self.exploration_decay: float | None = getattr(model, "exploration_decay", None)
        self.loss = LOSSES[getattr(model, "loss", "huber")]
        own = len(self.stack.tensors)
        self._q_values = TracedFunction(self._compute_q_values, constant=own, values=True)
        self._acting_q_values: TracedFunction | None = None
        # acting that is observed changes the state in place
        if getattr(model.policy, "acting_observes", False):
            self._acting_q_values = TracedFunction(self._compute_acting_q_values, constant=own)
        self._gradients = TracedFunction(self._compute_gradients, compile, constant=2 * own)

    @staticmethod
    def network(model: DQN) -> nn.Module:
        return model.q_net

    @classmethod
    def cannot(cls, model: BaseAlgorithm) -> str | None:
        reason = super().cannot(model)
        if reason or not isinstance(model, DQN):
            return reason or f"{type(model).__name__} is not DQN"
        if model.n_envs != 1:
            return f"n_envs is {model.n_envs}; a batch of DQN seeds has one environment for each"
        if model.n_steps != 1:
            return f"n_steps is {model.n_steps}"
        if model.get_vec_normalize_env() is not None:
            return "normalize is set, and a replay memory would need the statistics of each seed"
        if _frequency(model).unit is not TrainFrequencyUnit.STEP:
            return "train_freq counts episodes, which end at another time in each seed"
        if type(model.replay_buffer) is not ReplayBuffer or model.optimize_memory_usage:
            return "it has a replay buffer of another kind"
        return None

    def _compute_q_values(self, *tensors: Tensor) -> Tensor:
        *own, observations = tensors
        result: Tensor = self.stack.over_seeds(lambda q_net, x: q_net(x), own, observations)
        return result

    def _compute_acting_q_values(self, *tensors: Tensor) -> Tensor:
        with observed_acting(self.stack.module):
            return self._compute_q_values(*tensors)

    def q_values(self, observations: Tensor, tensors: Sequence[Tensor] | None = None) -> Tensor:
        """Q of the online networks, ``(seeds, n, actions)``; other tensors give other networks."""
        own = self.stack.tensors if tensors is None else tensors
        result: Tensor = self._q_values(*own, observations)
        return result

    def _compute_gradients(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Clipped gradients ``(seeds, P)`` and losses ``(seeds,)`` of one minibatch each."""
        own = len(self.stack.tensors)
        online, target = list(tensors[:own]), tensors[own : 2 * own]
        observations, next_observations, actions, rewards, dones = tensors[2 * own :]
        with torch.no_grad():
            next_q = self.target.over_seeds(lambda q_net, x: q_net(x), target, next_observations)
            future = next_q.amax(2, keepdim=True)
            wanted = rewards + (1 - dones) * self.model.gamma * future
        count = self.stack.parameters
        leaves = [t.detach().requires_grad_() for t in online[:count]]
        online[:count] = leaves
        q = self.stack.over_seeds(lambda net, x: net(x), online, observations, training=True)
        error = self.loss(q.gather(2, actions), wanted, reduction="none")
        losses = error.mean((1, 2))
        parts = torch.autograd.grad(losses.sum(), leaves)
        gradients = torch.cat([part.flatten(1) for part in parts], 1)
        return clip_gradients(gradients, self.model.max_grad_norm), losses.detach()

    def update(self, minibatch: Sequence[Tensor]) -> None:
        """One gradient step of every seed; the minibatch as :meth:`SeedReplay.sample` gives it."""
        self.stack.weights.grad, loss = self._gradients(
            *self.stack.tensors, *self.target.tensors, *minibatch
        )
        self.losses["train/loss"] = loss
        self.step_optimizer()

    @torch.no_grad()
    def update_targets(self) -> None:
        """Move the target networks by ``tau``, and copy the state of normalizers."""
        self.target.weights.lerp_(self.stack.weights, self.model.tau)
        for mine, theirs in zip(self.target.running(), self.stack.running(), strict=True):
            mine.copy_(theirs)

    def policies(self, tensors: Sequence[Tensor], observations: Tensor) -> Distribution:
        """The softmax of Q, as :class:`~rn_rl.agents.NormalizerLogger` has it."""
        return Categorical(logits=self.q_values(observations, tensors), validate_args=False)

    def seen(self, rows: int) -> Tensor | None:
        if not len(self.memory):
            return None
        where = torch.from_numpy(evenly_spaced(len(self.memory), rows)).to(self.device)
        return self.memory.tensors["observations"].index_select(1, where)

    def predict(
        self, observations: np.ndarray, deterministic: bool = True, noise: np.ndarray | None = None
    ) -> np.ndarray:
        return self.q_values(self.tensor(observations)).argmax(-1).cpu().numpy()

    def act(self, observations: np.ndarray) -> np.ndarray:
        """Epsilon-greedy actions, ``(seeds, 1)``; random ones until learning starts."""
        chance, choice = self.exploration.draw().T[:, :, None]
        assert isinstance(self.model.action_space, spaces.Discrete)
        random = (choice * self.model.action_space.n).astype(np.int64)
        rate = self.exploration_rates[:, None]
        if self.num_timesteps < self.model.learning_starts or rate.min() >= 1:
            return random
        if self._acting_q_values is None:
            return np.where(chance < rate, random, self.predict(observations))
        before = [state.clone() for state in self.stack.running()]
        q_values = self._acting_q_values(*self.stack.tensors, self.tensor(observations))
        # SB3 does not ask the network of an agent that explores, so nothing is observed there
        explores = torch.from_numpy((chance < rate)[:, 0].nonzero()[0]).to(self.device)
        self.stack.put_back(before, explores)
        return np.where(chance < rate, random, q_values.argmax(-1).cpu().numpy())

    @property
    def rollout_length(self) -> int:
        return _frequency(self.model).frequency

    def step(self, t: int) -> None:
        observations: Any = self.last_observations
        actions = self.act(observations)
        step = self.envs.step(actions)
        self.memory.add(observations, actions, step)
        self.last_observations = step.observations
        self.count_step()
        if self.num_timesteps % max(self.model.target_update_interval, 1) == 0:
            self.update_targets()
        self._set_exploration_rates(step.dones[:, 0])

    def _set_exploration_rates(self, dones: np.ndarray) -> None:
        """Epsilon by SB3's schedule, or by a factor for each seed whose episode ended."""
        if self.exploration_decay is None:
            self.exploration_rates[:] = self.model.exploration_schedule(self.progress_remaining)
        elif dones.any():
            fallen = np.where(dones, self.exploration_decay, 1.0) * self.exploration_rates
            self.exploration_rates = np.maximum(self.model.exploration_final_eps, fallen)

    def train(self) -> None:
        if self.num_timesteps <= self.model.learning_starts:
            return
        self.stack.set_training_mode(True)
        self.set_learning_rate()
        steps = self.model.gradient_steps
        steps = self.rollout_length if steps < 0 else steps
        for _ in range(steps):
            self.update(self.memory.sample(self.replay.draw()))
        self.num_updates += steps

    def streams(self) -> list[Streams]:
        return [self.exploration, self.replay]

    def state(self, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, plain = super().state(seed)
        targets = self.target.of_seed(seed)
        arrays.update({f"target/{name}": v.cpu().numpy() for name, v in targets.items()})
        for name, tensor in self.memory.tensors.items():
            arrays[f"memory/{name}"] = tensor[seed, : len(self.memory)].cpu().numpy()
        memory = [self.memory.position, self.memory.full]
        rate = float(self.exploration_rates[seed])
        return arrays, {**plain, "memory": memory, "exploration_rate": rate}

    @torch.no_grad()
    def restore(self, stored: Sequence[tuple[Mapping[str, np.ndarray], dict[str, Any]]]) -> None:
        super().restore(stored)
        plain = stored[0][1]
        self.memory.position, self.memory.full = plain["memory"]
        rates = [each["exploration_rate"] for _, each in stored]
        self.exploration_rates = np.array(rates, dtype=float)
        for seed, (arrays, _) in enumerate(stored):
            for name, tensor in self.target.of_seed(seed).items():
                tensor.copy_(torch.from_numpy(arrays[f"target/{name}"]))
            for name, memory in self.memory.tensors.items():
                kept = torch.from_numpy(arrays[f"memory/{name}"])
                memory[seed, : len(kept)] = kept.view(-1, *memory.shape[2:])

    def write_back(self, seed: int) -> DQN:
        model = super().write_back(seed)
        self.target.load_into(seed, model.q_net_target)
        model.exploration_rate = float(self.exploration_rates[seed])
        model._n_calls = self.num_timesteps
        return model


def _frequency(model: DQN) -> TrainFreq:
    """What SB3 makes of ``train_freq`` when it builds an agent."""
    assert isinstance(model.train_freq, TrainFreq)
    return model.train_freq
