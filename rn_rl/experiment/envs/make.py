"""Make the vector environment of a run: wrappers, checks, VecNormalize."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gymnasium as gym
import minigrid  # noqa: F401  (registers its environments)
import numpy as np
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import (
    VecEnv,
    VecEnvWrapper,
    VecNormalize,
    VecTransposeImage,
)
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from rn_rl.errors import UserError, first_line, unknown
from rn_rl.experiment.envs.minigrid import with_fast_view
from rn_rl.experiment.envs.replayable import ReplayableEnv
from rn_rl.experiment.envs.spaces import for_agent
from rn_rl.experiment.settings.hyperparameters import import_name


class CheckObservations(VecEnvWrapper):
    """Raise :class:`UserError` at the first observation or reward that is not finite.

    Unlike SB3's ``VecCheckNan``, the message gives the timestep, which helps to find the cause.
    """

    def __init__(self, venv: VecEnv) -> None:
        super().__init__(venv)
        self.steps = 0

    def reset(self) -> Any:
        observations = self.venv.reset()
        self._check("observation", observations)
        return observations

    def step_wait(self) -> VecEnvStepReturn:
        observations, rewards, dones, infos = self.venv.step_wait()
        self.steps += self.num_envs
        self._check("observation", observations)
        self._check("reward", rewards)
        return observations, rewards, dones, infos

    def _check(self, what: str, values: Any) -> None:
        if isinstance(values, dict):
            for key, value in values.items():
                self._check(f"{what}[{key!r}]", value)
            return
        if np.isfinite(values).all():
            return
        index = [int(i) for i in np.argwhere(~np.isfinite(values))[0]]
        where = f", component {index[1:]}" if index[1:] else ""
        value = np.asarray(values)[tuple(index)]
        raise UserError(
            f"the environment gave {what} {value} at timestep {self.steps} "
            f"(environment {index[0]}{where}): expected finite numbers; fix the environment"
        )


def check_env_id(env_id: str) -> None:
    """Raise :class:`UserError`, with the nearest names, unless Gymnasium has the environment.

    As in Gymnasium, ``module:Name-v0`` first imports the module, which registers the environment.
    """
    module, colon, name = env_id.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except (ImportError, ValueError) as error:
            raise UserError(f"environment {env_id!r}: cannot import {module!r} ({error})") from None
        env_id = name
    if env_id in gym.registry:
        return
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            gym.spec(env_id)
    except gym.error.DeprecatedEnv as error:
        newest = str(error).rsplit("`", 2)
        hint = newest[1] if len(newest) == 3 else "a newer version"
        raise UserError(f"environment {env_id!r} is no longer provided; use {hint}") from None
    except gym.error.Error:
        hint = f"{len(gym.registry)} are registered; 'rn-rl zoo' shows the tuned ones"
        raise unknown("environment", env_id, gym.registry, hint) from None


def wrapper_function(names: Any, env_id: str) -> Callable[[gym.Env], gym.Env]:
    """Return a function that puts the wrappers of a config on an environment.

    The faster view of MiniGrid is innermost. Outside of the config's wrappers come the spaces that SB3
    supports (:func:`.for_agent`), and :class:`.ReplayableEnv`, for exact resume.

    Args:
        names: the RL Zoo's ``env_wrapper``: a dotted name, ``{name: kwargs}``, a list of these, or None.
        env_id: name of the environment.

    Raises:
        UserError: there is no such wrapper.
    """
    entries = names if isinstance(names, list) else [names] if names else []
    steps: list[tuple[Any, dict[str, Any]]] = []
    for entry in entries:
        name, kwargs = next(iter(entry.items())) if isinstance(entry, dict) else (entry, {})
        steps.append((import_name(name), kwargs or {}))

    def wrap(env: gym.Env) -> gym.Env:
        env = with_fast_view(env)
        for wrapper, kwargs in steps:
            env = wrapper(env, **kwargs)
        return ReplayableEnv(for_agent(env, env_id))

    return wrap


def make_env(
    env_id: str,
    hyperparameters: dict[str, Any],
    *,
    n_envs: int,
    seed: int,
    monitor_dir: Path | None = None,
    append_monitor: bool = False,
    evaluation: bool = False,
) -> VecEnv:
    """Make the vector environment of a run, for training or for evaluation.

    Args:
        env_id: registered name.
        hyperparameters: resolved hyperparameters, of which ``env_wrapper``, ``env_kwargs``,
            ``normalize`` and ``gamma`` are used.
        n_envs: number of environments that are stepped together.
        seed: seed of the first environment; environment ``i`` gets ``seed + i``.
        monitor_dir: folder of the monitor files (``0.monitor.csv``, ...); default: none are written.
        append_monitor: append to the monitor files that exist instead of replacing them.
        evaluation: do not update the statistics of VecNormalize, and do not normalize rewards.

    Raises:
        UserError: the environment does not exist, needs a package that is not installed, or has
            observations that SB3 does not support.
    """
    check_env_id(env_id)
    try:
        env = make_vec_env(
            env_id,
            n_envs=n_envs,
            seed=seed,
            env_kwargs=hyperparameters.get("env_kwargs"),
            wrapper_class=wrapper_function(hyperparameters.get("env_wrapper"), env_id),
            monitor_dir=str(monitor_dir) if monitor_dir else None,
            monitor_kwargs={"override_existing": not append_monitor},
        )
    except gym.error.DependencyNotInstalled as error:
        extra = first_line(error)
        raise UserError(
            f"environment {env_id} needs a package that is not installed: {extra}"
        ) from None
    except UserError:
        raise
    except (
        ImportError,
        gym.error.Error,
        AssertionError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"environment {env_id} cannot be made: {reason}") from None
    env = CheckObservations(env)
    normalize = hyperparameters.get("normalize")
    if normalize:
        options = dict(normalize) if isinstance(normalize, dict) else {}
        options.setdefault("gamma", hyperparameters.get("gamma", 0.99))
        if evaluation:
            options.update(training=False, norm_reward=False)
        try:
            env = VecNormalize(env, **options)
        except (TypeError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise UserError(
                f"normalize={normalize!r} on environment {env_id}: {reason} Or use --set "
                "normalize=false"
            ) from None
    space = env.observation_space
    if is_image_space(space) and not is_image_space_channels_first(space):  # type: ignore[arg-type]
        env = VecTransposeImage(env)
    return env
