"""Seed batch of MaskablePPO: PPO whose policies choose among the allowed actions."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from sb3_contrib import MaskablePPO
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import Tensor
from torch.distributions import Distribution

from rn_rl.agents.seed_batch.actor_critic import ActorCritics
from rn_rl.agents.seed_batch.ppo import SeedBatchPPO
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.agents.seed_batch.rollout import PolicyOutput, SeedRollout, by_seed
from rn_rl.agents.seed_batch.vector_envs import Masks
from rn_rl.engine.ensemble import ModuleStack
from rn_rl.policies.divergence import evenly_spaced


class MaskedActorCritics(ActorCritics):
    """The policies of all seeds, with the action masks of every environment.

    Args:
        stack: see :class:`ActorCritics`.
        model: see :class:`ActorCritics`.
        seeds: see :class:`ActorCritics`.
        num_envs: see :class:`ActorCritics`.
    """

    num_masks: ClassVar[int] = 1

    def __init__(self, stack: ModuleStack, model: Any, seeds: Sequence[int], num_envs: int) -> None:
        super().__init__(stack, model, seeds, num_envs)
        self.next_masks: np.ndarray | None = None
        """Allowed actions of the next step, ``(seeds, envs, actions)``; None: all."""
        shape = model.n_steps, self.size, num_envs, int(model.action_space.n)
        self.masks = np.ones(shape, bool)
        """Allowed actions of each step of the current rollout."""

    @staticmethod
    def cannot(model: Any) -> str | None:
        if not isinstance(model.action_space, spaces.Discrete):
            return f"actions are {model.action_space}, not Discrete"
        return None

    def caches(self) -> bool:
        return False  # equal observations can have other masks

    def act(self, observations: np.ndarray, starts: np.ndarray, t: int) -> PolicyOutput:
        self.masks[t] = True if self.next_masks is None else self.next_masks
        arrays = observations, self.sampling.draw(), self.masks[t]
        found = self._act(*self.stack.tensors, *map(self.tensor, arrays))
        return PolicyOutput(*(part.cpu().numpy() for part in found))

    def predict(self, observations: np.ndarray, noise: np.ndarray | None) -> np.ndarray:
        """Return actions as if all of them were allowed; :meth:`player` keeps to the masks."""
        return self._choose(observations, noise, None)

    def player(
        self, noise: Streams | None, masks: Masks | None = None
    ) -> Callable[[np.ndarray, np.ndarray], np.ndarray]:
        def play(observations: np.ndarray, starts: np.ndarray) -> np.ndarray:
            drawn = None if noise is None else noise.draw()
            return self._choose(observations, drawn, None if masks is None else masks())

        return play

    def _choose(
        self, observations: np.ndarray, noise: np.ndarray | None, masks: np.ndarray | None
    ) -> np.ndarray:
        if masks is None:
            masks = np.ones((*observations.shape[:2], int(self.model.action_space.n)), bool)
        own, x, allowed = self.stack.tensors, self.tensor(observations), self.tensor(masks)
        if noise is None:
            return self._modes(*own, x, allowed).cpu().numpy()
        actions: np.ndarray = self._act(*own, x, self.tensor(noise), allowed)[0].cpu().numpy()
        return actions

    def minibatches(self, rollout: SeedRollout) -> Iterator[tuple[np.ndarray, Sequence[Tensor]]]:
        masks = by_seed(self.masks)
        for chosen, _ in super().minibatches(rollout):
            yield chosen, [self.tensor(np.take_along_axis(masks, chosen[..., None], 1))]


class SeedBatchMaskablePPO(SeedBatchPPO):
    """sb3-contrib's MaskablePPO for S seeds at once; see :class:`~rn_rl.agents.SeedBatch`.

    Environments without ``action_masks()`` allow all actions, as PPO would. All that differs from PPO is
    in :class:`MaskedActorCritics`.

    Args:
        models: see :class:`~rn_rl.agents.SeedBatchPPO`.
        envs: see :class:`~rn_rl.agents.SeedBatchPPO`.
        compile: see :class:`~rn_rl.agents.SeedBatchPPO`.
    """

    algorithm: ClassVar[type[BaseAlgorithm]] = MaskablePPO
    gives_priors = False
    policy_class: ClassVar[type[ActorCritics]] = MaskedActorCritics
    model: Any
    actor_critics: MaskedActorCritics

    def act(self, observations: np.ndarray, t: int) -> PolicyOutput:
        self.actor_critics.next_masks = self.envs.action_masks()
        return super().act(observations, t)

    def policies(self, tensors: Sequence[Tensor], observations: Tensor) -> Distribution:
        """Return the policies under the masks of :meth:`recent_observations`."""
        masks = by_seed(self.actor_critics.masks)
        rows = observations.shape[1]
        pick = evenly_spaced(masks.shape[1], rows)
        allowed = torch.from_numpy(masks[:, pick]).to(self.device)
        return self.actor_critics.distributions(tensors, observations, allowed)
