"""Environments of many seeds, stepped together; episodes end at different times in each."""

from __future__ import annotations

import contextlib
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium import spaces
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from rn_rl.errors import UserError

Masks = Callable[[], np.ndarray | None]
"""Function that returns True for allowed actions, ``(seeds, envs, actions)``; None if all are."""


@dataclass
class Step:
    """Result of one step of all environments; arrays are ``(seeds, envs, ...)``."""

    observations: np.ndarray
    """Observations to act on next: the first of the next episode where one ended."""
    next_observations: np.ndarray
    """Observations that the actions led to: the last of the episode where one ended."""
    rewards: np.ndarray
    dones: np.ndarray
    """True where an episode terminated or was truncated."""
    timeouts: np.ndarray
    """True where an episode was truncated by a time limit and did not terminate at the same step."""


@dataclass(frozen=True)
class Episode:
    """A finished episode."""

    seed: int
    """Index of the seed in the batch."""
    env: int
    """Index of the environment among the seed's environments."""
    reward: float
    """Undiscounted return."""
    length: int
    """Number of steps."""


class SeedEnvs(ABC):
    """Environments of all seeds: ``num_envs`` for each of ``num_seeds`` seeds."""

    num_seeds: int
    num_envs: int
    """Number of environments of each seed."""
    observation_space: spaces.Space
    action_space: spaces.Space

    def __init__(self) -> None:
        self.finished: list[Episode] = []
        """Episodes that ended at the last step."""

    @abstractmethod
    def reset(self) -> np.ndarray:
        """Begin new episodes and return their first observations, ``(seeds, envs, ...)``."""

    @abstractmethod
    def step(self, actions: np.ndarray) -> Step:
        """Take actions ``(seeds, envs, ...)``, and begin a new episode where one ends."""

    def action_masks(self) -> np.ndarray | None:
        """Return True for actions that are allowed next, ``(seeds, envs, actions)``; None: all are."""
        return None

    def normalizers(self) -> list[VecNormalize]:
        """Return the ``VecNormalize`` of each seed; none where observations are as they are."""
        return []

    @abstractmethod
    def keep(self, seeds: Sequence[int]) -> None:
        """Go on with the environments of some seeds, given in ascending order, in their present state.

        A seed's number is then its position among those.
        """

    @abstractmethod
    def close(self) -> None:
        """Close the environments."""


class VecSeedEnvs(SeedEnvs):
    """One SB3 vector environment for each seed, stepped one after the other; any wrapper works.

    Images get their channels in front, as SB3 does for an agent.

    Args:
        envs: vector environments of equal size, one for each seed.

    Raises:
        UserError: there are none, or their sizes differ.
    """

    def __init__(self, envs: Sequence[VecEnv]) -> None:
        super().__init__()
        sizes = [env.num_envs for env in envs]
        if len(set(sizes)) != 1:
            raise UserError(f"vector environments of {sizes or 'no'} seeds: expected equal sizes")
        self.envs = [BaseAlgorithm._wrap_env(env, monitor_wrapper=False) for env in envs]
        self.num_seeds, self.num_envs = len(self.envs), self.envs[0].num_envs
        self.observation_space = self.envs[0].observation_space
        self.action_space = self.envs[0].action_space

    def reset(self) -> np.ndarray:
        return np.stack([np.asarray(env.reset()) for env in self.envs])

    def step(self, actions: np.ndarray) -> Step:
        self.finished = []
        parts: list[tuple[Any, ...]] = []
        for seed, (env, action) in enumerate(zip(self.envs, actions, strict=True)):
            observations, reward, done, infos = env.step(action)
            last: Any = observations
            timeout = np.zeros(self.num_envs, bool)
            if done.any():
                last = np.array(observations)
                for i in np.flatnonzero(done):
                    last[i] = infos[i]["terminal_observation"]
                    timeout[i] = infos[i].get("TimeLimit.truncated", False)
                    episode = infos[i].get("episode")
                    if episode is not None:
                        self.finished.append(Episode(seed, int(i), episode["r"], episode["l"]))
            parts.append((observations, last, reward, done, timeout))
        return Step(*(np.stack(part) for part in zip(*parts, strict=True)))

    def action_masks(self) -> np.ndarray | None:
        if not is_masking_supported(self.envs[0]):
            return None
        return np.stack([get_action_masks(env) for env in self.envs]).astype(bool)

    def normalizers(self) -> list[VecNormalize]:
        return [found for env in self.envs if (found := unwrap_vec_normalize(env)) is not None]

    def keep(self, seeds: Sequence[int]) -> None:
        close_all(env for seed, env in enumerate(self.envs) if seed not in seeds)
        self.envs = [self.envs[seed] for seed in seeds]
        self.num_seeds = len(self.envs)
        self.finished = []

    def close(self) -> None:
        close_all(self.envs)


