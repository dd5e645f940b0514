"""Table of the algorithms that ``--algo`` names."""

from __future__ import annotations

import importlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from gymnasium import spaces

from rn_rl.errors import UserError, unknown
from rn_rl.own import import_own

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm


@dataclass(frozen=True)
class AlgorithmSpec:
    """One algorithm.

    Attributes:
        name: value of ``--algo`` and folder name; the RL Zoo's name where it has one, so that its tools
            find the runs.
        path: dotted name of the SB3 class.
        zoo_file: file of ``zoo_configs`` with its hyperparameters, without suffix.
        action_spaces: kinds of action spaces that it supports.
        replay: True if it learns from a replay buffer.
        summary: description in one line.
        aliases: other values of ``--algo``.
        norm: normalizer of a run that names none.
        base: name of the algorithm in the table that a class of the user's own is a subclass of; empty
            for those in the table.
    """

    name: str
    path: str
    zoo_file: str
    action_spaces: tuple[type[spaces.Space[Any]], ...]
    replay: bool
    summary: str
    aliases: tuple[str, ...] = ()
    norm: str = "none"
    base: str = ""

    @property
    def kind(self) -> str:
        """Name of the algorithm in the table: this one, or the one that it is a subclass of."""
        return self.base or self.name

    def computing_priors(self, term: str) -> AlgorithmSpec:
        """Return the row whose class computes the priors of transitions that a normalizer names.

        Args:
            term: the normalizer, such as ``sn(prior=td)``.

        Raises:
            UserError: there is none.
        """
        if self.kind in WITH_PRIORS.values():
            return self
        if self.kind not in WITH_PRIORS or self.base:
            raise UserError(
                f"{term} with {self.name}: its transitions have no prior; expected "
                f"{', '.join((*WITH_PRIORS, *WITH_PRIORS.values()))} (or a class of your own that is a "
                "subclass of the last two), or sn without prior="
            )
        return replace(self, path=ALGORITHMS[WITH_PRIORS[self.name]].path)

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
    AlgorithmSpec(
        "pqn", "rn_rl.agents.PQN", "pqn", _DISCRETE, False, "Q(lambda) without replay or target network",
        norm="ln",
    ),
)  # fmt: skip

WITH_PRIORS = {"dqn": "rndqn", "ppo": "rnppo"}
"""Algorithms whose updates can have saliency priors, and those whose classes compute them."""

ALGORITHMS: dict[str, AlgorithmSpec] = {row.name: row for row in _TABLE}
_BY_ANY_NAME = {**{alias: row for row in _TABLE for alias in row.aliases}, **ALGORITHMS}


def algorithm(name: str) -> AlgorithmSpec:
    """Look up an algorithm by name or alias, in any case, or a class by ``"module:Class"``.

    Such a class is a subclass of an algorithm in the table, from which it has everything else, such as
    its hyperparameters. Its module is imported.

    Raises:
        UserError: there is no such algorithm; the message names the nearest ones.
    """
    if ":" in name:
        return own_algorithm(name)
    if name.lower() not in _BY_ANY_NAME:
        raise unknown("algorithm", name, _BY_ANY_NAME, f"known: {', '.join(ALGORITHMS)}")
    return _BY_ANY_NAME[name.lower()]


def own_algorithm(name: str) -> AlgorithmSpec:
    """Return the row of a class of the user's own.

    Args:
        name: ``"module:Class"``.

    Raises:
        UserError: it cannot be imported, or is no subclass of an algorithm in the table.
    """
    module, _, own = name.partition(":")
    found = getattr(import_own("algorithm", name, module), own, None)
    rows = {row.cls: row for row in _TABLE}
    for base in getattr(found, "__mro__", ()):
        if base in rows:
            return replace(rows[base], name=name, path=f"{module}.{own}", base=rows[base].name)
    raise UserError(
        f"algorithm {name!r}: expected a class in {module!r} that is a subclass of an algorithm such as "
        "stable_baselines3.DQN"
    )


def check_action_space(spec: AlgorithmSpec, env_id: str, space: spaces.Space[Any]) -> None:
    """Raise :class:`UserError` if the algorithm does not support the action space.

    The message names those that do; first come those that support the fewest kinds of action spaces.
    """
    if not isinstance(space, spec.action_spaces):
        able = [row for row in _TABLE if isinstance(space, row.action_spaces)]
        names = [row.name for row in sorted(able, key=lambda row: len(row.action_spaces))]
        raise UserError(
            f"{spec.name} on {env_id}: its actions are {space}, and {spec.name} needs "
            f"{' or '.join(s.__name__ for s in spec.action_spaces)}; "
            + (f"use {', '.join(names)}" if names else "no algorithm here can act in it")
        )
