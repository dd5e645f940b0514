"""pytest plugin: put Norm policies under the aliases of SB3's algorithms (``MlpPolicy``, ...).

The environment variable ``RN_RL_NORM`` names the normalizer, or the network as ``net=simba``; without
it, the aliases stay stock.
"""

from __future__ import annotations

import functools
import os
import sys
from typing import Any

import sb3_contrib
import stable_baselines3

from rn_rl import policies

GIVEN = os.environ.get("RN_RL_NORM", "")
DEFAULT = (
    {"net": GIVEN.removeprefix("net="), "net_arch": "small"}
    if GIVEN.startswith("net=")
    else {"norm": GIVEN}
)

POLICIES = {
    stable_baselines3.A2C: policies.NormActorCriticPolicy,
    stable_baselines3.PPO: policies.NormActorCriticPolicy,
    stable_baselines3.DQN: policies.NormDQNPolicy,
    stable_baselines3.SAC: policies.NormSACPolicy,
    stable_baselines3.TD3: policies.NormTD3Policy,
    sb3_contrib.TRPO: policies.NormActorCriticPolicy,
    sb3_contrib.QRDQN: policies.NormQRDQNPolicy,
    sb3_contrib.TQC: policies.NormTQCPolicy,
    sb3_contrib.CrossQ: policies.NormCrossQPolicy,
    sb3_contrib.ARS: policies.NormARSPolicy,
    sb3_contrib.MaskablePPO: policies.NormMaskableActorCriticPolicy,
    sb3_contrib.RecurrentPPO: policies.NormRecurrentActorCriticPolicy,
}


def with_default(policy: type[Any]) -> type[Any]:
    """Return a subclass whose default is ``DEFAULT``, as an attribute of this module for pickle."""
    name = f"Default{policy.__name__}"
    if not hasattr(sys.modules[__name__], name):

        @functools.wraps(policy.__init__)
        def init(self: Any, *args: Any, **kwargs: Any) -> None:
            policy.__init__(self, *args, **{**DEFAULT, **kwargs})

        made = type(name, (policy,), {"__init__": init, "__module__": __name__})
        setattr(sys.modules[__name__], name, made)
    found: type[Any] = getattr(sys.modules[__name__], name)
    return found


if GIVEN:
    for algorithm, norm_policy in POLICIES.items():
        ours = with_default(norm_policy)
        # DDPG inherits TD3's aliases
        algorithm.policy_aliases = dict.fromkeys(algorithm.policy_aliases, ours)
