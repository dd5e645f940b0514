"""The algorithms that the command line trains: one table."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gymnasium import spaces
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.base_class import BaseAlgorithm

from rn_rl.agents import RNDQN, RNPPO
from rn_rl.errors import UserError, unknown


@dataclass(frozen=True)
class AlgorithmSpec:
    """One row.

    Attributes:
        name: as given to ``--algo``.
        cls: the SB3 class.
        zoo_file: which file of ``zoo_configs`` has its hyperparameters.
        action_spaces: what it can act in.
        replay: whether it learns from a replay buffer.
        summary: one line.
    """

    name: str
    cls: type[BaseAlgorithm]
    zoo_file: str
    action_spaces: tuple[type[spaces.Space[Any]], ...]
    replay: bool
    summary: str


_ANY = (spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary, spaces.Box)
_TABLE = (
    AlgorithmSpec("dqn", DQN, "dqn", (spaces.Discrete,), True, "SB3's DQN"),
    AlgorithmSpec("ppo", PPO, "ppo", _ANY, False, "SB3's PPO"),
    AlgorithmSpec(
        "rndqn", RNDQN, "dqn", (spaces.Discrete,), True, "DQN, statistics weighted by age"
    ),
    AlgorithmSpec("rnppo", RNPPO, "ppo", _ANY, False, "PPO, commits measured"),
)  # fmt: skip

ALGORITHMS: dict[str, AlgorithmSpec] = {row.name: row for row in _TABLE}


def algorithm(name: str) -> AlgorithmSpec:
    """The row of that name, or a :class:`UserError` with the nearest ones."""
    if name.lower() not in ALGORITHMS:
        raise unknown("algorithm", name, ALGORITHMS)
    return ALGORITHMS[name.lower()]


def check_action_space(spec: AlgorithmSpec, env_id: str, space: spaces.Space[Any]) -> None:
    """Raise a :class:`UserError` where the algorithm cannot act in this environment."""
    if not isinstance(space, spec.action_spaces):
        able = [a.name for a in _TABLE if isinstance(space, a.action_spaces)]
        raise UserError(
            f"{spec.name} on {env_id}: its actions are {space}, and {spec.name} needs "
            f"{' or '.join(s.__name__ for s in spec.action_spaces)}; "
            + (f"use {' or '.join(able)}" if able else "no algorithm here can act in it")
        )
