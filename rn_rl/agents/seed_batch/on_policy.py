"""Seed batches of algorithms that learn from rollouts: acting, values, advantages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import Tensor, nn
from torch.distributions import Distribution

from rn_rl.agents.seed_batch.actor_critic import ActorCritics
from rn_rl.agents.seed_batch.base import SeedBatch
from rn_rl.agents.seed_batch.distributions import values_and_distribution
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.agents.seed_batch.rollout import PolicyOutput, SeedRollout
from rn_rl.agents.seed_batch.vector_envs import Masks, SeedEnvs
from rn_rl.engine.ensemble import ModuleStack


class SeedBatchOnPolicy(SeedBatch[Any]):
    """An on-policy algorithm for S seeds at once; see :class:`~rn_rl.agents.seed_batch.base.SeedBatch`.

    This class acts; :class:`~rn_rl.agents.seed_batch.rollout.SeedRollout` stores rollouts and computes
    advantages; :class:`~rn_rl.agents.seed_batch.actor_critic.ActorCritics` evaluates the policies. A
    subclass learns from a rollout in :meth:`train`.

    Args:
        models: SB3 agents that have not learned yet, one for each seed.
        envs: environments of all seeds.
        compile: compile the update with ``torch.compile``, which takes some ten seconds once.
    """

    gives_targets = True
    policy_class: ClassVar[type[ActorCritics]] = ActorCritics
    """Class that evaluates the policies."""

    def __init__(
        self, models: Sequence[OnPolicyAlgorithm], envs: SeedEnvs, compile: bool = False
    ) -> None:
        super().__init__(models, envs, compile)
        model: Any = self.model
        self.actor_critics = self.policy_class(self.stack, model, self.seeds, envs.num_envs)
        self.rollout = SeedRollout(
            model.n_steps, self.size, envs.num_envs, model.observation_space, model.action_space
        )
        self.starts = np.ones((self.size, envs.num_envs), np.float32)
        """1 where the last observation begins an episode, ``(seeds, envs)``."""

    @classmethod
    def network(cls, model: Any) -> nn.Module:
        policy: nn.Module = model.policy
        return policy

    @classmethod
    def cannot(cls, model: Any) -> str | None:
        return super().cannot(model) or cls.policy_class.cannot(model)

    def act(self, observations: np.ndarray, t: int) -> PolicyOutput:
        """Sample actions for step t of a rollout from observations ``(seeds, envs, ...)``."""
        return self.actor_critics.act(observations, self.starts, t)

    @property
    def rollout_length(self) -> int:
        steps: int = self.model.n_steps
        return steps

    def step(self, t: int) -> None:
        observations: Any = self.last_observations
        output = self.act(observations, t)
        step = self.envs.step(self.actor_critics.within_bounds(output.actions))
        rewards = step.rewards
        if step.timeouts.any():  # add the value of the return that the time limit cut off
            future = self.values(step.next_observations)
            rewards = rewards + self.model.gamma * np.where(step.timeouts, future, 0)
        self.rollout.add(t, observations, output, rewards, self.starts)
        self.starts = step.dones.astype(np.float32)
        self.last_observations = step.observations
        self.count_step()

    def values(self, observations: np.ndarray) -> np.ndarray:
        """Return the values ``(seeds, n)`` of observations that continue the current episodes."""
        return self.actor_critics.values(observations, np.zeros_like(self.starts))

    def begin_episodes(self) -> None:
        super().begin_episodes()
        self.starts[:] = 1

    def advantages(self) -> tuple[np.ndarray, np.ndarray]:
        """Compute advantages and returns of the rollout, ``(steps, seeds, envs)`` each."""
        assert self.last_observations is not None
        last_values = self.actor_critics.values(self.last_observations, self.starts)
        model = self.model
        return self.rollout.advantages(last_values, self.starts, model.gamma, model.gae_lambda)

    def observe_returns(self, returns: np.ndarray) -> None:
        """Give the returns ``(steps, seeds, envs)`` to output layers that scale values."""
        if self.stack.value_layers:
            rows = np.moveaxis(returns, 1, 2).reshape(-1, self.size)
            self.stack.observe_targets(self.tensor(rows))

    def policies(self, tensors: Sequence[Tensor], observations: Tensor) -> Distribution:
        return self.actor_critics.distributions(tensors, observations)

    def recent_observations(self, rows: int) -> Tensor | None:
        if not self.num_updates:
            return None
        return self.tensor(self.rollout.recent(rows))

    def probed(self) -> dict[str, tuple[ModuleStack, Callable[..., Any]]]:
        return {"": (self.stack, lambda policy, x: values_and_distribution(policy, x)[0])}

    def predict(
        self, observations: np.ndarray, deterministic: bool = True, noise: np.ndarray | None = None
    ) -> np.ndarray:
        if deterministic:
            return self.actor_critics.predict(observations, None)
        assert noise is not None
        return self.actor_critics.predict(observations, noise)

    def player(
        self, noise: Streams | None, masks: Masks | None = None
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        return self.actor_critics.player(noise, masks)

    def streams(self) -> list[Streams]:
        return self.actor_critics.streams()

    def state(self, seed: int) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        arrays, plain = super().state(seed)
        arrays["starts"] = self.starts[seed]
        return {**arrays, **self.actor_critics.state(seed)}, plain

    def restore(self, stored: Sequence[tuple[Mapping[str, np.ndarray], dict[str, Any]]]) -> None:
        super().restore(stored)
        self.starts = np.stack([arrays["starts"] for arrays, _ in stored])
        self.actor_critics.restore([arrays for arrays, _ in stored])
