"""RNDQN and RNPPO: SB3's agents for those who want the replay-aware state and the logging."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import get_parameters_by_name
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rn_rl.agents.callbacks import NormalizerLogger
from rn_rl.agents.replay import (
    AgeWeightedDictReplayBuffer,
    AgeWeightedReplayBuffer,
    AgeWeights,
)
from rn_rl.errors import UserError, unknown
from rn_rl.normalization import observation_weights, parse_spec
from rn_rl.policies import NormActorCriticPolicy, NormDQNPolicy

LOSSES = {"huber": F.smooth_l1_loss, "mse": F.mse_loss}
"""Losses of the temporal-difference error: Huber's as in SB3, or the mean squared error."""

_ALIASES = ("MlpPolicy", "CnnPolicy", "MultiInputPolicy")


def _with_norm(
    policy: str | type[BasePolicy],
    norm_policy: type[BasePolicy],
    norm: str,
    kwargs: dict[str, Any] | None,
) -> tuple[Any, dict[str, Any]]:
    """The Norm policy and its arguments for what a user gave."""
    parse_spec(norm)
    if isinstance(policy, str):
        if policy not in _ALIASES:
            raise UserError(f"policy {policy!r}: expected one of {', '.join(_ALIASES)} or a class")
        policy = norm_policy
    if not issubclass(policy, norm_policy):
        raise UserError(
            f"policy {policy.__name__}: expected a subclass of {norm_policy.__name__}, which takes "
            "norm=; or use the stock agent with this policy"
        )
    return policy, {"norm": norm, **(kwargs or {})}


def _with_logger(callback: Any) -> BaseCallback:
    """A user's callback (any form that SB3 takes) after our logger, unless it holds one already."""
    if callback is None:
        return NormalizerLogger()
    given = callback if isinstance(callback, list) else [callback]
    callbacks = [c if isinstance(c, BaseCallback) else ConvertCallback(c) for c in given]
    merged = CallbackList(callbacks)
    return merged if _holds_logger(merged) else CallbackList([NormalizerLogger(), merged])


def _holds_logger(callback: BaseCallback) -> bool:
    if isinstance(callback, CallbackList):
        return any(map(_holds_logger, callback.callbacks))
    return isinstance(callback, NormalizerLogger)


