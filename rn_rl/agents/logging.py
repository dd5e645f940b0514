"""What the normalizers did, in SB3's logger: gain and code length per layer, the KL of commits."""

from __future__ import annotations

import copy
import math
from collections import deque
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import kl_divergence
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor, nn

from rn_rl.normalization import RegularityNorm, phase_norms, state_before_commit


class NormalizerLogger(BaseCallback):
    """Logs, for any agent with normalizers, stock or ours, beside SB3's own figures:

    ==============================  ======================================================
    ``normalizer/gain/<layer>``     mean gain of the layer after the last commit
    ``normalizer/code_length/...``  mean code length in nats of its last phase
    ``normalizer/commit_kl``        mean KL(before || after) of the last commits measured
    ``normalizer/commit_greedy``    DQN: share of greedy actions that a commit changed
    ==============================  ======================================================

    A commit is an unclipped step of the policy, so its KL belongs beside ``train/approx_kl``. For
    PPO the two policies are compared on observations of the rollout just learned from; for DQN they
    are ``softmax(Q)`` on observations from the replay buffer.

    Args:
        max_observations: rows on which a KL is measured.
        measure_every: measure every n-th commit; None is 1 for on-policy and 50 for off-policy
            algorithms, whose commits are many and small.
    """

    def __init__(
        self,
        max_observations: int = 512,
        measure_every: int | None = None,
    ) -> None:
        super().__init__()
        self.max_observations = max_observations
        self.measure_every = measure_every
        self.history: list[tuple[int, list[float]]] = []
        """One entry a phase: timesteps, then the mean gain of each layer."""
        self.commit_kls: list[float] = []
        """Every KL measured."""
        self._recent: deque[tuple[float, float]] = deque(maxlen=1)
        self.rollouts = 0
        """Rollouts begun."""
        self._observations: Any = None
        self._layers: dict[str, nn.Module] = {}

    def _init_callback(self) -> None:
        online = getattr(self.model.policy, "q_net", self.model.policy)
        self._online: nn.Module = online
        self._layers = dict(phase_norms(online))
        if self.measure_every is None:
            self.measure_every = 50 if isinstance(self.model, OffPolicyAlgorithm) else 1
        if isinstance(self.model, OffPolicyAlgorithm):  # many small commits: smooth over the last
            self._recent = deque(maxlen=10)

    @property
    def layer_names(self) -> list[str]:
        """Names of the columns of :attr:`history`."""
        return list(self._layers)

    def _on_rollout_start(self) -> None:
        """Right after SB3 went to evaluation mode, that is, after the commit."""
        now = self.model.num_timesteps
        if not self._layers or (self.history and self.history[-1][0] == now):
            return  # a resumed run stands at a phase that is in its history already
        self.rollouts += 1
        self.history.append((now, [mean_gain(norm) for norm in self._layers.values()]))
        assert self.measure_every is not None
        if self.rollouts % self.measure_every == 0:
            self._measure()

    def _measure(self) -> None:
        observations = self._sample_observations()
        if observations is not None:
            kl, greedy = self._commit_size(observations)
            self.commit_kls.append(kl)
            self._recent.append((kl, greedy))
            kl, greedy = np.mean(self._recent, axis=0)
            self.logger.record("normalizer/commit_kl", float(kl))
            if not math.isnan(greedy):
                self.logger.record("normalizer/commit_greedy", float(greedy))
        gains = {name: mean_gain(norm) for name, norm in self._layers.items()}
        for name, gain in gains.items():
            self.logger.record(f"normalizer/gain/{name}", gain, exclude="stdout")
            norm = self._layers[name]
            if isinstance(norm, RegularityNorm):
                length = float(norm.code_length.mean())
                self.logger.record(f"normalizer/code_length/{name}", length, exclude="stdout")
        self.logger.record("normalizer/gain", float(np.mean([*gains.values()])), exclude="tensorboard")

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = getattr(self.model, "rollout_buffer", None)
        if buffer is None or not self._layers:
            return
        self._observations = strided(buffer.observations, self.max_observations)

    def _sample_observations(self) -> Any:
        if isinstance(self.model, OffPolicyAlgorithm):
            memory = self.model.replay_buffer
            if memory is None or memory.size() == 0:
                return None
            pick = evenly_spaced(memory.size(), self.max_observations)
            seen = memory.observations
            chosen = (
                {key: value[pick, 0] for key, value in seen.items()}
                if isinstance(seen, dict)
                else seen[pick, 0]
            )
            normalizer = self.model.get_vec_normalize_env()
            return normalizer.normalize_obs(chosen) if normalizer is not None else chosen
        return self._observations

    @torch.no_grad()
    def _commit_size(self, observations: Any) -> tuple[float, float]:
        obs = obs_as_tensor(observations, self.model.device)
        policy = self.model.policy
        if isinstance(policy, ActorCriticPolicy):
            with state_before_commit(policy):
                before = policy.get_distribution(obs).distribution
                # SB3 reuses its distribution object: keep torch's, ask for the new one after
                holder = policy.action_dist
                old = _copy_distribution(holder, before)
            new = policy.get_distribution(obs)
            divergence = kl_divergence(old, new)
            return float(divergence.reshape(len(divergence), -1).sum(1).mean()), math.nan
        q_net: Any = self._online
        with state_before_commit(q_net):
            q_before: Tensor = q_net(obs)
        q_after: Tensor = q_net(obs)
        old_log = q_before.log_softmax(1)
        kl = (old_log.exp() * (old_log - q_after.log_softmax(1))).sum(1).mean()
        changed = (q_before.argmax(1) != q_after.argmax(1)).double().mean()
        return float(kl), float(changed)


def _copy_distribution(holder: Any, torch_distribution: Any) -> Any:
    """An SB3 distribution of its own around a torch distribution."""
    duplicate = copy.copy(holder)
    duplicate.distribution = torch_distribution
    return duplicate


def mean_gain(norm: Any) -> float:
    """Mean over the codes of a layer, as a number."""
    return float(norm.gain.mean())


def strided(array: Any, rows: int) -> Any:
    """At most so many rows, evenly spaced, of a rollout of shape ``(steps, envs, ...)``."""
    if isinstance(array, dict):
        return {key: strided(value, rows) for key, value in array.items()}
    flat = array.reshape(-1, *array.shape[2:])
    return flat[evenly_spaced(len(flat), rows)]


def evenly_spaced(size: int, rows: int) -> np.ndarray:
    """At most so many positions, spread over all of them."""
    return np.linspace(0, size - 1, min(rows, size)).astype(int)
