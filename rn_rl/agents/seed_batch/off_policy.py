"""Seed batches of algorithms that learn from a replay memory."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import ReplayBuffer
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.type_aliases import TrainFreq, TrainFrequencyUnit
from torch import Tensor

from rn_rl.agents.seed_batch.base import SeedBatch
from rn_rl.agents.seed_batch.minibatch import Transitions
from rn_rl.agents.seed_batch.replay import SeedReplay
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.agents.seed_batch.vec_normalize import SeedVecNormalize
from rn_rl.agents.seed_batch.vector_envs import SeedEnvs, Step
from rn_rl.policies.divergence import evenly_spaced

Model = TypeVar("Model", bound=OffPolicyAlgorithm)


class OffPolicySeedBatch(SeedBatch[Model]):
    """Loop of SB3's off-policy algorithms for S seeds at once: act, store, and learn from minibatches.

    Subclasses implement :meth:`act` and :meth:`update`.

    Args:
        models: agents that have not learned yet, one for each seed.
        envs: environments of all seeds, one environment each.
        compile: compile the updates with ``torch.compile``, which takes some ten seconds once.
    """

    def __init__(self, models: Sequence[Model], envs: SeedEnvs, compile: bool = False) -> None:
        super().__init__(models, envs, compile)
        model = self.model
        assert isinstance(model.observation_space, spaces.Box)
        self.memory = SeedReplay(
            self.size,
            model.buffer_size,
            model.observation_space,
            model.action_space,
            self.device,
            model.replay_buffer_kwargs.get("handle_timeout_termination", True),
        )
        self.replay = Streams(self.seeds, "replay", (model.batch_size,))
        wrappers = envs.normalizers()
        self.normalize = SeedVecNormalize(wrappers) if wrappers else None
        """``VecNormalize`` of every seed; None without."""
        self.last_originals: np.ndarray | None = None
        """The last observations before ``VecNormalize`` scaled them."""

    @classmethod
    def cannot(cls, model: Any) -> str | None:
        reason = super().cannot(model)
        if reason:
            return reason
        if model.n_envs != 1:
            name = type(model).__name__
            return f"n_envs is {model.n_envs}; a batch of {name} seeds has one environment for each"
        if model.n_steps != 1:
            return f"n_steps is {model.n_steps}"
        if _frequency(model).unit is not TrainFrequencyUnit.STEP:
            return "train_freq counts episodes, which end at another time in each seed"
        if (half_life := getattr(model, "age_half_life", None)) is not None:
            return f"age_half_life is {half_life:g} (None trains together)"
        if type(model.replay_buffer) is not ReplayBuffer:
            return f"its replay buffer is a {type(model.replay_buffer).__name__}"
        if model.optimize_memory_usage:
            return "optimize_memory_usage is True"
        return None

    @abstractmethod
    def act(self, observations: np.ndarray) -> np.ndarray:
        """Return actions of every seed as they are stored, ``(seeds, 1, ...)``."""

    def env_actions(self, actions: np.ndarray) -> np.ndarray:
        """Return stored actions as the environments take them."""
        return actions

    @abstractmethod
    def update(self, minibatch: Transitions) -> None:
        """Take one gradient step of every seed."""

    def after_step(self, step: Step) -> None:
        """Change what SB3's algorithm changes after each step of an environment."""

    def recent_observations(self, rows: int) -> Tensor | None:
        if not len(self.memory):
            return None
        positions = torch.from_numpy(evenly_spaced(len(self.memory), rows)).to(self.device)
        found = self.memory.tensors["observations"].index_select(1, positions)
        return found if self.normalize is None else self.normalize.scaled(found)

    @property
    def rollout_length(self) -> int:
        return _frequency(self.model).frequency

    def step(self, t: int) -> None:
        observations: Any = self.last_observations
        actions = self.act(observations)
        if self.normalize is not None:
            observations = self._originals(self.normalize)
        step = self.envs.step(self.env_actions(actions))
        self.last_observations = step.observations
        if self.normalize is not None:
            step = self.normalize.original(step)
            self.last_originals = step.observations
        self.memory.add(observations, actions, step)
        self.count_step()
        self.after_step(step)

    def _originals(self, normalize: SeedVecNormalize) -> np.ndarray:
        """Return the last observations before they were scaled; after a reset the wrappers have them."""
        if self.last_originals is None:
            self.last_originals = normalize.observations()
        return self.last_originals

    def train(self) -> None:
        if self.num_timesteps <= self.model.learning_starts:
            return
        self.observe_targets()
        self.set_training_mode(True)
        self.set_learning_rate()
        steps = self.model.gradient_steps
        steps = self.rollout_length if steps < 0 else steps
        for _ in range(steps):
            self.update(self.scaled(self.memory.sample(self.replay.draw())))
        self.count_updates(steps)

    def scaled(self, minibatch: Transitions) -> Transitions:
        """Return a minibatch as networks see it: scaled by ``VecNormalize`` where there is one."""
        return minibatch if self.normalize is None else self.normalize.scaled_minibatch(minibatch)

    def observe_targets(self) -> None:
        """Give the targets of values to output layers that scale values, if there are any."""

    def count_updates(self, steps: int) -> None:
        """Count gradient steps as SB3's algorithm does."""
        self.num_updates += steps

    def state(self, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, plain = super().state(seed)
        for name, tensor in self.memory.tensors.items():
            arrays[f"memory/{name}"] = tensor[seed, : len(self.memory)].cpu().numpy()
        if self.normalize is not None and self.last_observations is not None:
            arrays["original_observations"] = self._originals(self.normalize)[seed]
        return arrays, {**plain, "memory": [self.memory.position, self.memory.full]}

    @torch.no_grad()
    def restore(self, stored: Sequence[tuple[Mapping[str, np.ndarray], dict[str, Any]]]) -> None:
        super().restore(stored)
        self.memory.position, self.memory.full = stored[0][1]["memory"]
        if "original_observations" in stored[0][0]:
            originals = [arrays["original_observations"] for arrays, _ in stored]
            self.last_originals = np.stack(originals)
        for seed, (arrays, _) in enumerate(stored):
            for name, memory in self.memory.tensors.items():
                kept = torch.from_numpy(arrays[f"memory/{name}"])
                memory[seed, : len(kept)] = kept.view(-1, *memory.shape[2:])

    def begin_episodes(self) -> None:
        super().begin_episodes()
        self.last_originals = None

    def write_back(self, seed: int) -> Model:
        model = super().write_back(seed)
        model._n_calls = self.num_timesteps  # type: ignore[attr-defined]
        return model


def _frequency(model: OffPolicyAlgorithm) -> TrainFreq:
    """Return ``train_freq``, which SB3 converts to a ``TrainFreq`` when it builds an agent."""
    assert isinstance(model.train_freq, TrainFreq)
    return model.train_freq