class RNDQN(DQN):
    """SB3's DQN with normalizers that give replayed samples less weight the older they are.

    Replayed samples come from older policies. The normalizers observe each with a weight that is
    proportional to ``2 ** (-age / age_half_life)``, see :class:`AgeWeightedReplayBuffer`; the gradient
    uses the whole batch, as in DQN. Normalizer state of target networks is looked up when it is
    copied, so moving the policy to another device does not freeze it (in stock SB3 it does).

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a ``NormDQNPolicy``.
        env: as in DQN.
        norm: a spec such as ``"rn"`` or ``"ln+rn"``.
        age_half_life: timesteps after which a replayed sample counts half in the statistics; None
            observes all of them alike, as stock DQN with ``policy_kwargs("rn")`` does.
        loss: ``"huber"`` (SB3's) or ``"mse"``, the mean over a minibatch of the squared error between
            ``Q(s, a)`` and ``r + gamma * max_a' Q_target(s', a')``.
        max_grad_norm: largest norm of the gradient, to which it is clipped; None does not clip.
        exploration_decay: factor by which epsilon falls at the end of each episode, from
            ``exploration_initial_eps`` down to ``exploration_final_eps``; None: SB3's linear schedule.
        kwargs: as in DQN.

    Raises:
        UserError: an unknown loss, or a decay outside (0, 1].
    """

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        norm: str = "rn",
        age_half_life: float | None = 10_000,
        loss: str = "huber",
        max_grad_norm: float | None = 10,
        exploration_decay: float | None = None,
        **kwargs: Any,
    ) -> None:
        if loss not in LOSSES:
            raise unknown("loss", str(loss), LOSSES)
        if exploration_decay is not None and not 0 < exploration_decay <= 1:
            raise UserError(
                f"exploration_decay={exploration_decay}: expected a factor above 0 and at most 1"
            )
        self.norm = norm
        self.age_half_life = age_half_life
        self.loss = loss
        self.exploration_decay = exploration_decay
        kwargs["max_grad_norm"] = math.inf if max_grad_norm is None else max_grad_norm
        norm_policy, kwargs["policy_kwargs"] = _with_norm(
            policy, NormDQNPolicy, norm, kwargs.get("policy_kwargs")
        )
        super().__init__(norm_policy, env, **kwargs)

    def _setup_model(self) -> None:
        if self.age_half_life is not None:
            if self.n_steps > 1:
                raise UserError(
                    f"n_steps={self.n_steps}: an age-weighted replay buffer has 1-step transitions; "
                    "use n_steps=1, or age_half_life=None"
                )
            if self.replay_buffer_class is None:
                dict_space = isinstance(self.observation_space, spaces.Dict)
                self.replay_buffer_class = (
                    AgeWeightedDictReplayBuffer if dict_space else AgeWeightedReplayBuffer
                )
            if not issubclass(self.replay_buffer_class, AgeWeights):
                raise UserError(
                    f"replay_buffer_class {self.replay_buffer_class.__name__}: age_half_life needs an "
                    "AgeWeightedReplayBuffer; pass age_half_life=None to use this one"
                )
            self.replay_buffer_kwargs["half_life_steps"] = self.age_half_life
        super()._setup_model()
        if self.exploration_decay is not None:
            self.exploration_rate = self.exploration_initial_eps

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        memory = self.replay_buffer
        if isinstance(memory, AgeWeights):
            with observation_weights(self.q_net, memory.weights):
                self._gradient_steps(gradient_steps, batch_size)
        else:
            self._gradient_steps(gradient_steps, batch_size)

    def _gradient_steps(self, gradient_steps: int, batch_size: int) -> None:
        """Train as DQN does, with this agent's loss (SB3 writes the Huber loss into its method)."""
        if self.loss == "huber":
            super().train(gradient_steps, batch_size)
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        losses = []
        for _ in range(gradient_steps):
            loss = self._loss(batch_size)
            losses.append(loss.item())
            self.policy.optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.q_net.parameters(), self.max_grad_norm)
            self.policy.optimizer.step()
        self._n_updates += gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", np.mean(losses))

    def _loss(self, batch_size: int) -> Tensor:
        """Loss of one minibatch from the replay buffer."""
        assert self.replay_buffer is not None
        batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
        discounts = self.gamma if batch.discounts is None else batch.discounts
        with torch.no_grad():
            following = self.q_net_target(batch.next_observations).amax(1, keepdim=True)
            wanted = batch.rewards + (1 - batch.dones) * discounts * following
        values = self.q_net(batch.observations).gather(1, batch.actions.long())
        return LOSSES[self.loss](values, wanted)

    def _store_transition(
        self,
        replay_buffer: Any,
        buffer_action: Any,
        new_obs: Any,
        reward: Any,
        dones: np.ndarray,
        infos: Any,
    ) -> None:
        super()._store_transition(replay_buffer, buffer_action, new_obs, reward, dones, infos)
        if self.exploration_decay is not None:
            fallen = self.exploration_rate * self.exploration_decay ** int(np.sum(dones))
            self.exploration_rate = max(self.exploration_final_eps, fallen)

    def _on_step(self) -> None:
        interval = max(self.target_update_interval // self.n_envs, 1)
        if (self._n_calls + 1) % interval == 0:
            self.batch_norm_stats = get_parameters_by_name(self.q_net, ["running_"])
            self.batch_norm_stats_target = get_parameters_by_name(self.q_net_target, ["running_"])
        rate = self.exploration_rate
        super()._on_step()
        if self.exploration_decay is not None:  # not the schedule's, which SB3 has just set
            self.exploration_rate = rate
            self.logger.record("rollout/exploration_rate", rate)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        return super()._init_callback(_with_logger(callback), progress_bar)


class RNPPO(PPO):
    """SB3's PPO with normalizers, whose commits are measured and logged.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a
            ``NormActorCriticPolicy``.
        env: as in PPO.
        norm: a spec such as ``"rn"`` or ``"ln+rn"``.
        kwargs: as in PPO.
    """

    def __init__(
        self, policy: str | type[BasePolicy], env: Any, norm: str = "rn", **kwargs: Any
    ) -> None:
        self.norm = norm
        norm_policy, kwargs["policy_kwargs"] = _with_norm(
            policy, NormActorCriticPolicy, norm, kwargs.get("policy_kwargs")
        )
        super().__init__(norm_policy, env, **kwargs)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        return super()._init_callback(_with_logger(callback), progress_bar)
