"""Make the vector environment of a run: wrappers, checks, VecNormalize."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import minigrid  # noqa: F401  (registers its environments)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.preprocessing import is_image_space, is_image_space_channels_first
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, VecTransposeImage

from rn_rl.errors import UserError, first_line, unknown
from rn_rl.experiment.envs.checks import CheckedEnv, CheckedVecEnv
from rn_rl.experiment.envs.episodes import EvaluationLimit, WrapperEpisodes
from rn_rl.experiment.envs.minigrid import with_fast_view
from rn_rl.experiment.envs.replayable import ReplayableEnv
from rn_rl.experiment.envs.spaces import for_agent
from rn_rl.experiment.envs.wrappers import put_on, wrappers_of
from rn_rl.own import import_own


def check_env_id(env_id: str) -> None:
    """Raise :class:`UserError`, with the nearest names, unless Gymnasium has the environment.

    As in Gymnasium, ``module:Name-v0`` first imports the module, which registers the environment.
    """
    module, colon, name = env_id.rpartition(":")
    if colon and not (module and name):
        raise UserError(f"environment {env_id!r}: expected a name, or module:Name-v0")
    if colon:
        import_own("environment", env_id, module)
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


def episode_limit(env_id: str, env_kwargs: Any) -> int | None:
    """Return after how many timesteps Gymnasium ends an episode; None if it does not say.

    Args:
        env_id: environment, which is registered.
        env_kwargs: arguments that it is made with.
    """
    given = env_kwargs.get("max_episode_steps") if isinstance(env_kwargs, dict) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about an older version
        found = given or gym.spec(env_id.rpartition(":")[2]).max_episode_steps
    return found if isinstance(found, int) and found > 0 else None


def wrapper_function(
    names: Any, env_id: str, limit: Callable[[gym.Env], gym.Env] | None = None
) -> Callable[[gym.Env], gym.Env]:
    """Return a function that puts our wrappers and those of a config on an environment.

    From the inside out:

    1. The environment as Gymnasium makes it; MiniGrid's gets a faster view, in place.
    2. :class:`.CheckedEnv`, and in evaluations a limit of steps.
    3. SB3's ``Monitor``, which SB3 has put there. It records the environment's own rewards and steps,
       also where a wrapper changes them.
    4. The wrappers of the config, and :class:`.WrapperEpisodes`, by which the Monitor records the
       episodes that they end.
    5. The spaces that SB3 supports: :func:`.for_agent`.
    6. :class:`.ReplayableEnv`, for exact resume.

    Args:
        names: the RL Zoo's ``env_wrapper``, see :func:`.wrappers_of`.
        env_id: name of the environment.
        limit: wrapper that limits the steps of an episode.

    Raises:
        UserError: there is no such wrapper.
    """
    steps = wrappers_of(names)

    def wrap(env: gym.Env) -> gym.Env:
        monitor = with_fast_view(env)
        assert isinstance(monitor, Monitor)
        monitor.env = CheckedEnv(monitor.env)
        if limit is not None:
            monitor.env = limit(monitor.env)
        env = monitor
        for name, wrapper, arguments in steps:
            env = put_on(env, wrapper, name, arguments)
        refuse_statistics(env, env_id)
        if steps:
            env = WrapperEpisodes(env, monitor)
        return ReplayableEnv(for_agent(env, env_id))

    return wrap


def refuse_statistics(env: gym.Env, env_id: str) -> None:
    """Raise :class:`UserError` if an environment or one of its wrappers holds running statistics.

    Evaluations would begin with fresh statistics, and so would a resumed run: the agent would observe
    other numbers than those that it learned from.
    """
    layer: Any = env
    while layer is not None:
        for value in getattr(layer, "__dict__", {}).values():
            if any(cls.__name__ == "RunningMeanStd" for cls in type(value).__mro__):
                raise UserError(
                    f"environment {env_id}: {type(layer).__name__} holds running statistics, which "
                    "evaluations and --resume would lose; use --set normalize=true, whose statistics "
                    "are saved with the run"
                )
        layer = layer.env if isinstance(layer, gym.Wrapper) else None


def make_env(
    env_id: str,
    hyperparameters: dict[str, Any],
    *,
    n_envs: int,
    seed: int,
    monitor_dir: Path | None = None,
    append_monitor: bool = False,
    evaluation: bool = False,
    max_episode_steps: int | None = None,
    step_timeout: float | None = None,
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
        evaluation: do not update the statistics of VecNormalize, do not normalize rewards, and truncate
            episodes that do not end.
        max_episode_steps: maximum steps of an evaluation episode; default: see
            :class:`.EvaluationLimit`.
        step_timeout: seconds that a step of all environments may take; default: any time.

    Raises:
        UserError: the environment does not exist, needs a package that is not installed, or has
            observations that SB3 does not support.
    """
    check_env_id(env_id)
    limit = partial(EvaluationLimit, env_id=env_id, steps=max_episode_steps) if evaluation else None
    try:
        env = make_vec_env(
            env_id,
            n_envs=n_envs,
            seed=seed,
            env_kwargs=hyperparameters.get("env_kwargs"),
            wrapper_class=wrapper_function(hyperparameters.get("env_wrapper"), env_id, limit),
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
    except Exception as error:  # whatever the environment or a wrapper raises
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(f"environment {env_id} cannot be made: {reason}") from error
    env = CheckedVecEnv(env, env_id, step_timeout)
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
