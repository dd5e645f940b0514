"""Arguments that RNDQN and RNPPO share: the policy with its normalizer, and the logging callback."""

from __future__ import annotations

from typing import Any

from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback
from stable_baselines3.common.policies import BasePolicy

from rn_rl.agents.callbacks import NormalizerLogger
from rn_rl.agents.value_targets import ValueTargets
from rn_rl.errors import UserError
from rn_rl.normalization import parse_spec

ALIASES = ("MlpPolicy", "CnnPolicy", "MultiInputPolicy")
"""Policy names of SB3; they all mean the Norm policy, which chooses its extractor by the space."""


def with_norm(
    policy: str | type[BasePolicy],
    norm_policy: type[BasePolicy],
    norm: str,
    kwargs: dict[str, Any] | None,
) -> tuple[Any, dict[str, Any]]:
    """Resolve the policy class, and add the normalizer to its keyword arguments.

    Args:
        policy: a policy name of SB3, or a subclass of ``norm_policy``.
        norm_policy: policy class that takes ``norm=``.
        norm: normalizer spec.
        kwargs: the user's ``policy_kwargs``; a ``norm`` in them takes precedence.

    Raises:
        UserError: an unknown policy name, or a class that does not take ``norm=``.
    """
    parse_spec(norm)
    if isinstance(policy, str):
        if policy not in ALIASES:
            raise UserError(f"policy {policy!r}: expected one of {', '.join(ALIASES)} or a class")
        policy = norm_policy
    if not issubclass(policy, norm_policy):
        raise UserError(
            f"policy {policy.__name__}: expected a subclass of {norm_policy.__name__}, which takes "
            "norm=; or use the stock agent with this policy"
        )
    return policy, {"norm": norm, **(kwargs or {})}


def with_logger(callback: Any) -> BaseCallback:
    """Add a :class:`NormalizerLogger` and :class:`ValueTargets` before a user's, unless it includes them.

    Args:
        callback: None, a callback, a function, or a list of these, as SB3 takes them.
    """
    given = [] if callback is None else callback if isinstance(callback, list) else [callback]
    callbacks = [c if isinstance(c, BaseCallback) else ConvertCallback(c) for c in given]
    missing = [
        kind()
        for kind in (NormalizerLogger, ValueTargets)
        if not any(_includes(c, kind) for c in callbacks)
    ]
    return CallbackList([*missing, *callbacks])


def _includes(callback: BaseCallback, kind: type[BaseCallback]) -> bool:
    if isinstance(callback, CallbackList):
        return any(_includes(c, kind) for c in callback.callbacks)
    return isinstance(callback, kind)
