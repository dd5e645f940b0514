"""Compare an agent from elsewhere with a run: spaces, and networks beyond the shapes of their weights."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from torch import nn

from rn_rl.errors import UserError
from rn_rl.experiment.runs.foreign import StoredAgent, read_agent

KNOWN = ("torch.nn.", "stable_baselines3.", "sb3_contrib.", "rn_rl.")
"""Packages whose modules compute what their layers and settings say."""

NOT_ACTING = (
    *("training", "log_std_init", "ortho_init"),
    *("half_life", "decay", "rate", "momentum"),
    *("norm", "named_prior", "depends_on_batch"),
)
"""Settings of modules that do not change how a network acts: those of its initialization, those of later
updates, and the spec whose normalizers are compared as layers."""


def check_spaces(
    agent: StoredAgent, observations: spaces.Space, actions: spaces.Space, *, bounds: bool
) -> None:
    """Compare the spaces of a zip with others; Gym's and Gymnasium's spaces are taken for the same.

    Bounds of observations are not compared, since they do not change what an agent does.

    Args:
        agent: the zip.
        observations: observation space of the environment.
        actions: its action space.
        bounds: whether bounds of continuous actions must be equal.

    Raises:
        UserError: they differ.
    """
    for name, space in (("observation_space", observations), ("action_space", actions)):
        stored = agent.data.get(name)
        stored = stored if isinstance(stored, dict) else {}
        kind = str(stored.get(":type:", "")).rstrip("'>").rpartition(".")[2]
        theirs, ours = {"": kind}, {"": type(space).__name__}
        if isinstance(space, spaces.Box):
            shape = stored.get("_shape", stored.get("shape"))
            theirs["shape"], ours["shape"] = str(shape), str(list(space.shape))
            if "uint8" in (str(space.dtype), stored.get("dtype")):  # decides about images
                theirs["dtype"], ours["dtype"] = str(stored.get("dtype")), str(space.dtype)
        ends: list[tuple[str, Any]] = []
        if isinstance(space, spaces.Box) and name == "action_space" and bounds:
            ends = [("low", space.low), ("high", space.high)]
        elif isinstance(space, spaces.Discrete):
            ends = [("n", space.n), ("start", space.start)]
        elif isinstance(space, spaces.MultiDiscrete):
            ends = [("nvec", space.nvec), ("start", space.start)]
        elif isinstance(space, spaces.MultiBinary):
            ends = [("n", space.n)]
        for key, right in ends:
            text = str(stored.get(key, "0" if key == "start" else None))
            if "..." not in text and not same_numbers(text, right):
                theirs[key], ours[key] = text, str(right)
        if theirs != ours:
            different = [key for key in ours if theirs.get(key) != ours[key]]
            shown = ", ".join(f"{key} {theirs[key]}".strip() for key in different)
            raise UserError(
                f"agent {agent.path}: its {name} has {shown[:120]}, and that of the environment is "
                f"{str(space)[:120]}; give an agent of this environment"
            )


def same_numbers(text: str, values: Any) -> bool:
    """Return True if numbers in NumPy's text are those of an array; one number stands for all."""
    numbers = re.findall(r"[-+]?(?:inf|nan|\d+\.?\d*(?:e[-+]?\d+)?)", text)
    right = np.asarray(values, dtype=float).ravel()
    if len(numbers) not in (1, len(right)):
        return False
    return bool(np.allclose(np.array(numbers, dtype=float), right, rtol=1e-6))


def check_network(path: Path, model: BaseAlgorithm) -> None:
    """Compare the network that a zip describes with that of a model, without unpickling.

    Raises:
        UserError: they differ, or the zip describes its network by a pickle alone.
    """
    env = model.get_env()
    assert env is not None
    refuse_difference(path, read_agent(path).make_model(type(model), env), model)


def refuse_difference(path: Path, theirs: BaseAlgorithm, ours: BaseAlgorithm) -> None:
    """Raise :class:`UserError` if two agents with weights of the same shapes would act differently."""
    found = difference(theirs.policy, ours.policy)
    if found is not None:
        raise UserError(
            f"{path} does not fit this run's network: {found}; give the run the same --norm and the same "
            "network, as in --set policy_kwargs.activation_fn=relu, or another agent"
        )


def difference(theirs: BasePolicy, ours: BasePolicy) -> str | None:
    """Return the first difference between two networks that shapes of weights may not show.

    Compared are the layers in their order with their settings (activations, slopes, epsilons), and the
    settings of policies, actors and critics (scaling of images, squashing, gSDE, distributions).

    Args:
        theirs: policy whose weights are taken.
        ours: policy that takes them.

    Returns:
        A phrase for an error message, or None if there is no difference.
    """
    kinds = {type(module) for module in ours.modules()}
    for module in theirs.modules():
        kind = type(module)
        if kind not in kinds and not kind.__module__.startswith(KNOWN):
            return f"it has a {kind.__name__} of {kind.__module__}, and this run does not"
    first, second = layers(theirs), layers(ours)
    for (name, layer, options), (_, other, others) in zip(first, second, strict=False):
        if layer != other:
            return f"{name} is {layer}, and in this run {other}"
        for key, value in options.items():
            if others.get(key, value) != value:
                return f"{name} has {key}={value!r}, and in this run {others[key]!r}"
    if len(first) != len(second):
        return f"it has {len(first)} layers, and this run {len(second)}"
    parts = dict(ours.named_modules())
    for name, module in theirs.named_modules():
        if not hasattr(module, "normalize_images") or name not in parts:
            continue
        for key, value in settings(module).items():
            other = settings(parts[name]).get(key, value)
            if other != value:
                return f"it has {key}={value!r}, and this run {other!r}"
    return None


def layers(policy: BasePolicy) -> list[tuple[str, str, dict[str, Any]]]:
    """Return name, class and settings of a policy's modules without children, in their order."""
    return [
        (name, type(module).__qualname__, settings(module))
        for name, module in policy.named_modules()
        if not any(True for _ in module.children()) and not isinstance(module, nn.Sequential)
    ]


def settings(module: nn.Module) -> dict[str, Any]:
    """Return the plain attributes of a module, and those of its action distribution."""
    plain = (bool, int, float, str, tuple, type(None))
    found = {k: v for k, v in vars(module).items() if isinstance(v, plain) and k not in NOT_ACTING}
    distribution = vars(module).get("action_dist")
    if distribution is not None:
        found["action_dist"] = type(distribution).__name__
        found |= {
            f"action_dist.{key}": value
            for key, value in vars(distribution).items()
            if isinstance(value, bool | int | float | str)
        }
    return found
