"""PQN: Q-learning without a replay memory and without a target network."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import MaybeCallback, Schedule
from stable_baselines3.common.utils import LinearSchedule
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from rn_rl.agents._arguments import with_logger, with_norm
from rn_rl.errors import UserError
from rn_rl.policies.nets import net_of
from rn_rl.policies.pqn import NormPQNPolicy


class PQN(OnPolicyAlgorithm):
    r"""Parallelized Q-network: Q(lambda) on rollouts of many environments, stabilized by normalization.

    There is neither a replay memory nor a target network: LayerNorm in every hidden layer is what keeps
    the values from diverging, so this is a setting in which a normalizer is *needed*. Each rollout gives
    the targets

    .. math:: R_t = r_t + \gamma (1 - d_t)
        [ (1 - \lambda) \max_a Q(s_{t+1}, a) + \lambda R_{t+1} ]

    with the Q-network that collected it, and then ``n_epochs`` of minibatches minimize
    :math:`\frac{1}{2} (Q(s_t, a_t) - R_t)^2`.

    Args:
        policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"``, or a ``NormPQNPolicy``.
        env: as in PPO; the paper has 32 to 1,024 environments.
        norm: normalizer spec, LayerNorm by default.
        learning_rate: number or schedule.
        n_steps: steps of each environment in a rollout.
        batch_size: rows of a minibatch; checked when learning begins, since an agent that only acts may
            have fewer environments.
        n_epochs: passes over each rollout.
        gamma: discount factor.
        q_lambda: lambda, in [0, 1]: 0 bootstraps after one step, 1 at the end of the rollout.
        exploration_fraction: share of the training in which epsilon falls linearly.
        exploration_initial_eps: first epsilon.
        exploration_final_eps: last epsilon.
        max_grad_norm: norm to which larger gradients are clipped.
        reward_scale: factor on rewards under which the network learns.
        policy_kwargs: arguments of the policy; the optimizer is RAdam unless they have another.
        kwargs: further arguments of SB3's on-policy algorithms: ``seed``, ``device``, ...

    Raises:
        UserError: an argument is outside its range.

    Source: Gallici et al., "Simplifying Deep Temporal Difference Learning", arXiv 2407.04811, 2024;
    targets, loss, optimizer and exploration as in the authors' code (mttga/purejaxql,
    ``pqn_gymnax.py``), whose recursion these targets equal. One departure: an episode that a time limit
    cuts off is bootstrapped from the value of its last observation, as in SB3; it has not ended.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {
        "MlpPolicy": NormPQNPolicy,
        "CnnPolicy": NormPQNPolicy,
        "MultiInputPolicy": NormPQNPolicy,
    }
    policy: NormPQNPolicy  # type: ignore[assignment]

    def __init__(
        self,
        policy: str | type[BasePolicy],
        env: Any,
        norm: str = "ln",
        learning_rate: float | Schedule = 2.5e-4,
        n_steps: int = 64,
        batch_size: int = 128,
        n_epochs: int = 4,
        gamma: float = 0.99,
        q_lambda: float = 0.95,
        exploration_fraction: float = 0.2,
        exploration_initial_eps: float = 1.0,
        exploration_final_eps: float = 0.05,
        max_grad_norm: float = 10,
        reward_scale: float = 1.0,
        policy_kwargs: dict[str, Any] | None = None,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ) -> None:
        if not 0 <= q_lambda <= 1:
            raise UserError(f"q_lambda={q_lambda}: expected a number from 0 to 1")
        if not reward_scale > 0:
            raise UserError(f"reward_scale={reward_scale}: expected a factor above 0")
        given = policy_kwargs or {}
        if reward_scale != 1 and given.get("value_norm", "none") != "none":
            raise UserError(
                f"reward_scale={reward_scale} with value_norm={given['value_norm']!r}: both scale the "
                "values; expected one of them"
            )
        if not given.get("weight_decay", net_of(given.get("net", "mlp")).weight_decay):
            given = {"optimizer_class": torch.optim.RAdam, **given}
        self.norm = given.get("norm", norm)
        self.batch_size, self.n_epochs = batch_size, n_epochs
        self.q_lambda, self.reward_scale = q_lambda, reward_scale
        self.exploration_fraction = exploration_fraction
        self.exploration_initial_eps = exploration_initial_eps
        self.exploration_final_eps = exploration_final_eps
        self.exploration_rate = exploration_initial_eps
        norm_policy, given = with_norm(policy, NormPQNPolicy, norm, given)
        super().__init__(
            norm_policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=q_lambda,
            ent_coef=0.0,
            vf_coef=1.0,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            policy_kwargs=given,
            supported_action_spaces=(spaces.Discrete,),
            _init_setup_model=_init_setup_model,
            **kwargs,
        )

    def _setup_model(self) -> None:
        super()._setup_model()
        self.policy.reward_scale = self.reward_scale
        self.policy.exploration_rate = self.exploration_rate
        self.exploration_schedule = LinearSchedule(
            self.exploration_initial_eps, self.exploration_final_eps, self.exploration_fraction
        )

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        check_minibatch(self.batch_size, self.n_steps, self.n_envs)
        return super()._setup_learn(*args, **kwargs)

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        rollout_buffer: RolloutBuffer,
        n_rollout_steps: int,
    ) -> bool:
        self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)
        self.policy.exploration_rate = self.exploration_rate
        self.logger.record("rollout/exploration_rate", self.exploration_rate)
        # with max_a Q as values, SB3's returns of generalized advantages are those of Q(lambda)
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def train(self) -> None:
        """Minimize the squared error to the targets of the rollout."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        losses = []
        for _ in range(self.n_epochs):
            for rows in self.rollout_buffer.get(self.batch_size):
                loss = self.loss(rows)
                losses.append(loss.item())
                self.policy.optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
                self.policy.optimizer.step()
        self._n_updates += self.n_epochs
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/loss", np.mean(losses))
        self.logger.record("train/value", float(self.rollout_buffer.values.mean()))

    def loss(self, rows: Any) -> Tensor:
        """Compute ``mean((Q(s, a) - reward_scale * R)^2) / 2`` of a minibatch, a scalar."""
        actions = rows.actions.long().reshape(-1, 1)
        q_values = self.policy.q_net(rows.observations).gather(1, actions)[:, 0]
        return 0.5 * (q_values - self.reward_scale * rows.returns).square().mean()

    def predict(
        self,
        observation: Any,
        state: Any = None,
        episode_start: Any = None,
        deterministic: bool = False,
    ) -> Any:
        self.policy.exploration_rate = self.exploration_rate
        return super().predict(observation, state, episode_start, deterministic)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        return super()._init_callback(with_logger(callback), progress_bar)


def check_minibatch(batch_size: int, n_steps: int, n_envs: int) -> None:
    """Raise :class:`UserError` unless a rollout has the rows of a minibatch."""
    rows = n_steps * n_envs
    if not 1 <= batch_size <= rows:
        raise UserError(
            f"batch_size={batch_size}: expected 1 to {rows}, the rows of a rollout ({n_steps} steps of "
            f"{n_envs} environments); take more of either, or a smaller batch_size"
        )
