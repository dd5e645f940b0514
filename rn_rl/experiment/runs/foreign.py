"""SB3 zips from elsewhere: their network is read as plain text and built again, without unpickling.

Weights do not show everything that decides an action (activations, scaling of images, gSDE, squashing),
so a zip is played only by the network that its member ``data`` describes. That is JSON, in which SB3
stores plain values as they are, and describes every other value in plain text beside its pickle.
"""

from __future__ import annotations

import ast
import base64
import contextlib
import importlib
import importlib.util
import inspect
import json
import pickletools
import re
import warnings
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch
from sb3_contrib.common.recurrent.policies import RecurrentActorCriticPolicy
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from rn_rl.errors import UserError
from rn_rl.experiment.runs.io import DAMAGE
from rn_rl.normalization import imported_names
from rn_rl.policies.nets import PRESETS
from rn_rl.policies.spec_arguments import NORMALIZER_ARGUMENTS, normalizer_specs

CLASSES = ("torch.nn.modules.", "stable_baselines3.", "sb3_contrib.", "rn_rl.policies.")
"""Packages from which classes that a zip names are imported: networks, layers and policies."""

TEXTS = tuple(
    f"[{name!r}]"
    for name in (*NORMALIZER_ARGUMENTS, "value_norm", "net", "features", "activation_fn")
)
"""Arguments of rn-rl's policies that are texts."""

LARGEST = 1 << 26
"""Largest size of a zip's ``data`` in bytes; that of a usual agent is below 100 kB."""