def close_all(envs: Iterable[VecEnv]) -> None:
    """Close environments, the others too where one raises an error."""
    with contextlib.ExitStack() as stack:
        for env in envs:
            stack.callback(env.close)


def keep_config(pool: Any) -> None:
    """Compute the ``config`` of an envpool pool once.

    envpool builds that dictionary anew at every step, and twice at a reset, which takes 36 us. The pool
    gets a subclass of its class with the dictionary in place of the property.
    """
    kind: Any = type(pool)
    # type.__new__ bypasses envpool's metaclass, which builds classes of environments
    pool.__class__ = type.__new__(type(kind), kind.__name__, (kind,), {"config": pool.config})


class EnvpoolSeedEnvs(SeedEnvs):
    """Environments of envpool, which are stepped together in C++.

    Args:
        env_id: an environment of envpool.
        seeds: environment seeds, one list for each seed.
        view: function from envpool's observations to those of the networks; None: the same.
        observation_space: space of the result of ``view``; None: envpool's own.
        threads: number of threads that step the environments.
        kwargs: arguments of ``envpool.make``, such as ``max_episode_steps``.
    """

    def __init__(
        self,
        env_id: str,
        seeds: Sequence[Sequence[int]],
        view: Callable[[Any], np.ndarray] | None = None,
        observation_space: spaces.Space | None = None,
        threads: int = 1,
        **kwargs: Any,
    ) -> None:
        import envpool

        super().__init__()
        self.num_seeds, self.num_envs = len(seeds), len(seeds[0])
        flat = [int(seed) for group in seeds for seed in group]
        with warnings.catch_warnings():  # gymnasium warns of bounds that are not float32
            warnings.simplefilter("ignore")
            self.pool = envpool.make(
                env_id,
                env_type="gymnasium",
                num_envs=len(flat),
                seed=flat,
                num_threads=min(threads, len(flat)),
                **kwargs,
            )
            own = self.pool.observation_space
        keep_config(self.pool)
        self.view = view or (lambda observations: observations)
        self.observation_space = own if observation_space is None else observation_space
        self.action_space = self.pool.action_space
        self._returns = np.zeros(len(flat))
        self._lengths = np.zeros(len(flat), int)
        self._ids: np.ndarray | None = None
        """Numbers of the environments of the seeds that are kept, in ascending order; None: all."""

    def reset(self) -> np.ndarray:
        self._returns[:] = 0
        self._lengths[:] = 0
        observations, _ = self.pool.reset(self._ids)
        return self._by_seed(self.view(observations))

    def step(self, actions: np.ndarray) -> Step:
        observations, rewards, terminated, truncated, _ = self.pool.step(
            actions.reshape(-1, *actions.shape[2:]), self._ids
        )
        self._returns += rewards
        self._lengths += 1
        following = self.view(observations)
        now = following
        dones = terminated | truncated
        self.finished = []
        if dones.any():
            ended = np.flatnonzero(dones)
            for i in ended:
                seed, env = divmod(int(i), self.num_envs)
                episode = Episode(seed, env, float(self._returns[i]), int(self._lengths[i]))
                self.finished.append(episode)
            self._returns[ended] = 0
            self._lengths[ended] = 0
            numbers = ended if self._ids is None else self._ids[ended]
            first, _ = self.pool.reset(numbers.astype(np.int32))
            now = following.copy()
            now[ended] = self.view(first)
        arrays = (now, following, rewards, dones, truncated & ~terminated)
        return Step(*(self._by_seed(array) for array in arrays))

    def keep(self, seeds: Sequence[int]) -> None:
        rows = (np.array(seeds)[:, None] * self.num_envs + np.arange(self.num_envs)).ravel()
        self._ids = (rows if self._ids is None else self._ids[rows]).astype(np.int32)
        self._returns, self._lengths = self._returns[rows], self._lengths[rows]
        self.num_seeds = len(seeds)
        self.finished = []

    def _by_seed(self, array: np.ndarray) -> np.ndarray:
        return array.reshape(self.num_seeds, self.num_envs, *array.shape[1:])

    def close(self) -> None:
        self.pool.close()
