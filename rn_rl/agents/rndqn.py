"""RNDQN: SB3's DQN with normalizers that weight replayed samples by their age."""

from __future__ import annotations

import math
from contextlib import ExitStack, nullcontext
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.utils import get_parameters_by_name
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rn_rl.agents._arguments import with_logger, with_norm
from rn_rl.agents.priors import replay_priors
from rn_rl.agents.replay import (
    AgeWeightedDictReplayBuffer,
    AgeWeightedReplayBuffer,
    AgeWeights,
)
from rn_rl.errors import UserError, unknown
from rn_rl.normalization import (
    PublishedRegularityNorm,
    observation_weights,
    observed_acting,
    phase_norms,
)
from rn_rl.policies import NormDQNPolicy

LOSSES = {"huber": F.smooth_l1_loss, "mse": F.mse_loss}
"""Losses of the temporal-difference error: the Huber loss, as in SB3, or the mean squared error."""


class RNDQN(DQN):
    """SB3's DQN with normalizers that weight replayed samples less the older they are.

    Replayed samples come from older policies. The normalizers observe each with a weight proportional to
    ``2 ** (-age / age_half_life)``, see :class:`~rn_rl.agents.AgeWeightedReplayBuffer`; the gradient
    weights all samples equally, as in DQN. The lists of state tensors that SB3 copies to the target
    network are rebuilt before each copy, so that they stay valid when the policy moves to another device
    (in stock SB3 the target's state is frozen from then on).

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a ``NormDQNPolicy``.
        env: as in DQN.
        norm: normalizer spec such as ``"rn"`` or ``"ln+rn"``; also ``"sn(prior=td)"`` and the other
            priors of :mod:`rn_rl.agents.priors`, in updates only.
        age_half_life: half-life in timesteps of a replayed sample's weight in the statistics; None
            weights all samples equally, as stock DQN with ``policy_kwargs("rn")`` does.
        loss: ``"huber"`` (SB3's) or ``"mse"``, the mean over a minibatch of the squared error between
            ``Q(s, a)`` and ``r + gamma * max_a' Q_target(s', a')``.
        max_grad_norm: norm to which larger gradients are clipped; None does not clip.
        exploration_decay: factor by which epsilon is multiplied at the end of each episode, from
            ``exploration_initial_eps`` down to ``exploration_final_eps``; None: SB3's linear schedule.
        target_observes: with ``rn-paper`` or ``rln-paper`` and ``loss="mse"``, give the target network
            statistics of its own, as the published agents had: it observes the next observations of
            each minibatch, and nothing is copied to it but weights.
        kwargs: as in DQN.

    Raises:
        UserError: an unknown loss or normalizer, a decay outside (0, 1], a policy that does not take
            ``norm=``, ``n_steps`` above 1 or another replay buffer together with ``age_half_life``,
            ``target_observes`` with another normalizer or loss.
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
        target_observes: bool = False,
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
        self.target_observes = target_observes
        kwargs["max_grad_norm"] = math.inf if max_grad_norm is None else max_grad_norm
        norm_policy, kwargs["policy_kwargs"] = with_norm(
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
            given = self.replay_buffer_kwargs or {}  # of the user, who may use it again
            self.age_half_life = given.get("half_life_steps", self.age_half_life)
            self.replay_buffer_kwargs = {**given, "half_life_steps": self.age_half_life}
        super()._setup_model()
        if self.target_observes:
            self._let_target_observe()
        if self.exploration_decay is not None and not self.num_timesteps:  # else it was loaded
            self.exploration_rate = self.exploration_initial_eps

    def _let_target_observe(self) -> None:
        """Unfreeze the published normalizers of the target network, which is otherwise only copied to."""
        norms = list(phase_norms(self.q_net_target).values())
        published = [norm for norm in norms if isinstance(norm, PublishedRegularityNorm)]
        if not published or len(published) < len(norms) or self.loss == "huber":
            raise UserError(
                f"target_observes with normalizer {self.norm!r}, loss {self.loss!r}: expected rn-paper "
                "or rln-paper, no other normalizer with state, and loss='mse'"
            )
        for norm in published:
            norm.freeze(False)

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        memory = self.replay_buffer
        with ExitStack() as stack:
            if isinstance(memory, AgeWeights):
                stack.enter_context(observation_weights(self.q_net, memory.weights))
            stack.enter_context(replay_priors(self))
            self._gradient_steps(gradient_steps, batch_size)

    def _gradient_steps(self, gradient_steps: int, batch_size: int) -> None:
        """Train as DQN does, with this agent's loss: SB3's ``train`` has no argument for the loss."""
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
        """Compute the loss of one minibatch from the replay buffer, a scalar."""
        assert self.replay_buffer is not None
        batch = self.replay_buffer.sample(batch_size, env=self._vec_normalize_env)
        discounts = self.gamma if batch.discounts is None else batch.discounts
        target = self.q_net_target
        with torch.no_grad(), observed_acting(target) if self.target_observes else nullcontext():
            future = target(batch.next_observations).amax(1, keepdim=True)
            targets = batch.rewards + (1 - batch.dones) * discounts * future
        values = self.q_net(batch.observations).gather(1, batch.actions.long())
        return LOSSES[self.loss](values, targets)

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
            decayed = self.exploration_rate * self.exploration_decay ** int(np.sum(dones))
            self.exploration_rate = max(self.exploration_final_eps, decayed)

    def _on_step(self) -> None:
        interval = max(self.target_update_interval // self.n_envs, 1)
        if (self._n_calls + 1) % interval == 0:
            copied = [] if self.target_observes else ["running_"]
            self.batch_norm_stats = get_parameters_by_name(self.q_net, copied)
            self.batch_norm_stats_target = get_parameters_by_name(self.q_net_target, copied)
        rate = self.exploration_rate
        super()._on_step()
        if self.exploration_decay is not None:  # undo the linear schedule that SB3 has just applied
            self.exploration_rate = rate
            self.logger.record("rollout/exploration_rate", rate)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        return super()._init_callback(with_logger(callback), progress_bar)
