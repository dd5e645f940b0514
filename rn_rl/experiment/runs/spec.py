"""Description of a run: every resolved setting of a training, as plain values that ``run.yaml`` holds."""

from __future__ import annotations

import json
import platform
import re
import warnings
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv

import rn_rl
from rn_rl.agents.priors import priors_in
from rn_rl.errors import UserError, first_line
from rn_rl.experiment.envs.make import make_env
from rn_rl.experiment.settings.algorithms import algorithm, check_action_space
from rn_rl.experiment.settings.hyperparameters import (
    ENVIRONMENT_KEYS,
    NOISE_KEYS,
    to_algorithm_arguments,
)
from rn_rl.policies.nets import net_of


def versions() -> dict[str, str]:
    """Return the versions of the packages that decide a run's numbers."""
    return {
        "rn_rl": rn_rl.__version__,
        "stable_baselines3": stable_baselines3.__version__,
        "gymnasium": gymnasium.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


def file_name(name: str) -> str:
    r"""Turn an environment id or a normalizer spec into a name of a file or folder.

    Each character that Windows forbids in file names (``< > : " / \ | ? *`` and control characters)
    becomes ``-``, on every system, so that run folders can be copied from one to another. Windows also
    drops dots and spaces at the end of a name, so they become ``-`` too. An environment id gets the
    name that the RL Zoo gives it (``/`` and ``:`` become ``-``).
    """
    name = re.sub(r'[<>:"/\\|?*\x00-\x1f]', "-", name)
    return re.sub(r"[. ]+$", lambda end: "-" * len(end[0]), name)


@dataclass(frozen=True)
class RunSpec:
    """Complete, resolved description of a run, immutable; :func:`dataclasses.replace` makes variants."""

    algo: str
    env: str
    norm: str
    seed: int
    timesteps: int
    n_envs: int
    eval_freq: int
    """Timesteps between evaluations; 0 for none."""
    eval_episodes: int
    device: str
    threads: int
    config: str
    """Set of tuned hyperparameters, ``zoo`` or ``paper``, or the file that they are from."""
    hyperparameters: dict[str, Any]
    command: str = ""
    """Command line that started the run."""
    started_from: str | None = None
    """Run or agent file whose weights the training began with."""
    episodes: int | None = None
    """Number of training episodes after which the run ends, if that is before its timesteps."""
    together: list[str] = field(default_factory=list)
    """Folders, beside this one, of the seeds trained in one seed batch; empty for a single run."""
    vector_env: str = "gymnasium"
    """Package that steps the training environments: ``gymnasium`` or ``envpool``."""
    step_timeout: float | None = None
    """Seconds that a step of the environments may take; None for any time."""
    probe: bool = False
    """True if the layers are recorded in ``probe.npz``."""
    normalizers: dict[str, str] = field(default_factory=dict)
    """``"module:Class"`` of each normalizer that the user registered and the run names."""
    versions: dict[str, str] = field(default_factory=versions)
    own: list[str] = field(default_factory=list)
    """Hyperparameters that were tuned for the normalizer alone: settings of the arm, not of the task."""
    searched: list[int] = field(default_factory=list)
    """First and last seed on which ``rn-rl tune`` chose the hyperparameters; empty if it did not."""
    extended: list[int] = field(default_factory=list)
    """Planned timesteps before each ``--resume --timesteps``, which schedules followed until then."""
    signature: str = ""
    """Proof that the run was trained on this account; see :mod:`rn_rl.experiment.runs.trust`."""

    def settings(self) -> dict[str, Any]:
        """Return the settings that are equal for runs that differ in normalizer or seed alone."""
        names = ("algo", "env", "timesteps", "n_envs", "hyperparameters", "started_from")
        found = {name: getattr(self, name) for name in names}
        if self.episodes is not None:
            found["episodes"] = self.episodes
        if self.extended:
            found["extended"] = self.extended
        given = {
            k: v
            for k, v in self.hyperparameters.items()
            if v != {} and not (v is None and k in (*ENVIRONMENT_KEYS, *NOISE_KEYS))
        }  # of an algorithm, None is a value: max_grad_norm=None does not clip
        return {**found, "hyperparameters": given}

    def identity(self) -> str:
        """Return a text that two trainings share if and only if they are to give the same run."""
        found = {**self.settings(), "norm": self.norm, "seed": self.seed}
        return json.dumps(found, sort_keys=True, default=str)

    def with_timesteps(self, timesteps: int | None, command: str) -> RunSpec:
        """Return the description of a run that continues to ``timesteps``; None: as planned.

        Args:
            timesteps: all timesteps of the run.
            command: command line that continues it.
        """
        if timesteps is None or timesteps == self.timesteps:
            return self
        return replace(
            self,
            timesteps=timesteps,
            extended=[*self.extended, self.timesteps],
            command=f"{self.command}; {command}" if self.command else command,
        )

    def shown_settings(self) -> dict[str, Any]:
        """Return what identifies the run among others, for TensorBoard and the like."""
        names = ("norm", "algo", "env", "seed", "timesteps", "n_envs")
        return {**{name: getattr(self, name) for name in names}, **self.hyperparameters}

    def task_settings(self) -> dict[str, Any]:
        """Return the settings that all arms of a comparison share: without the normalizer's own."""
        found = self.settings()
        given = {k: v for k, v in found["hyperparameters"].items() if k not in self.own}
        return {**found, "hyperparameters": given}

    @property
    def is_minigrid(self) -> bool:
        """True for MiniGrid and BabyAI, where a positive return means success."""
        return self.env.startswith(("MiniGrid-", "BabyAI-"))

    @property
    def deterministic_evaluation(self) -> bool:
        """True if evaluations during training act greedily: not on MiniGrid, as in the RL Zoo."""
        return not self.is_minigrid

    def make_env(self, **options: Any) -> VecEnv:
        """Make the run's environments; see :func:`rn_rl.experiment.envs.make.make_env` for options."""
        own = {"n_envs": self.n_envs, "seed": self.seed, "step_timeout": self.step_timeout}
        options = {**own, **options}
        return make_env(self.env, self.hyperparameters, **options)

    def make_model(self, env: VecEnv, *, training: bool = True, **overrides: Any) -> BaseAlgorithm:
        """Make an untrained agent.

        Args:
            env: the environments it is for.
            training: False for an agent that will only act: it gets a replay buffer of one transition,
                and SB3's warnings about training settings are not shown.
            overrides: arguments of the algorithm in place of the run's hyperparameters.

        Raises:
            UserError: the algorithm cannot act in the environment, refuses a hyperparameter or
                normalizer, or the device cannot be used.
        """
        spec = algorithm(self.algo)
        check_action_space(spec, self.env, env.action_space)
        arguments = to_algorithm_arguments(self.hyperparameters, env.action_space)
        if spec.kind in ("rndqn", "rnppo"):
            arguments["norm"] = self.norm
        else:
            arguments["policy_kwargs"]["norm"] = self.norm
        terms = priors_in({"norm": self.norm, **arguments["policy_kwargs"]})
        if terms:
            spec = spec.computing_priors(terms[0])
            arguments["norm"] = self.norm
            if spec.kind == "dqn":  # else it would weight its statistics by age
                arguments["age_half_life"] = None
        arguments.update(seed=self.seed, device=self.device)
        if spec.replay and not training:
            arguments["buffer_size"] = 1
        if not training and arguments.get("n_steps") == 1:  # SB3 wants more rows than one
            arguments["n_steps"] = self.n_envs
        arguments.update(overrides)
        with ExitStack() as stack:
            if not training:
                stack.enter_context(warnings.catch_warnings())
                warnings.simplefilter("ignore")
            try:
                return spec.cls(env=env, **arguments)
            except UserError:
                raise
            except (
                TypeError,
                ValueError,
                AssertionError,
                AttributeError,
                LookupError,
                ArithmeticError,
                MemoryError,
            ) as error:
                reason = " ".join(str(error).split()) or type(error).__name__
                raise UserError(f"{self.algo} on {self.env}: {reason}") from error
            except RuntimeError as error:
                if "cuda" in str(error).lower() or "device" in str(error).lower():
                    reason = first_line(error)
                    raise UserError(f"device {self.device!r} cannot be used: {reason}") from None
                reason = first_line(error)[:200]
                raise UserError(f"{self.algo} on {self.env}: {reason}") from error


def flatten(settings: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested settings by dotted names; hyperparameters keep their own names."""
    found: dict[str, Any] = {}
    for key, value in settings.items():
        name = prefix + key
        if isinstance(value, dict):
            found.update(flatten(value, "" if name == "hyperparameters" else f"{name}."))
        else:
            found[name] = value
    return found


def differences(settings: list[dict[str, Any]]) -> list[str]:
    """Return the names of settings, from :func:`flatten`, that are not the same in all."""
    keys = dict.fromkeys(key for each in settings for key in each)
    return [key for key in keys if len({repr(each.get(key)) for each in settings}) > 1]


def as_told(names: list[str], settings: dict[str, Any]) -> str:
    """Return settings, from :func:`flatten`, as text: ``"gamma 0.9, n_steps default"``."""
    return ", ".join(f"{name} {settings.get(name, 'default')}" for name in names)


def plain_settings(settings: dict[str, Any]) -> dict[str, Any]:
    """Return nested settings by dotted names, as numbers, truth values and texts."""
    return {
        name: value if isinstance(value, bool | int | float | str) else str(value)
        for name, value in flatten(settings).items()
        if value is not None
    }


def check_observations(spec: RunSpec) -> None:
    """Raise :class:`UserError` if VecNormalize and the policy both normalize observations."""
    normalize = spec.hyperparameters.get("normalize")
    outside = normalize.get("norm_obs", True) if isinstance(normalize, dict) else bool(normalize)
    policy_kwargs = spec.hyperparameters.get("policy_kwargs") or {}
    own = "none"
    if algorithm(spec.algo).kind != "ars":
        own = net_of(policy_kwargs.get("net", "mlp")).obs_norm
    inside = policy_kwargs.get("obs_norm") or own
    if outside and inside != "none":
        raise UserError(
            f"{spec.algo} on {spec.env}: observations are normalized twice, by VecNormalize and by "
            f"obs_norm={inside}; add --set normalize=false, or --set policy_kwargs.obs_norm=none"
        )


RANGES: dict[str, tuple[int, int]] = {
    "seed": (0, 2**32 - 1),
    "timesteps": (0, 10**12),
    "n_envs": (1, 10_000),
    "eval_freq": (0, 10**12),
    "eval_episodes": (1, 10**6),
    "threads": (1, 1024),
}
"""Smallest and largest value of the numbers in ``run.yaml``."""

PATTERNS = {
    "algo": (r"\w+|[\w.]+:\w+", "the name of an algorithm"),
    "env": (r"[\w./:-]+", "the name of an environment"),
    "device": (r"auto|cpu|mps|(cuda|xpu)(:\d+)?", "cpu, cuda, cuda:N, mps or auto"),
    "vector_env": (r"gymnasium|envpool", "gymnasium or envpool"),
    "signature": (r"[0-9a-f]*", "hexadecimal digits"),
}
"""Regular expressions of the texts in ``run.yaml``, and what they say in words."""


def check_values(spec: RunSpec) -> None:
    """Raise :class:`ValueError` if a value read from ``run.yaml`` is of another kind or out of range."""
    for kind, names in (
        (str, ("algo", "env", "norm", "device", "config", "command", "vector_env", "signature")),
        (int, (*RANGES, *(("episodes",) if spec.episodes is not None else ()))),
        (dict, ("hyperparameters", "versions", "normalizers")),
        (list, ("together", "own", "searched", "extended")),
        (bool, ("probe",)),
    ):
        for name in names:
            value = getattr(spec, name)
            if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
                raise ValueError(f"{name}: expected {kind.__name__}, not {str(value)[:80]!r}")
    for name, (least, most) in RANGES.items():
        value = getattr(spec, name)
        if not least <= value <= most:
            raise ValueError(f"{name}={value}: expected {least:,} to {most:,}")
    for name, (pattern, words) in PATTERNS.items():
        value = getattr(spec, name)
        if not re.fullmatch(pattern, value):
            raise ValueError(f"{name} {value[:80]!r}: expected {words}")
    if not all(type(steps) is int and steps > 0 for steps in spec.extended):
        raise ValueError(f"extended {str(spec.extended)[:80]}: expected timesteps above 0")
    if spec.episodes is not None and spec.episodes < 1:
        raise ValueError(f"episodes={spec.episodes}: expected at least 1")
    if not isinstance(spec.step_timeout, int | float | None) or (spec.step_timeout or 1) <= 0:
        raise ValueError(f"step_timeout={spec.step_timeout!r}: expected seconds above 0")
    if not isinstance(spec.started_from, str | None):
        raise ValueError(f"started_from: expected a path, not {str(spec.started_from)[:80]!r}")
    for name, origin in spec.normalizers.items():
        if not re.fullmatch(r"[\w.]+:[\w.]+", str(origin)):
            raise ValueError(f"normalizers {name}: expected module:Class, not {str(origin)[:80]!r}")
    whole = all(type(seed) is int and seed >= 0 for seed in spec.searched)
    if len(spec.searched) not in (0, 2) or not whole:
        raise ValueError(
            f"searched {str(spec.searched)[:80]}: expected the first and the last seed"
        )
    for name in (*spec.hyperparameters, *spec.versions, *spec.normalizers, *spec.own):
        if not isinstance(name, str):
            raise ValueError(f"{name!r}: expected the name of a hyperparameter")
