"""Hyperparameters: read tuned ones in the RL Zoo's format, check the user's, make SB3 arguments."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Iterable
from typing import Any

import numpy as np
import yaml
from gymnasium import spaces
from stable_baselines3.common.noise import (
    ActionNoise,
    NormalActionNoise,
    OrnsteinUhlenbeckActionNoise,
)
from stable_baselines3.common.utils import LinearSchedule

from rn_rl.errors import UserError, unknown
from rn_rl.experiment.settings.algorithms import AlgorithmSpec
from rn_rl.experiment.settings.shipped import tuned_table
from rn_rl.policies.layers import activation_name

ENVIRONMENT_KEYS = ("n_envs", "n_timesteps", "env_wrapper", "env_kwargs", "normalize")
"""Hyperparameters that describe the environment; the others are arguments of the algorithm."""

NOISE_KEYS = ("noise_type", "noise_std")
"""The RL Zoo's hyperparameters for SB3's ``action_noise``."""

SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "delta_std")
"""Hyperparameters that can follow a schedule, written as in the RL Zoo: ``lin_0.001``."""

IMPORTABLE = ("rn_rl.", "minigrid.", "gymnasium.", "stable_baselines3.", "sb3_contrib.")
"""Packages from which dotted names are imported; no others, so that a config cannot run foreign code."""


def tuned(algo: AlgorithmSpec, env_id: str, config_set: str = "zoo") -> dict[str, Any]:
    """Return the tuned hyperparameters of an algorithm on an environment.

    In the set ``paper``, ``rndqn.yml`` is the protocol of the paper's DQN, and ``dqn.yml`` is SB3's DQN
    (Huber loss, clipped gradients, linear epsilon) with the paper's other settings. In the set ``zoo``,
    an environment that is not listed gets the algorithm's defaults.

    Raises:
        UserError: the set ``paper`` has nothing for this algorithm and environment.
    """
    table = tuned_table(algo, config_set)
    if env_id in table:
        return dict(table[env_id])
    if config_set == "paper":
        raise UserError(
            f"no 'paper' hyperparameters for {algo.name} on {env_id}: there are some for "
            f"{', '.join(table)}; use --config zoo"
        )
    minigrid = env_id.startswith(("MiniGrid-", "BabyAI-"))
    return dict(table["minigrid-default" if minigrid else "default"])


def parse_assignments(assignments: Iterable[str], flag: str) -> dict[str, Any]:
    """Parse texts such as ``policy_kwargs.net_arch=[64,64]`` into one nested mapping.

    Args:
        assignments: texts of the form ``name=value``; dots in the name separate levels, and the value
            is YAML, see :func:`parse_value`.
        flag: option they were given to, for the message of an error.

    Raises:
        UserError: a text has another form.
    """
    parsed: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            example = "render_mode=rgb_array" if flag == "--env-kwargs" else "learning_rate=3e-4"
            raise UserError(f"{flag} {text!r}: expected name=value, such as {example}")
        target = parsed
        *path, last = key.split(".")
        for part in path:
            target = target.setdefault(part, {})
            if not isinstance(target, dict):
                raise UserError(
                    f"{flag} {text!r}: {part} was given the value {target!r} before; expected one or "
                    "the other"
                )
        target[last] = parse_value(value, f"{flag} {text!r}")
    return parsed


def parse_value(text: str, context: str) -> Any:
    """Parse a YAML value; unlike in YAML 1.1, ``3e-4`` is a number, and Python's ``None`` is null.

    Args:
        text: the value.
        context: first words of the message of an error.

    Raises:
        UserError: the text is not YAML.
    """
    try:
        value = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError):  # also 5,000 digits, or 1,000 brackets
        raise UserError(f"{context}: cannot read the value {text!r}") from None
    if value == "None":
        return None
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def merge_nested(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """Return a copy of ``base`` with the values of ``update``; nested mappings are merged too."""
    merged = dict(base)
    for key, value in update.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            value = merge_nested(merged[key], value)
        merged[key] = value
    return merged


LEAST: dict[str, float] = {
    "batch_size": 1,
    "buffer_size": 1,
    "delta_std": 0,
    "learning_starts": 0,
    "n_critic_updates": 1,
    "n_delta": 1,
    "n_envs": 1,
    "n_epochs": 1,
    "n_eval_episodes": 1,
    "n_steps": 1,
    "n_timesteps": 1,
    "n_top": 1,
    "noise_std": 0,
    "policy_delay": 1,
    "stats_window_size": 1,
    "target_update_interval": 1,
    "learning_rate": 0,
    "gamma": 0,
    "tau": 0,
}
"""Smallest allowed values; SB3 itself accepts a batch of 0 or a negative discount."""


SHARES = (
    "gamma",
    "tau",
    "gae_lambda",
    "q_lambda",
    "exploration_fraction",
    "exploration_initial_eps",
    "exploration_final_eps",
)
"""Hyperparameters between 0 and 1."""

MOST_COUNT = 10**12
"""Largest whole number of a hyperparameter."""


def parameters(algo: AlgorithmSpec) -> dict[str, Any]:
    """Return the hyperparameters of an algorithm and their defaults.

    They are the arguments of its class, and those of its base classes as far as ``**kwargs`` are passed
    on, without those that a run sets by itself (``env``, ``seed``, ``device``, ...).
    """
    taken = {name: default_of(p) for name, p in signature(algo).items()}
    if "action_noise" in taken:
        taken.update(zip(NOISE_KEYS, ("normal", 0.1), strict=True))
    ours = ("self", "env", "kwargs", "_init_setup_model", "norm", "seed", "device", "action_noise")
    for name in (*ours, "tensorboard_log", "verbose"):
        taken.pop(name, None)
    return taken


def signature(algo: AlgorithmSpec) -> dict[str, inspect.Parameter]:
    """Return the arguments of an algorithm's class, and of those base classes that take the rest."""
    taken: dict[str, inspect.Parameter] = {}
    for cls in algo.cls.__mro__:
        if "__init__" not in cls.__dict__:
            continue
        own = inspect.signature(cls.__dict__["__init__"]).parameters
        taken = {**own, **taken}
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in own.values()):
            break
    return taken


