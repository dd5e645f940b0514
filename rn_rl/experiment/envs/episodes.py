"""Episodes that wrappers end, and episodes that never end."""

from __future__ import annotations

import time
import warnings
from typing import Any

import gymnasium as gym
from stable_baselines3.common.monitor import Monitor

EVALUATION_STEPS = 108_000
"""Default limit of an evaluation episode: that of Atari games, the longest in common use."""


class WrapperEpisodes(gym.Wrapper):
    """Record the episodes that wrappers outside of SB3's ``Monitor`` end.

    ``Monitor`` is inside of the wrappers of a config, as in SB3's ``make_vec_env`` and the RL Zoo, so
    that it records the rewards and steps of the environment, not those that a wrapper clips, scales or
    skips: returns stay comparable between wrappers. But it does not see an end that a wrapper outside of
    it decides, such as a ``TimeLimit``. Such an episode is recorded when the reset that follows reaches
    the ``Monitor``. If the reset does not reach it, the episode goes on: ``EpisodicLifeEnv`` ends an
    episode of the agent at each lost life, and the game continues.

    Args:
        env: environment with all wrappers.
        monitor: its Monitor.
    """

    def __init__(self, env: gym.Env, monitor: Monitor) -> None:
        super().__init__(env)
        self.monitor = monitor
        self._last_info: dict[str, Any] | None = None
        """Info of the step that ended an episode outside of the Monitor alone."""

    def step(self, action: Any) -> Any:
        result = self.env.step(action)
        _, _, terminated, truncated, info = result
        outside = (terminated or truncated) and "episode" not in info
        self._last_info = info if outside else None
        return result

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        info, self._last_info = self._last_info, None
        rewards = self.monitor.rewards  # a reset begins a new list
        result = self.env.reset(seed=seed, options=options)
        if info is not None and rewards and self.monitor.rewards is not rewards:
            info["episode"] = self._record(
                rewards
            )  # a vector environment returns it after the reset
        return result

    def _record(self, rewards: list[float]) -> dict[str, float]:
        """Record an episode as ``Monitor.step`` does."""
        monitor = self.monitor
        seconds = time.time() - monitor.t_start
        episode = {"r": round(sum(rewards), 6), "l": len(rewards), "t": round(seconds, 6)}
        monitor.episode_returns.append(sum(rewards))
        monitor.episode_lengths.append(len(rewards))
        monitor.episode_times.append(seconds)
        if monitor.results_writer is not None:
            monitor.results_writer.write_row(episode)
        return episode


class EvaluationLimit(gym.Wrapper):
    """Truncate the episodes of an evaluation, which else would never return where an episode never ends.

    Args:
        env: the environment, inside of its Monitor.
        env_id: its name, for the warning.
        steps: maximum number of steps; None: :data:`EVALUATION_STEPS`, with a warning at the first
            episode that it truncates.
    """

    def __init__(self, env: gym.Env, env_id: str, steps: int | None) -> None:
        super().__init__(env)
        self.env_id = env_id
        self.limit, self.default = steps or EVALUATION_STEPS, steps is None
        self._taken = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        self._taken = 0
        return self.env.reset(seed=seed, options=options)

    def step(self, action: Any) -> Any:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._taken += 1
        if self._taken >= self.limit and not terminated:
            truncated = True
            if self.default:
                warnings.warn(
                    f"evaluation of {self.env_id}: an episode was truncated at {self.limit:,} steps, the "
                    "default limit; set one with 'rn-rl evaluate --max-episode-steps N', or for "
                    "trainings too with --env-kwargs max_episode_steps=N",
                    stacklevel=2,
                )
                self.default = False
        return observation, reward, terminated, truncated, info
