"""Folders of the RL Zoo: how an agent's environment was made, and what its VecNormalize saw.

The Zoo writes ``<Env>/config.yml``, ``<Env>/args.yml`` and ``<Env>/vecnormalize.pkl`` beside its zips.
"""

from __future__ import annotations

import ast
import pickle
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from rn_rl.errors import UserError, first_line
from rn_rl.experiment.runs.foreign import StoredAgent
from rn_rl.experiment.runs.io import DAMAGE, parse_yaml
from rn_rl.experiment.runs.spec import file_name
from rn_rl.experiment.runs.trusted import gym_as_gymnasium
from rn_rl.policies.layers import activation_name

RENAMED = {
    "gym_minigrid.": "minigrid.",
    "gym.": "gymnasium.",
    "gymnasium.wrappers.time_limit.": "gymnasium.wrappers.",
}
"""Packages of wrappers in old folders, and their names today."""

STATISTICS = ("obs_rms", "norm_obs", "norm_obs_keys", "clip_obs", "epsilon")
"""Attributes of VecNormalize that decide which observations an agent sees."""


class ZooLoader(yaml.SafeLoader):
    """YAML's safe loader, which also reads the ordered mappings that the RL Zoo writes."""


def ordered_mapping(loader: yaml.SafeLoader, node: yaml.Node) -> dict[Any, Any]:
    """Construct ``OrderedDict([[key, value], ...])`` as a plain dict."""
    assert isinstance(node, yaml.SequenceNode)
    return dict(*loader.construct_sequence(node, deep=True))


ZooLoader.add_constructor(
    "tag:yaml.org,2002:python/object/apply:collections.OrderedDict", ordered_mapping
)
ZooLoader.add_constructor(
    "tag:yaml.org,2002:python/tuple",
    lambda loader, node: loader.construct_sequence(node, deep=True),  # type: ignore[arg-type]
)


@dataclass(frozen=True)
class ZooFolder:
    """The folder with ``config.yml`` and the statistics beside an agent of the RL Zoo."""

    folder: Path

    @property
    def statistics(self) -> Path:
        """File of the pickled VecNormalize."""
        return self.folder / "vecnormalize.pkl"

    def environment(self) -> dict[str, Any] | None:
        """Return the hyperparameters of the agent's environment; None without ``config.yml``.

        They are ``env_wrapper``, ``env_kwargs``, ``normalize`` and ``frame_stack``, where given.

        Raises:
            UserError: a file is damaged, or names what cannot be made here.
        """
        config = self._read("config.yml")
        if config is None:
            return None
        args = self._read("args.yml") or {}
        if config.get("vec_env_wrapper"):
            raise UserError(
                f"{self.folder / 'config.yml'}: vec_env_wrapper={config['vec_env_wrapper']!r}: "
                "wrappers of vector environments cannot be made here; evaluate it with the RL Zoo"
            )
        found = {
            "env_wrapper": today(config.get("env_wrapper")),
            "env_kwargs": args.get("env_kwargs")
            or self._plain("env_kwargs", config.get("env_kwargs")),
            "normalize": self._plain("normalize", config.get("normalize")),
            "frame_stack": config.get("frame_stack"),
            "gamma": config.get("gamma"),
        }
        return {name: value for name, value in found.items() if value}

    def _read(self, name: str) -> dict[str, Any] | None:
        """Return one of the YAML files; None if there is none."""
        path = self.folder / name
        if not path.is_file():
            return None
        try:
            found = parse_yaml(path.read_text(encoding="utf-8"), ZooLoader)
        except DAMAGE as error:
            reason = first_line(error)
            raise UserError(f"{path} is damaged ({reason[:200]}); put the file back") from None
        if not isinstance(found, dict):
            raise UserError(f"{path}: expected names and values; put the file back")
        return found

    def _plain(self, name: str, value: Any) -> Any:
        """Return a value that the RL Zoo writes as Python, ``dict(norm_obs=False)`` or a literal."""
        if not isinstance(value, str):
            return value
        try:
            return python_value(value)
        except ValueError:
            raise UserError(
                f"{self.folder / 'config.yml'}: {name}={value[:80]!r}: expected true, false or names and "
                "values"
            ) from None


def python_value(text: str) -> Any:
    """Return a value that the RL Zoo writes as Python; nothing in the text is run.

    Args:
        text: literals, lists of them and ``dict(name=value)`` in each other. An activation such as
            ``nn.ReLU`` becomes its name, ``"relu"``, and a tuple a list.

    Raises:
        ValueError: it is something else.
    """
    try:
        return plain(ast.parse(text.strip(), mode="eval").body)
    except (SyntaxError, MemoryError, RecursionError) as error:
        raise ValueError(str(error)) from None