def default_of(parameter: inspect.Parameter) -> Any:
    """Return the default of an argument; a real number as a float, also where SB3 writes ``0``."""
    default = parameter.default
    whole = isinstance(default, int) and not isinstance(default, bool)
    return float(default) if whole and "float" in str(parameter.annotation) else default


UNSUPPORTED = {
    "frame_stack": "put {gymnasium.wrappers.FrameStackObservation: {stack_size: VALUE}} last into "
    "env_wrapper, for images after gymnasium.wrappers.AtariPreprocessing or GrayscaleObservation",
    "vec_env_wrapper": "wrap each environment, with env_wrapper",
    "callback": "in Python, give it to learn() of the agent",
    "monitor_kwargs": "a run has its Monitor, without arguments",
}
"""Hyperparameters of the RL Zoo that a run cannot have, and what there is in their place."""


def check_given(algo: AlgorithmSpec, given: dict[str, Any]) -> None:
    """Check the hyperparameters that a user set, and make whole numbers and names of activations uniform.

    Raises:
        UserError: the algorithm has no such hyperparameter, or a number is expected, or it is out of
            range.
    """
    known, arguments = parameters(algo), signature(algo)
    for name, value in given.items():
        if name in UNSUPPORTED:
            instead = UNSUPPORTED[name].replace("VALUE", str(value))
            raise UserError(f"{name}={value!r}: not supported here; {instead}")
        if name not in known and name not in ENVIRONMENT_KEYS:
            raise unknown(
                f"hyperparameter of {algo.name}", name, sorted({*known, *ENVIRONMENT_KEYS})
            )
        default = known.get(name)
        of_run = name in ("n_envs", "n_timesteps")
        numeric = of_run or (isinstance(default, int | float) and not isinstance(default, bool))
        schedule = name in SCHEDULES and isinstance(value, str) and value.startswith("lin_")
        pair = isinstance(value, list) and name == "train_freq"
        off = value is None and name in arguments and "None" in str(arguments[name].annotation)
        if numeric and not (schedule or pair or off) and not _is_number(value):
            raise UserError(f"{name}={value!r}: expected a number")
        if numeric and (of_run or isinstance(default, int)) and _is_number(value):
            if not math.isfinite(value) or value != int(value) or abs(value) > MOST_COUNT:
                raise UserError(f"{name}={value!r}: expected a whole number up to {MOST_COUNT:,}")
            given[name] = int(value)
        if name in LEAST and _is_number(value) and not value >= LEAST[name]:
            raise UserError(f"{name}={value!r}: expected at least {LEAST[name]:g}")
        if name in SHARES and _is_number(value) and not 0 <= value <= 1:
            bound = "at most 1" if value > 1 else "at least 0"
            raise UserError(f"{name}={value!r}: expected {bound}")
        if name == "normalize" and not isinstance(value, bool | dict | None):
            raise UserError(f"{name}={value!r}: expected true, false or arguments of VecNormalize")
        if name == "policy_kwargs" and isinstance(value, dict):
            chosen = value.get("activation_fn")
            if isinstance(chosen, str):  # one name each, so that equal runs have equal settings
                given[name] = {**value, "activation_fn": activation_name(chosen)}


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def to_algorithm_arguments(
    hyperparameters: dict[str, Any], action_space: spaces.Space[Any]
) -> dict[str, Any]:
    """Return the arguments of the algorithm: schedules, action noise and dotted names become objects."""
    other = (*ENVIRONMENT_KEYS, *NOISE_KEYS)
    arguments = {k: v for k, v in hyperparameters.items() if k not in other}
    for key in SCHEDULES:
        if isinstance(arguments.get(key), str):
            arguments[key] = linear_schedule(key, arguments[key])
    if hyperparameters.get("noise_type") is not None:
        kind, std = hyperparameters["noise_type"], hyperparameters.get("noise_std", 0.1)
        arguments["action_noise"] = action_noise(kind, std, action_space)
    if isinstance(arguments.get("train_freq"), list):
        arguments["train_freq"] = tuple(arguments["train_freq"])
    for key in ("policy", "replay_buffer_class"):
        if isinstance(arguments.get(key), str) and "." in arguments[key]:
            arguments[key] = import_name(arguments[key])
    arguments["policy_kwargs"] = dict(arguments.get("policy_kwargs") or {})
    return arguments


