"""Seed batch of PQN."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor, nn
from torch.distributions import Categorical, Distribution

from rn_rl.agents.pqn import PQN, check_minibatch
from rn_rl.agents.seed_batch.base import SeedBatch
from rn_rl.agents.seed_batch.rng import Streams, explore
from rn_rl.agents.seed_batch.rollout import PolicyOutput, SeedRollout, by_seed
from rn_rl.agents.seed_batch.vector_envs import SeedEnvs
from rn_rl.engine.ensemble import ModuleStack
from rn_rl.engine.trace import TracedFunction


class SeedBatchPQN(SeedBatch[PQN]):
    """:class:`~rn_rl.agents.PQN` for S seeds at once; see :class:`~rn_rl.agents.SeedBatch`.

    Args:
        models: agents that have not learned yet, one for each seed.
        envs: environments of all seeds.
        compile: compile the update with ``torch.compile``, which takes some ten seconds once.
    """

    algorithm: ClassVar[type[BaseAlgorithm]] = PQN
    model: PQN

    def __init__(self, models: Sequence[PQN], envs: SeedEnvs, compile: bool = False) -> None:
        super().__init__(models, envs)
        model = self.model
        assert isinstance(model.observation_space, spaces.Box)
        assert isinstance(model.action_space, spaces.Discrete)
        check_minibatch(model.batch_size, model.n_steps, envs.num_envs)
        self.actions = int(model.action_space.n)
        self.rollout = SeedRollout(
            model.n_steps, self.size, envs.num_envs, model.observation_space, model.action_space
        )
        self.starts = np.ones((self.size, envs.num_envs), np.float32)
        """1 where the last observation begins an episode, ``(seeds, envs)``."""
        self.exploration = Streams(self.seeds, "exploration", (2, envs.num_envs))
        self.shuffling = Streams(self.seeds, "minibatches", (model.n_steps * envs.num_envs,))
        self.exploration_rate = float(model.exploration_rate)
        own = len(self.stack.tensors)
        self._q_values = TracedFunction(
            self._compute_q_values, num_static=own, cache_invariants=True
        )
        self._gradients = TracedFunction(self._compute_gradients, compile, num_static=own)

    @classmethod
    def network(cls, model: Any) -> nn.Module:
        online: nn.Module = model.policy.q_net
        return online

    @staticmethod
    def _q_of(network: nn.Module, observations: Tensor) -> Tensor:
        values: Tensor = network(observations)
        return values

    def _compute_q_values(self, *tensors: Tensor) -> Tensor:
        *own, observations = tensors
        result: Tensor = self.stack.vmap_modules(self._q_of, own, observations)
        return result

    def q_values(self, observations: np.ndarray) -> np.ndarray:
        """Return Q-values ``(seeds, n, actions)`` for observations ``(seeds, n, ...)``."""
        found = self._q_values(*self.stack.tensors, self.tensor(observations))
        return found.cpu().numpy()

    def values(self, observations: np.ndarray) -> np.ndarray:
        """Return ``max_a Q`` in units of rewards, ``(seeds, n)``."""
        best: np.ndarray = self.q_values(observations).max(-1) / self.model.reward_scale
        return best

    @property
    def rollout_length(self) -> int:
        return self.model.n_steps

    def step(self, t: int) -> None:
        if t == 0:
            self.exploration_rate = self.model.exploration_schedule(self.progress_remaining)
        observations: Any = self.last_observations
        q_values = self.q_values(observations)
        chance, choice = self.exploration.draw().swapaxes(0, 1)
        random = (choice * self.actions).astype(np.int64)
        actions = np.where(chance < self.exploration_rate, random, q_values.argmax(-1))
        step = self.envs.step(actions)
        rewards = step.rewards
        if step.timeouts.any():  # add the value of the return that the time limit cut off
            future = self.values(step.next_observations)
            rewards = rewards + self.model.gamma * np.where(step.timeouts, future, 0)
        values = q_values.max(-1) / self.model.reward_scale
        output = PolicyOutput(actions, values, np.zeros_like(values))
        self.rollout.add(t, observations, output, rewards, self.starts)
        self.starts = step.dones.astype(np.float32)
        self.last_observations = step.observations
        self.count_step()

    def begin_episodes(self) -> None:
        super().begin_episodes()
        self.starts[:] = 1

    def targets(self) -> np.ndarray:
        """Compute the Q(lambda) targets of the rollout, ``(steps, seeds, envs)``."""
        assert self.last_observations is not None
        last_values, model = self.values(self.last_observations), self.model
        # with max_a Q as values, the returns of generalized advantages are those of Q(lambda)
        _, returns = self.rollout.advantages(last_values, self.starts, model.gamma, model.q_lambda)
        return returns * model.reward_scale

    def train(self) -> None:
        model, rollout = self.model, self.rollout
        parts = (rollout.observations, rollout.actions, self.targets().astype(np.float32))
        self.set_training_mode(True)
        self.set_learning_rate()
        flat = [self.tensor(by_seed(array)).flatten(0, 1) for array in parts]
        rows = model.n_steps * self.envs.num_envs
        first = np.arange(self.size)[:, None] * rows
        for _ in range(model.n_epochs):
            order = self.shuffling.draw().argsort(1)
            for begin in range(0, rows, model.batch_size):
                chosen = order[:, begin : begin + model.batch_size]
                where = self.tensor((chosen + first).reshape(-1))
                self.update(
                    *(x.index_select(0, where).view(*chosen.shape, *x.shape[1:]) for x in flat)
                )
        self.num_updates += model.n_epochs

    def update(self, observations: Tensor, actions: Tensor, targets: Tensor) -> None:
        """Take one gradient step of every seed.

        Args:
            observations: ``(seeds, batch, ...)``.
            actions: ``(seeds, batch)``.
            targets: in units of the network, ``(seeds, batch)``.
        """
        self.stack.weights.grad, loss = self._gradients(
            *self.stack.tensors, observations, actions, targets
        )
        self.losses["train/loss"] = loss
        self.step_optimizer()

    def _compute_gradients(self, *tensors: Tensor) -> tuple[Tensor, Tensor]:
        """Compute clipped gradients ``(seeds, P)`` and losses ``(seeds,)``."""
        own = len(self.stack.tensors)
        leaves, online = self.leaves(tensors[:own])
        observations, actions, targets = tensors[own:]
        q = self.stack.vmap_modules(self._q_of, online, observations, training=True)
        error = q.gather(2, actions[..., None])[..., 0] - targets
        losses = 0.5 * error.square().mean(1)
        return self.clipped_gradients(losses, leaves), losses.detach()

    def policies(self, tensors: Sequence[Tensor], observations: Tensor) -> Distribution:
        """Return ``softmax(Q)``, on which :class:`~rn_rl.agents.NormalizerLogger` measures KL too."""
        logits = self._q_values(*tensors, observations)
        return Categorical(logits=logits, validate_args=False)

    def recent_observations(self, rows: int) -> Tensor | None:
        if not self.num_updates:
            return None
        return self.tensor(self.rollout.recent(rows))

    def probed(self) -> dict[str, tuple[ModuleStack, Callable[..., Any]]]:
        return {"q_net.": (self.stack, self._q_of)}

    def predict(
        self, observations: np.ndarray, deterministic: bool = True, noise: np.ndarray | None = None
    ) -> np.ndarray:
        actions = self.q_values(observations).argmax(-1)
        if deterministic or noise is None:
            return actions
        return explore(actions, noise[..., 0], self.exploration_rate, self.actions)

    def streams(self) -> list[Streams]:
        return [self.exploration, self.shuffling]

    def state(self, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, plain = super().state(seed)
        arrays["starts"] = self.starts[seed]
        return arrays, {**plain, "exploration_rate": self.exploration_rate}

    def restore(self, stored: Sequence[tuple[Mapping[str, np.ndarray], dict[str, Any]]]) -> None:
        super().restore(stored)
        self.starts = np.stack([arrays["starts"] for arrays, _ in stored])
        self.exploration_rate = stored[0][1]["exploration_rate"]

    def write_back(self, seed: int) -> PQN:
        model = super().write_back(seed)
        model.exploration_rate = self.exploration_rate
        return model