@dataclass(frozen=True)
class StoredAgent:
    """Description of the agent in an SB3 zip, read without unpickling."""

    path: Path
    """The zip."""
    data: dict[str, Any]
    """Its member ``data``."""

    def refuse(self, what: str) -> NoReturn:
        """Raise the error for a description that cannot be read without unpickling."""
        raise UserError(
            f"agent {self.path}: {what}; give --trust to open the pickle that describes its network, if "
            "you know where it is from"
        )

    @property
    def saw_normalized(self) -> bool:
        """True if its training certainly normalized observations; on-policy zips never show it."""
        return self.data.get("_last_original_obs") is not None

    def policy_class(self) -> type[BasePolicy]:
        """Return the class of its policy.

        Raises:
            UserError: the class is not one of SB3, sb3-contrib or rn-rl.
        """
        name = pickled_name(self.data.get("policy_class"))
        if name is None:
            self.refuse("its policy_class is not stored by name")
        return self._class(name, "policy_class", BasePolicy)

    def policy_kwargs(self) -> dict[str, Any]:
        """Return the arguments of its policy that decide how it acts.

        Raises:
            UserError: a value is described by a pickle alone.
        """
        stored = self.data.get("policy_kwargs")
        if not isinstance(stored, dict):
            self.refuse(f"its policy_kwargs are {stored!r:.80}, not names and values")
        mixed = ":serialized:" in stored
        kwargs = {}
        for name, value in stored.items():
            if name in (":type:", ":serialized:", "device", "optimizer_class", "optimizer_kwargs"):
                continue
            place = f"policy_kwargs[{name!r}]"
            kwargs[name] = self._value(place, value) if mixed else value
        arch = kwargs.get("net_arch")
        if isinstance(arch, list) and arch and isinstance(arch[0], dict):
            kwargs["net_arch"] = arch[0]  # as SB3's load() converts it
        for spec in normalizer_specs(kwargs):
            for module in imported_names(spec):
                self.refuse(f"its normalizer {module!r} imports a module")
        return kwargs

    def _value(self, name: str, value: Any) -> Any:
        """Return the value that SB3's text for a value that is not plain stands for.

        Args:
            name: where it is, for the message of an error.
            value: plain data, or text as Python prints the value.
        """
        if not isinstance(value, str) or (name.endswith(TEXTS) and "<" not in value):
            return value
        if name.endswith("['net_arch']") and value in PRESETS:
            return value
        try:
            parsed = ast.literal_eval(re.sub(r"<class '([\w.]+)'>", r"'<class \1>'", value))
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            self.refuse(f"{name} is {value[:80]!r}, which is not plain text")
        return self._with_classes(name, parsed)

    def _with_classes(self, name: str, value: Any) -> Any:
        """Return a parsed value with its classes imported."""
        if isinstance(value, str) and value.startswith("<class "):
            return self._class(value[7:-1], name, nn.Module)
        if isinstance(value, dict):
            return {k: self._with_classes(f"{name}[{k!r}]", v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(self._with_classes(name, item) for item in value)
        return value

    def _class(self, dotted: str, name: str, base: type) -> Any:
        """Import a class of :data:`CLASSES`."""
        module, _, attribute = dotted.rpartition(".")
        found = None
        if dotted.startswith(CLASSES) and re.fullmatch(r"[\w.]+", dotted):
            with contextlib.suppress(ImportError):
                found = getattr(importlib.import_module(module), attribute, None)
        if not (isinstance(found, type) and issubclass(found, base)):
            packages = ", ".join(package.rstrip(".") for package in CLASSES)
            self.refuse(f"{name} is {dotted!r:.80}, expected a {base.__name__} of {packages}")
        return found

    def make_model(self, cls: type[BaseAlgorithm], env: VecEnv) -> BaseAlgorithm:
        """Make an untrained agent with the network of the zip; random numbers are left as they are.

        Args:
            cls: class of the algorithm; of one of rn-rl's, its base class acts in the same way.
            env: environment in which it acts.

        Raises:
            UserError: the network is described by a pickle alone, or is not one of ``cls``.
        """
        policy, kwargs = self.policy_class(), self.policy_kwargs()
        stock = [c for c in cls.__mro__ if not c.__module__.startswith("rn_rl.")]
        cls = next((c for c in stock if getattr(c, "policy_aliases", None)), cls)
        known = tuple(cls.policy_aliases.values())
        recurrent = [issubclass(k, RecurrentActorCriticPolicy) for k in (policy, *known)]
        if not issubclass(policy, known) or recurrent[0] != recurrent[1]:
            raise UserError(
                f"agent {self.path}: its policy is {policy.__name__}, which is none of "
                f"{cls.__name__}; give an agent of this algorithm"
            )
        arguments: dict[str, Any] = {"policy_kwargs": kwargs, "device": "cpu"}
        if self.data.get("use_sde"):
            arguments["use_sde"] = True
        taken = inspect.signature(cls).parameters
        if issubclass(cls, OnPolicyAlgorithm):  # of a rollout buffer, which stays empty
            small = {"n_steps": 2, "batch_size": 2}
        else:
            small = {"buffer_size": 1}
        arguments |= {name: value for name, value in small.items() if name in taken}
        try:
            with torch.random.fork_rng(devices=[]), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                model = cls(policy, env, **arguments)
        except Exception as error:  # arguments from a file can raise anything in torch and SB3
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UserError(
                f"agent {self.path}: its network cannot be built by {policy.__name__}: {reason}"
            ) from None
        if hasattr(model, "exploration_rate"):
            model.exploration_rate = self.data.get("exploration_rate", 0.0)
        return model


def read_agent(path: Path) -> StoredAgent:
    """Read the description of the agent in an SB3 zip; nothing is unpickled.

    Raises:
        UserError: there is no such file, or it is not an agent.
    """
    if not path.is_file():
        raise UserError(f"agent {path}: no such file")
    try:
        with zipfile.ZipFile(path) as archive:
            size = archive.getinfo("data").file_size
            if size > LARGEST:
                raise ValueError(f"its data has {size:,} bytes, expected at most {LARGEST:,}")
            data = json.loads(archive.read("data"))
    except DAMAGE as error:
        raise not_an_agent(path, error) from None
    if not isinstance(data, dict):
        raise not_an_agent(path, ValueError("its data is not a JSON object"))
    return StoredAgent(path, data)


def not_an_agent(path: Path, error: Exception) -> UserError:
    """Return the error for a file that is not an SB3 zip."""
    reason = " ".join(str(error).split())[:200] or type(error).__name__
    return UserError(f"{path} is damaged or not an agent ({reason}); give an SB3 zip")


def pickled_name(stored: Any) -> str | None:
    """Return the dotted name of a class that is pickled by name; None for any other value.

    Only the opcodes are read, and nothing is imported.

    Args:
        stored: the value in the JSON of an SB3 zip.
    """
    try:
        raw = base64.b64decode(stored[":serialized:"])
        found = [(op.name, argument) for op, argument, _ in pickletools.genops(raw)]
    except (KeyError, TypeError, ValueError):
        return None
    ignored = ("PROTO", "FRAME", "MEMOIZE", "PUT", "BINPUT", "LONG_BINPUT", "STOP")
    steps = [step for step in found if step[0] not in ignored]
    names = [name for name, _ in steps]
    if names == ["GLOBAL"]:
        return str(steps[0][1]).replace(" ", ".")
    by_name = names[2:] == ["STACK_GLOBAL"] and all(n.endswith("UNICODE") for n in names[:2])
    return f"{steps[0][1]}.{steps[1][1]}" if by_name else None
