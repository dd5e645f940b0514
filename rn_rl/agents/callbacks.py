"""Logging callback: gain and code length of each normalizer, and the KL divergence of commits."""

from __future__ import annotations

import warnings
from collections import deque
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor
from torch.distributions import Categorical

from rn_rl.normalization import PhaseNorm, RegularityNorm, phase_norms, state_before_commit
from rn_rl.policies.divergence import behaviour, evenly_spaced, mean_kl, q_network


class NormalizerLogger(BaseCallback):
    """Log the state of the normalizers of any agent, stock or ours, to SB3's logger:

    ============================  ========================================================
    ``normalizer/gain/<layer>``    mean gain of the layer after the last commit
    ``normalizer/code_length/..``  mean code length in nats of its last phase
    ``normalizer/commit_kl``       mean KL(before || after) of the last commits measured
    ``normalizer/commit_greedy``   DQN, QR-DQN: share of greedy actions that a commit changed
    ``normalizer/commit_action``   TD3, DDPG, which have no KL: mean absolute change of the
                                   action, each component in [-1, 1]
    ============================  ========================================================

    Gains and code lengths are there at each timestep at which SB3's logger writes a row. Layers are those
    of the online networks; target networks are left out. A commit is an unclipped step of the policy, so
    its KL belongs beside ``train/approx_kl``. The policies before and after a commit are compared as
    follows:

    =====================  ===============================================================
    PPO, A2C, TRPO         action distributions, on observations of the last rollout
    MaskablePPO            the same, under the masks of those observations
    RecurrentPPO           the same, as if each observation began an episode (LSTM state 0)
    SAC, TQC, CrossQ       the Gaussians before squashing, on observations from the replay buffer
    DQN, QR-DQN            ``softmax(Q)``, on the same; Q of QR-DQN is the mean over quantiles
    ARS                    not at all: it has no phases, so its normalizers never commit
    =====================  ===============================================================

    Warns:
        UserWarning: observations are normalized twice, by ``VecNormalize`` and by ``obs_norm``.

    Args:
        max_observations: number of observations on which a KL is measured.
        measure_every: interval of measurements in commits; None: 1 for on-policy algorithms, and 50 for
            off-policy algorithms, whose commits are many and small.
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
        """Timesteps, and mean gain of each layer, at the beginning of each phase."""
        self.commit_kls: list[float] = []
        """KL divergences measured, in nats."""
        self.commit_actions: list[float] = []
        """Mean absolute changes of the action measured (TD3, DDPG)."""
        self.recent_commits: deque[dict[str, float]] = deque(maxlen=1)
        """Sizes of the last commits, by their logged names; their mean is logged."""
        self.rollouts = 0
        """Number of rollouts begun."""
        self._off_policy = False
        self._observations: Any = None
        self._masks: np.ndarray | None = None
        self._layers: dict[str, PhaseNorm] = {}
        self._agent: Any = None

    def _init_callback(self) -> None:
        if self._agent is not None and self._agent is not self.model:  # of another environment
            self._observations, self._masks = None, None
        self._agent = self.model
        warn_of_two_normalizers(self.model)
        self._layers = online_norms(self.model.policy)
        self._off_policy = isinstance(self.model, OffPolicyAlgorithm)
        if self.measure_every is None:
            self.measure_every = 50 if self._off_policy else 1
        if self._off_policy:  # many small commits: log the mean of the last ones
            self.recent_commits = deque(self.recent_commits, maxlen=10)

    @property
    def layer_names(self) -> list[str]:
        """Names of the layers, in the order of the gains in :attr:`history`."""
        return list(self._layers)

    def _on_rollout_start(self) -> None:
        """Record gains; SB3 has just switched to evaluation mode, so the normalizers have committed."""
        now = self.model.num_timesteps
        if not self._layers or (self.history and self.history[-1][0] == now):
            return  # a resumed run begins at a phase that is in its history already
        self.rollouts += 1
        gains = [mean_gain(norm) for norm in self._layers.values()]
        self.history.append((now, gains))
        self._record_gains()
        assert self.measure_every is not None
        if self.rollouts % self.measure_every == 0:
            self._measure()

    def _measure(self) -> None:
        observations = self._sample_observations()
        if observations is not None:
            size = self._commit_size(observations)
            self.recent_commits.append(size)
            if "commit_kl" in size:
                self.commit_kls.append(size["commit_kl"])
            if "commit_action" in size:
                self.commit_actions.append(size["commit_action"])
            for name in size:
                recent = float(np.mean([measured[name] for measured in self.recent_commits]))
                self.logger.record(f"normalizer/{name}", recent)

    def _record_gains(self) -> None:
        """Record the gains of this phase."""
        _, gains = self.history[-1]
        for (name, norm), gain in zip(self._layers.items(), gains, strict=True):
            self.logger.record(f"normalizer/gain/{name}", gain, exclude="stdout")
            if isinstance(norm, RegularityNorm):  # whose gain is the code length
                self.logger.record(f"normalizer/code_length/{name}", gain, exclude="stdout")
        self.logger.record("normalizer/gain", float(np.mean(gains)), exclude="tensorboard")

    def _record_gains_again(self) -> None:
        """Record the gains of this phase if SB3's logger has written a row since, which clears them.

        With a replay buffer there are several rows in one phase.
        """
        if self.history and "normalizer/gain" not in self.logger.name_to_value:
            self._record_gains()

    def _on_step(self) -> bool:
        self._record_gains_again()
        return True

    def _on_rollout_end(self) -> None:
        self._record_gains_again()  # where an evaluation at the last step wrote a row
        buffer = getattr(self.model, "rollout_buffer", None)
        if buffer is None or not self._layers:
            return
        self._observations = strided(buffer.observations, self.max_observations)
        if hasattr(buffer, "action_masks"):
            self._masks = strided(buffer.action_masks, self.max_observations)

    def _sample_observations(self) -> Any:
        if self._off_policy:
            memory: Any = self.model.replay_buffer  # type: ignore[attr-defined]
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
    def _commit_size(self, observations: Any) -> dict[str, float]:
        """Measure how far the last commit moved the policy; keys are the logged names."""
        policy = self.model.policy
        obs = obs_as_tensor(observations, self.model.device)
        with state_before_commit(policy):
            before = behaviour(policy, obs, self._masks)
        after = behaviour(policy, obs, self._masks)
        if not isinstance(before, Tensor):
            return {"commit_kl": mean_kl(before, after)}
        if q_network(policy) is None:
            return {"commit_action": float((before - after).abs().mean())}
        old, new = (Categorical(logits=q, validate_args=False) for q in (before, after))
        changed = (before.argmax(1) != after.argmax(1)).double().mean()
        return {"commit_kl": mean_kl([old], [new]), "commit_greedy": float(changed)}


def warn_of_two_normalizers(model: BaseAlgorithm) -> None:
    """Warn if ``VecNormalize`` and the ``obs_norm`` of the policy both normalize observations."""
    outside = model.get_vec_normalize_env()
    inside = getattr(model.policy, "obs_norm", "none")
    if outside is not None and outside.norm_obs and inside != "none":
        warnings.warn(
            f"observations are normalized twice, by VecNormalize and by obs_norm={inside!r}; expected "
            "one of them: VecNormalize(norm_obs=False), or policy_kwargs={'obs_norm': 'none'}",
            stacklevel=2,
        )


def online_norms(policy: BasePolicy) -> dict[str, PhaseNorm]:
    """Return the normalizers of a policy's online networks by name, without those of targets."""
    norms = phase_norms(q_network(policy) or policy)
    return {name: norm for name, norm in norms.items() if "_target." not in name}


def mean_gain(norm: Any) -> float:
    """Return the mean gain over the codes of a normalizer."""
    return float(norm.gain.mean())


def strided(array: Any, rows: int) -> Any:
    """Return at most ``rows`` evenly spaced rows of an array, or a dict of arrays.

    Args:
        array: rollout array ``(steps, envs, ...)``, of which each step of an environment is a row.
        rows: largest number of rows.
    """
    if isinstance(array, dict):
        return {key: strided(value, rows) for key, value in array.items()}
    flat = array.reshape(-1, *array.shape[2:])
    return flat[evenly_spaced(len(flat), rows)]
