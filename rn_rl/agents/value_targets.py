"""Callback that gives PopArt output layers the targets of their values."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sb3_contrib import QRDQN
from stable_baselines3 import DQN, SAC
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from rn_rl.errors import UserError
from rn_rl.normalization.popart import PopArt, popart_layers
from rn_rl.policies.divergence import evenly_spaced

TARGET_ROWS = 256
"""Number of transitions, evenly spaced in the replay memory, whose targets are computed."""


class ValueTargets(BaseCallback):
    """Observe the targets of a phase for ``value_norm="popart"``; without such a layer, do nothing.

    A policy sees no rewards, so its output layers cannot compute the targets themselves. At the end of
    each rollout, before the gradient steps, this callback gives them:

    =====================  ==============================================================
    on-policy algorithms   the returns of the rollout
    DQN                    ``r + gamma * max_a Q_target(s', a)`` of replayed transitions; with
                           ``n_steps``, n rewards and ``gamma^n``
    QR-DQN                 the same with the mean over quantiles
    SAC                    ``r + gamma * (min_i Q_target_i(s', a') - alpha * log pi(a' | s'))``
    =====================  ==============================================================

    ``rn-rl train`` adds it by itself, and so do our agents.

    Args:
        max_rows: number of transitions, evenly spaced in the replay memory, whose targets are computed.
    """

    def __init__(self, max_rows: int = TARGET_ROWS) -> None:
        super().__init__()
        self.max_rows = max_rows
        self._layers: list[PopArt] = []

    def _init_callback(self) -> None:
        self._layers = [layer for layer in popart_layers(self.model.policy) if not layer.frozen]
        known = isinstance(self.model, (DQN, QRDQN, SAC)) or not isinstance(
            self.model, OffPolicyAlgorithm
        )
        if self._layers and not known:
            raise UserError(
                f"value_norm='popart' with {type(self.model).__name__}: its targets are not known; "
                "expected DQN, QR-DQN, SAC or an on-policy algorithm"
            )

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        if not self._layers:
            return
        model: Any = self.model
        if isinstance(model, OffPolicyAlgorithm):
            if model.num_timesteps <= model.learning_starts or model.replay_buffer is None:
                return
            targets = self._of_replay()
        else:
            targets = torch.as_tensor(model.rollout_buffer.returns)
        for layer in self._layers:
            layer.observe_targets(targets)

    @torch.no_grad()
    def _of_replay(self) -> Tensor:
        """Return the targets of transitions in the replay memory, ``(rows,)``."""
        model: Any = self.model
        memory = model.replay_buffer
        rows = evenly_spaced(memory.size(), self.max_rows)
        if model.n_steps > 1:
            return self._of_several_steps(rows)
        following = getattr(memory, "next_observations", None)
        if following is None or getattr(memory, "optimize_memory_usage", False):
            following, at = memory.observations, (rows + 1) % memory.buffer_size
        else:
            at = rows
        chosen = (
            {k: v[at, 0] for k, v in following.items()}
            if isinstance(following, dict)
            else following[at, 0]
        )
        rewards = memory.rewards[rows, 0]
        normalizer = model.get_vec_normalize_env()
        if normalizer is not None:
            chosen, rewards = normalizer.normalize_obs(chosen), normalizer.normalize_reward(rewards)
        ended = memory.dones[rows, 0] * (1 - memory.timeouts[rows, 0])
        values = self._values(obs_as_tensor(chosen, model.device)).cpu()
        return torch.as_tensor(rewards) + model.gamma * (1 - torch.as_tensor(ended)) * values

    def _of_several_steps(self, rows: np.ndarray) -> Tensor:
        """Return the n-step targets that the memory makes of transitions that begin at some rows."""
        model: Any = self.model
        before = np.random.get_state()  # the memory draws an environment for each row
        found = model.replay_buffer._get_samples(rows, env=model.get_vec_normalize_env())
        np.random.set_state(before)
        values = self._values(found.next_observations).cpu()
        rewards, ended, discounts = (
            each.cpu().reshape(-1) for each in (found.rewards, found.dones, found.discounts)
        )
        return rewards + discounts * (1 - ended) * values

    def _values(self, obs: Any) -> Tensor:
        """Return the values that the algorithm's targets have for next observations, ``(rows,)``."""
        model: Any = self.model
        if isinstance(model, QRDQN):
            return model.quantile_net_target(obs).mean(1).amax(1)
        if isinstance(model, DQN):
            return model.q_net_target(obs).amax(1)
        devices: list[int] | None = [] if model.device.type == "cpu" else None
        with torch.random.fork_rng(
            devices
        ):  # training draws the same numbers with and without this
            actions, log_prob = model.actor.action_log_prob(obs)
        values = torch.cat(model.critic_target(obs, actions), 1).amin(1)
        learned = model.log_ent_coef
        alpha = model.ent_coef_tensor if learned is None else learned.detach().exp()
        return values - alpha * log_prob.reshape(-1)