NOISES: dict[str, type[NormalActionNoise] | type[OrnsteinUhlenbeckActionNoise]] = {
    "normal": NormalActionNoise,
    "ornstein-uhlenbeck": OrnsteinUhlenbeckActionNoise,
}


def action_noise(kind: str, std: float, action_space: spaces.Space[Any]) -> ActionNoise:
    """Make SB3's action noise from the RL Zoo's ``noise_type`` and ``noise_std``.

    Args:
        kind: ``normal`` or ``ornstein-uhlenbeck``.
        std: standard deviation, where actions are scaled to [-1, 1].
        action_space: action space of the environment.

    Raises:
        UserError: there is no such kind of noise.
    """
    if kind not in NOISES:
        raise unknown("noise_type", str(kind), NOISES)
    assert isinstance(action_space, spaces.Box)
    return NOISES[kind](np.zeros(action_space.shape), np.full(action_space.shape, std))


def linear_schedule(key: str, text: str) -> LinearSchedule:
    """Parse a linear schedule.

    The RL Zoo's ``lin_0.001`` falls linearly from 0.001 to 0 over the run. An extension of it,
    ``lin_1e-4_5e-3_0.1``, goes from 1e-4 to 5e-3 over the first tenth of the run and stays there.

    Args:
        key: name of the hyperparameter, for the message of an error.
        text: the schedule.

    Raises:
        UserError: the text is no such schedule, or has a negative or infinite number.
    """
    kind, *values = text.split("_")
    try:
        numbers = [float(value) for value in values]
    except ValueError:
        numbers = []
    if not all(math.isfinite(number) and number >= 0 for number in numbers):
        numbers = []
    if kind == "lin" and len(numbers) == 1:
        return LinearSchedule(numbers[0], 0.0, 1.0)
    if kind == "lin" and len(numbers) == 3 and 0 < numbers[2] <= 1:
        return LinearSchedule(*numbers)
    raise UserError(
        f"{key}={text!r}: expected a number, lin_NUMBER for one that falls to 0 over the run, or "
        "lin_FROM_TO_SHARE for one that gets there within the first SHARE (0 to 1) of it"
    )


def import_name(dotted: str) -> Any:
    """Import the object that a dotted name stands for, from :data:`IMPORTABLE` packages alone.

    Raises:
        UserError: the name is outside of these packages, or there is no such object.
    """
    module, _, name = dotted.rpartition(".")
    if not dotted.startswith(IMPORTABLE):
        packages = ", ".join(p.rstrip(".") for p in IMPORTABLE)
        raise UserError(f"{dotted!r}: expected a class from one of {packages}")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise UserError(f"{dotted!r}: no such class") from None
