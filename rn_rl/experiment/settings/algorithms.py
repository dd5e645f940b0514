"""The algorithms that the command line trains: one table."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gymnasium import spaces

from rn_rl.errors import UserError, unknown

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


@dataclass(frozen=True)
class AlgorithmSpec:
    """One row.

    Attributes:
        name: as given to ``--algo`` and as run folders have it: the RL Zoo's, so that its tools find
            our runs.
        path: dotted name of the SB3 class.
        zoo_file: which file of ``zoo_configs`` has its hyperparameters.
        action_spaces: what it can act in.
        replay: whether it learns from a replay buffer.
        summary: one line.
        aliases: other names for ``--algo``.
    """

    name: str
    path: str
    zoo_file: str
    action_spaces: tuple[type[spaces.Space[Any]], ...]
    replay: bool
    summary: str
    aliases: tuple[str, ...] = ()

    @property
    def cls(self) -> type[BaseAlgorithm]:
        """The SB3 class, imported when it is first needed: listing algorithms loads no SB3."""
        module, _, name = self.path.rpartition(".")
        found: type[BaseAlgorithm] = getattr(importlib.import_module(module), name)
        return found


_DISCRETE = (spaces.Discrete,)
_FINITE = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)
_BOX = (spaces.Box,)
_ANY = (*_FINITE, *_BOX)
_TABLE = (
    AlgorithmSpec("dqn", "stable_baselines3.DQN", "dqn", _DISCRETE, True, "SB3's DQN"),
    AlgorithmSpec("ppo", "stable_baselines3.PPO", "ppo", _ANY, False, "SB3's PPO"),
    AlgorithmSpec("a2c", "stable_baselines3.A2C", "a2c", _ANY, False, "SB3's A2C"),
    AlgorithmSpec("sac", "stable_baselines3.SAC", "sac", _BOX, True, "SB3's SAC"),
    AlgorithmSpec("td3", "stable_baselines3.TD3", "td3", _BOX, True, "SB3's TD3"),
    AlgorithmSpec("ddpg", "stable_baselines3.DDPG", "ddpg", _BOX, True, "SB3's DDPG"),
    AlgorithmSpec(
        "qrdqn", "sb3_contrib.QRDQN", "qrdqn", _DISCRETE, True, "sb3-contrib's QR-DQN", ("qr-dqn",)
    ),
    AlgorithmSpec("trpo", "sb3_contrib.TRPO", "trpo", _ANY, False, "sb3-contrib's TRPO"),
    AlgorithmSpec("tqc", "sb3_contrib.TQC", "tqc", _BOX, True, "sb3-contrib's TQC"),
    AlgorithmSpec("crossq", "sb3_contrib.CrossQ", "crossq", _BOX, True, "sb3-contrib's CrossQ"),
    AlgorithmSpec(
        "ars", "sb3_contrib.ARS", "ars", (spaces.Discrete, spaces.Box), False,
        "sb3-contrib's ARS: no gradients",
    ),
    AlgorithmSpec(
        "ppo_lstm", "sb3_contrib.RecurrentPPO", "ppo_lstm", _ANY, False, "sb3-contrib's RecurrentPPO",
        ("recurrentppo", "recurrent-ppo", "recurrent_ppo", "ppo-lstm"),
    ),
    AlgorithmSpec(
        "ppo_mask", "sb3_contrib.MaskablePPO", "ppo_mask", _FINITE, False, "sb3-contrib's MaskablePPO",
        ("maskableppo", "maskable-ppo", "maskable_ppo", "ppo-mask"),
    ),
    AlgorithmSpec(
        "rndqn", "rn_rl.agents.RNDQN", "dqn", _DISCRETE, True, "DQN, statistics weighted by age"
    ),
    AlgorithmSpec("rnppo", "rn_rl.agents.RNPPO", "ppo", _ANY, False, "PPO, commits measured"),
)  # fmt: skip

ALGORITHMS: dict[str, AlgorithmSpec] = {row.name: row for row in _TABLE}
_BY_ANY_NAME = {**{alias: row for row in _TABLE for alias in row.aliases}, **ALGORITHMS}


def algorithm(name: str) -> AlgorithmSpec:
    """The row of that name or alias, or a :class:`UserError` with the nearest ones."""
    if name.lower() not in _BY_ANY_NAME:
        raise unknown("algorithm", name, _BY_ANY_NAME, f"known: {', '.join(ALGORITHMS)}")
    return _BY_ANY_NAME[name.lower()]


def check_action_space(spec: AlgorithmSpec, env_id: str, space: spaces.Space[Any]) -> None:
    """Raise a :class:`UserError` where the algorithm cannot act in this environment.

    Of those that can, the ones made for this kind of action space are named first.
    """
    if not isinstance(space, spec.action_spaces):
        able = [row for row in _TABLE if isinstance(space, row.action_spaces)]
        names = [row.name for row in sorted(able, key=lambda row: len(row.action_spaces))]
        raise UserError(
            f"{spec.name} on {env_id}: its actions are {space}, and {spec.name} needs "
            f"{' or '.join(s.__name__ for s in spec.action_spaces)}; "
            + (f"use {', '.join(names)}" if names else "no algorithm here can act in it")
        )
