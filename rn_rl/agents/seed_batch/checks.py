"""Whether agents and environments fit each other, so that they can be trained together."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import Enum
from itertools import zip_longest
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import ActionNoise
from torch.optim import Optimizer

from rn_rl.agents.seed_batch.vector_envs import SeedEnvs
from rn_rl.errors import UserError

OWN = ("policy", "env", "seed", "verbose", "tensorboard_log", "device", "policy_kwargs")
"""Arguments of an agent that may differ within a batch, or that say what its network is."""

SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf")
"""Arguments that may be functions of the share of timesteps that is left."""


def check_together(models: Sequence[BaseAlgorithm], envs: SeedEnvs) -> None:
    """Check that agents differ in nothing but their seed and weights, and have these environments.

    Raises:
        UserError: an argument, a network or a space differs, or numbers of environments do.
    """
    first = models[0]
    expected = settings(first)
    for model in models[1:]:
        for name, value in settings(model).items():
            if differ(expected.get(name), value):
                told = f"{shown(expected.get(name))} in seed {first.seed} and {shown(value)} in"
                raise UserError(
                    f"seeds cannot be trained together: {name} is {told} seed {model.seed}"
                    if name != "the network"
                    else f"seeds cannot be trained together: {network_difference(first, model)}"
                )
    if envs.num_seeds != len(models):
        raise UserError(
            f"environments of {envs.num_seeds} seeds for {len(models)} agents: expected as many"
        )
    if envs.num_envs != first.n_envs:
        raise UserError(
            f"{envs.num_envs} environments for each seed: the agents have n_envs={first.n_envs}"
        )
    for name in ("observation_space", "action_space"):
        theirs, own = getattr(envs, name), getattr(first, name)
        if theirs != own:
            raise UserError(f"{name} of the environments is {theirs}: that of the agents is {own}")


def settings(model: BaseAlgorithm) -> dict[str, Any]:
    """Return what has to be equal in all agents: arguments, network and options of the optimizers."""
    names = [name for name in inspect.signature(type(model)).parameters if name not in OWN]
    found = {name: getattr(model, name) for name in names if hasattr(model, name)}
    for name in SCHEDULES:
        if callable(found.get(name)):
            found[name] = [float(found[name](at)) for at in (1.0, 0.5, 0.0)]
    found["the network"] = repr(model.policy)
    for name, part in (("policy", model.policy), *model.policy.named_children()):
        optimizer = getattr(part, "optimizer", None)
        if isinstance(optimizer, Optimizer):
            found[f"the optimizer of {name}"] = [type(optimizer), optimizer.defaults]
    return found


def differ(one: Any, other: Any) -> bool:
    """Return True if two settings are known to differ; functions that a loop made anew are not."""
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() != other.keys() or any(differ(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple) and isinstance(other, list | tuple):
        return len(one) != len(other) or any(map(differ, one, other))
    if isinstance(one, ActionNoise) and isinstance(other, ActionNoise):
        return type(one) is not type(other) or repr(one) != repr(other)
    plain = (bool, int, float, str, type(None), type, Enum)
    if isinstance(one, plain) or isinstance(other, plain):
        return bool(one != other)
    return type(one) is not type(other)


def network_difference(first: BaseAlgorithm, other: BaseAlgorithm) -> str:
    """Say which layer of two agents differs."""
    texts = [repr(model.policy).splitlines() for model in (first, other)]
    one, two = next(pair for pair in zip_longest(*texts, fillvalue="nothing") if pair[0] != pair[1])
    return (
        f"the network has {shown(one)} in seed {first.seed} and {shown(two)} in seed {other.seed}"
    )


def shown(value: Any) -> str:
    """Return a setting in at most 80 characters on one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def override(
    owner: type, names: Collection[str], is_stock: Callable[[type], bool]
) -> tuple[str, str] | None:
    """Return the class and the name of a method that a class of a user's own overrides, if one does.

    Args:
        owner: class, whose bases are searched too.
        names: names of methods.
        is_stock: says which classes are not a user's own.
    """
    for each in owner.__mro__:
        for name in names:
            if name in vars(each) and not is_stock(each):
                return each.__name__, name
    return None