def plain(node: ast.expr) -> Any:
    """Return the value of a part of a Python expression.

    Raises:
        ValueError: it is no literal, list, mapping or activation.
    """
    match node:
        case ast.Constant(str() | int() | float() | None as value):
            return value
        case ast.UnaryOp(ast.USub(), ast.Constant(int() | float() as value)):
            return -value
        case ast.List(parts) | ast.Tuple(parts):
            return [plain(part) for part in parts]
        case ast.Dict(keys, values) if None not in keys:
            return {str(plain(k)): plain(v) for k, v in zip(keys, values, strict=True) if k}
        case ast.Call(ast.Name("dict"), [], keywords) if all(k.arg for k in keywords):
            return {str(k.arg): plain(k.value) for k in keywords}
        case ast.Attribute(ast.Name("nn") | ast.Attribute(ast.Name("torch" | "th"), "nn")):
            return activation_name(ast.unparse(node))
    raise ValueError(f"{ast.unparse(node)[:80]!r} is no plain value")


def today(wrapper: Any) -> Any:
    """Return the RL Zoo's ``env_wrapper`` with the packages that hold old names today."""
    if isinstance(wrapper, list):
        return [today(entry) for entry in wrapper]
    if isinstance(wrapper, dict):
        return {today(name): kwargs for name, kwargs in wrapper.items()}
    if isinstance(wrapper, str):
        for old, new in RENAMED.items():
            if wrapper.startswith(old):
                wrapper = new + wrapper.removeprefix(old)
    return wrapper


def zoo_folder(zip_file: Path, env_id: str) -> ZooFolder:
    """Return the folder of the RL Zoo's files beside a zip."""
    return ZooFolder(zip_file.parent / file_name(env_id))


def load_statistics(path: Path, normalizer: VecNormalize) -> None:
    """Let a VecNormalize show the observations that the pickled one showed; runs code in the file.

    Raises:
        UserError: the file is not a VecNormalize of such observations.
    """
    try:
        with gym_as_gymnasium(), path.open("rb") as file, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stored: Any = pickle.load(file)
        if not isinstance(stored, VecNormalize):
            raise TypeError(f"it is a {type(stored).__name__}")
        found = {name: getattr(stored, name) for name in STATISTICS if hasattr(stored, name)}
        if found["norm_obs"] and not same_shapes(found["obs_rms"], normalizer.observation_space):
            raise TypeError("its observations have other shapes")
    except Exception as error:  # a foreign file can raise anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{path}: not VecNormalize statistics of this environment: {reason}"
        ) from None
    for name, value in found.items():
        setattr(normalizer, name, value)


def same_shapes(statistics: Any, space: spaces.Space) -> bool:
    """Return True if statistics are of the observations of a space."""
    if isinstance(statistics, dict):
        return isinstance(space, spaces.Dict) and all(
            key in space.spaces and np.shape(part.mean) == space[key].shape
            for key, part in statistics.items()
        )
    return bool(np.shape(statistics.mean) == space.shape)


def start_normalized(agent: StoredAgent, env_id: str, model: BaseAlgorithm, *, trust: bool) -> None:
    """Give a model the statistics with which a foreign agent saw its observations.

    Args:
        agent: the agent whose weights the model takes.
        env_id: its environment.
        model: the model, with its environment.
        trust: whether the statistics, which are a pickle, may be opened.

    Raises:
        UserError: the agent saw normalized observations and the model does not, or the reverse, or the
            statistics are missing or not trusted.
    """
    zoo = zoo_folder(agent.path, env_id)
    settings = zoo.environment()
    normalizer = model.get_vec_normalize_env()
    saw = agent.saw_normalized or zoo.statistics.is_file()
    if settings is not None:
        saw = normalizes(settings.get("normalize"))
    sees = normalizer is not None and normalizer.norm_obs
    if saw and not sees:
        raise UserError(
            f"agent {agent.path}: it saw normalized observations, and this run does not normalize; give "
            "--set normalize=true"
        )
    if sees and not saw and settings is not None:
        raise UserError(
            f"agent {agent.path}: it saw observations that were not normalized; give "
            "--set normalize=false"
        )
    if saw:
        assert normalizer is not None
        need_statistics(zoo.statistics, agent.path, trust=trust)
        load_statistics(zoo.statistics, normalizer)


def normalizes(normalize: Any) -> bool:
    """Return True if the RL Zoo's ``normalize`` normalizes observations."""
    return bool(normalize.get("norm_obs", True) if isinstance(normalize, dict) else normalize)


def need_statistics(path: Path, agent: Path, *, trust: bool) -> None:
    """Raise :class:`UserError` unless the statistics of an agent are there and may be opened."""
    if not path.is_file():
        raise UserError(
            f"agent {agent}: it saw normalized observations, and {path}, with the statistics, is not "
            "there; put it there"
        )
    if not trust:
        raise UserError(
            f"agent {agent}: its VecNormalize statistics are a pickle, which runs code that is in it; "
            "give --trust if you know where it is from"
        )
