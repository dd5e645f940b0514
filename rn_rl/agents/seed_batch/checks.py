"""Whether agents and environments fit each other, so that they can be trained together."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from enum import Enum
from itertools import zip_longest
from typing import Any

from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.noise import ActionNoise
from torch.optim import Optimizer

from rn_rl.agents.seed_batch.vector_envs import SeedEnvs
from rn_rl.errors import UserError

OWN = ("policy", "env", "seed", "verbose", "tensorboard_log", "device", "policy_kwargs")
"""Arguments of an agent that may differ within a batch, or that say what its network is."""

STOCK = ("stable_baselines3", "sb3_contrib", "rn_rl", "torch")
"""Packages whose classes a batch reproduces."""

REPLACED = (
    "learn",
    "collect_rollouts",
    "train",
    "predict",
    "_on_step",
    "_sample_action",
    "_setup_learn",
    "_store_transition",
    "_update_current_progress_remaining",
    "_update_learning_rate",
)
"""Methods of an agent that a batch never calls: it has its own."""

REPLACED_IN_POLICY = ("forward", "_predict", "predict", "evaluate_actions", "obs_to_tensor")
"""Methods of a policy that a batch never calls: it calls the networks in it."""

REPLACED_IF_RECURRENT = ("get_distribution", "predict_values")
"""The same, of policies with an LSTM."""

NETWORK = "the network"
"""Name of the layers of a policy among the settings."""

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
            known = expected.get(name)
            if differ(known, value):
                if name == NETWORK:
                    lines = zip_longest(known or [], value, fillvalue="nothing")
                    known, value = next(pair for pair in lines if differ(*pair))
                raise UserError(
                    f"seeds cannot be trained together: {name}: {shown(known)} in seed {first.seed} and "
                    f"{shown(value)} in seed {model.seed}"
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
    found[NETWORK] = repr(model.policy).splitlines()
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


def shown(value: Any) -> str:
    """Return a setting in at most 80 characters on one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def overridden(model: BaseAlgorithm) -> str | None:
    """Say which method a user's own algorithm or policy overrides that a batch never calls, or None."""
    in_policy: tuple[str, ...] = REPLACED_IN_POLICY
    if isinstance(model.policy, RecurrentActorCriticPolicy):
        in_policy = (*in_policy, *REPLACED_IF_RECURRENT)
    for owner, replaced in ((model, REPLACED), (model.policy, in_policy)):
        for each in type(owner).__mro__:
            own = [name for name in replaced if name in vars(each) and not is_stock(each)]
            if own:
                return f"{each.__name__} has its own {own[0]}(), which a batch would not call"
    return None


def is_stock(cls: type) -> bool:
    """Return True for a class of SB3, sb3-contrib, this package or torch."""
    return cls.__module__.partition(".")[0] in STOCK
