"""From a config file of the zoo's format and what a user set to one resolved, plain mapping."""

from __future__ import annotations

import importlib
import inspect
import math
from collections.abc import Iterable
from importlib.resources import files
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
from rn_rl.experiment.settings.shipped import load_config_file

ENVIRONMENT_KEYS = ("n_envs", "n_timesteps", "env_wrapper", "env_kwargs", "normalize")
"""Keys of a config that say how the environment is built; the rest go to the algorithm."""

NOISE_KEYS = ("noise_type", "noise_std")
"""The zoo's keys for SB3's ``action_noise``."""

SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", "delta_std")
"""Keys that may change over the run, as the zoo's ``lin_0.001``."""

IMPORTABLE = ("rn_rl.", "minigrid.", "gymnasium.", "stable_baselines3.", "sb3_contrib.")
"""Dotted names in a config are looked up in these packages alone: a config runs nobody's code."""


def tuned(algo: AlgorithmSpec, env_id: str, config_set: str = "zoo") -> dict[str, Any]:
    """The hyperparameters for an algorithm on an environment, or the algorithm's defaults."""
    own = files("rn_rl") / "zoo_configs" / "paper" / f"{algo.name}.yml"
    named = algo.name if config_set == "paper" and own.is_file() else algo.zoo_file
    table = load_config_file(named, config_set)
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
    """``("learning_rate=3e-4", "policy_kwargs.net_arch=[64,64]")`` as a nested mapping.

    Values are YAML, and numbers such as ``3e-4`` are numbers too. A bad one raises
    :class:`UserError`.
    """
    parsed: dict[str, Any] = {}
    for text in assignments:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise UserError(f"{flag} {text!r}: expected name=value, such as learning_rate=3e-4")
        target = parsed
        *path, last = key.split(".")
        for part in path:
            target = target.setdefault(part, {})
        target[last] = parse_value(value, f"{flag} {text!r}")
    return parsed


def parse_value(text: str, context: str) -> Any:
    """A YAML value, with ``3e-4`` a number as everywhere but in YAML 1.1."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError:
        raise UserError(f"{context}: cannot read the value {text!r}") from None
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def merge(base: dict[str, Any], update: dict[str, Any]) -> dict[str, Any]:
    """``base`` with ``update`` over it, nested mappings merged; new."""
    merged = dict(base)
    for key, value in update.items():
        if isinstance(value, dict) and isinstance(merged.get(key), dict):
            value = merge(merged[key], value)
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
    "target_update_interval": 1,
    "learning_rate": 0,
    "gamma": 0,
    "tau": 0,
}
"""Smallest sensible values; SB3 itself goes on with a batch of 0 or a negative discount."""


def parameters(algo: AlgorithmSpec) -> dict[str, Any]:
    """The hyperparameters that an algorithm takes, with their defaults.

    A class that passes ``**kwargs`` on takes those of its base, too.
    """
    taken: dict[str, Any] = {}
    for cls in algo.cls.__mro__:
        if "__init__" not in cls.__dict__:
            continue
        signature = inspect.signature(cls.__dict__["__init__"]).parameters.values()
        taken = {**{p.name: p.default for p in signature}, **taken}
        if all(p.kind is not inspect.Parameter.VAR_KEYWORD for p in signature):
            break
    if "action_noise" in taken:
        taken.update(zip(NOISE_KEYS, ("normal", 0.1), strict=True))
    ours = ("self", "env", "kwargs", "_init_setup_model", "norm", "seed", "device", "action_noise")
    for name in (*ours, "tensorboard_log", "verbose"):
        taken.pop(name, None)
    return taken


def check_given(algo: AlgorithmSpec, given: dict[str, Any]) -> None:
    """Every name must be one that the algorithm takes, numbers must be numbers, and in range."""
    known = parameters(algo)
    for name, value in given.items():
        if name not in known and name not in ENVIRONMENT_KEYS:
            raise unknown(
                f"hyperparameter of {algo.name}", name, sorted({*known, *ENVIRONMENT_KEYS})
            )
        default = known.get(name)
        numeric = isinstance(default, int | float) and not isinstance(default, bool)
        schedule = name in SCHEDULES and isinstance(value, str) and value.startswith("lin_")
        pair = isinstance(value, list) and name == "train_freq"
        if numeric and not (schedule or pair) and not _is_number(value):
            raise UserError(f"{name}={value!r}: expected a number")
        if name in LEAST and _is_number(value) and not value >= LEAST[name]:
            raise UserError(f"{name}={value!r}: expected at least {LEAST[name]:g}")
        if name in ("gamma", "tau") and _is_number(value) and value > 1:
            raise UserError(f"{name}={value!r}: expected at most 1")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def to_algorithm_arguments(
    hyperparameters: dict[str, Any], action_space: spaces.Space[Any]
) -> dict[str, Any]:
    """What to call the algorithm with: schedules, noise and dotted names turned into objects."""
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
    """The zoo's ``noise_type`` and ``noise_std``: noise around the action, scaled to [-1, 1]."""
    if kind not in NOISES:
        raise unknown("noise_type", str(kind), NOISES)
    assert isinstance(action_space, spaces.Box)
    return NOISES[kind](np.zeros(action_space.shape), np.full(action_space.shape, std))


def linear_schedule(key: str, text: str) -> LinearSchedule:
    """The zoo's ``lin_0.001``, which falls linearly from 0.001 to 0 over the run.

    Ours beside it: ``lin_1e-4_5e-3_0.1`` goes from 1e-4 to 5e-3 over the first tenth and stays there.
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
        "lin_FROM_TO_SHARE for one that gets there in so large a share of it"
    )


def import_name(dotted: str) -> Any:
    """What a dotted name in a config stands for, from :data:`IMPORTABLE` packages alone."""
    module, _, name = dotted.rpartition(".")
    if not dotted.startswith(IMPORTABLE):
        packages = ", ".join(p.rstrip(".") for p in IMPORTABLE)
        raise UserError(f"{dotted!r}: expected a class from one of {packages}")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError):
        raise UserError(f"{dotted!r}: no such class") from None
