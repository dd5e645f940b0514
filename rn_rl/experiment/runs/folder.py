"""A run on disk: where everything is, how it is written, and how an agent comes back without pickle."""

from __future__ import annotations

import json
import pickle
import platform
import shlex
import sys
import warnings
import zipfile
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import safetensors
import safetensors.torch
import stable_baselines3
import torch
import yaml
from sb3_contrib import ARS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

import rn_rl
from rn_rl.errors import UserError, first_line
from rn_rl.experiment.envs.make import make_env
from rn_rl.experiment.runs.io import read_yaml, whole, write_json, write_yaml
from rn_rl.experiment.settings.algorithms import algorithm, check_action_space
from rn_rl.experiment.settings.hyperparameters import to_algorithm_arguments


def command_line() -> str:
    """What the user typed, for the records."""
    program = Path(sys.argv[0]).name
    return shlex.join(["rn-rl" if program == "__main__.py" else program, *sys.argv[1:]])


def versions() -> dict[str, str]:
    """Of everything that decides a result."""
    return {
        "rn_rl": rn_rl.__version__,
        "stable_baselines3": stable_baselines3.__version__,
        "gymnasium": gymnasium.__version__,
        "torch": str(torch.__version__),
        "numpy": np.__version__,
        "python": platform.python_version(),
    }


@dataclass
class RunSpec:
    """The full, resolved description of a run: ``run.yaml``. Plain values only."""

    algo: str
    env: str
    norm: str
    seed: int
    timesteps: int
    n_envs: int
    eval_freq: int
    eval_episodes: int
    device: str
    threads: int
    config: str
    hyperparameters: dict[str, Any]
    command: str = ""
    started_from: str | None = None
    episodes: int | None = None
    """Training episodes after which the run ends, if that is before its timesteps."""
    together: list[str] = field(default_factory=list)
    """Folders, beside this one, of the seeds that were trained in one batch; empty for a single run."""
    vector_env: str = "gymnasium"
    versions: dict[str, str] = field(default_factory=versions)

    def settings(self) -> dict[str, Any]:
        """What it shares with runs that differ from it by normalizer or seed alone."""
        names = ("algo", "env", "timesteps", "n_envs", "hyperparameters", "started_from")
        found = {name: getattr(self, name) for name in names}
        if self.episodes is not None:
            found["episodes"] = self.episodes
        given = {k: v for k, v in self.hyperparameters.items() if v is not None and v != {}}
        return {**found, "hyperparameters": given}

    @property
    def is_minigrid(self) -> bool:
        """MiniGrid rewards success alone, and its memoryless policies are evaluated stochastically."""
        return self.env.startswith(("MiniGrid-", "BabyAI-"))

    @property
    def deterministic_evaluation(self) -> bool:
        """How evaluations during training act, as in the zoo: greedily, but for MiniGrid."""
        return not self.is_minigrid

    def make_env(self, **options: Any) -> VecEnv:
        """The run's environment; see :func:`rn_rl.experiment.envs.make.make_env`."""
        options = {"n_envs": self.n_envs, "seed": self.seed, **options}
        return make_env(self.env, self.hyperparameters, **options)

    def make_model(self, env: VecEnv, **overrides: Any) -> BaseAlgorithm:
        """A fresh agent of this description."""
        spec = algorithm(self.algo)
        check_action_space(spec, self.env, env.action_space)
        arguments = to_algorithm_arguments(self.hyperparameters, env.action_space)
        if self.algo in ("rndqn", "rnppo"):
            arguments["norm"] = self.norm
        else:
            arguments["policy_kwargs"]["norm"] = self.norm
        arguments.update(seed=self.seed, device=self.device, **overrides)
        try:
            return spec.cls(env=env, **arguments)
        except UserError:
            raise
        except (TypeError, ValueError, AssertionError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{self.algo} on {self.env}: {reason}") from error
        except RuntimeError as error:
            if "cuda" in str(error).lower() or "device" in str(error).lower():
                reason = first_line(error)
                raise UserError(f"device {self.device!r} cannot be used: {reason}") from None
            raise


@dataclass(frozen=True)
class Run:
    """Paths of one run, ``RUNS/<norm>/<algo>/<Env>_<k>/``: the RL Zoo's layout in a folder per norm."""

    folder: Path

    @property
    def spec_file(self) -> Path:
        return self.folder / "run.yaml"

    @property
    def policy_file(self) -> Path:
        return self.folder / "policy.safetensors"

    @property
    def vecnormalize_file(self) -> Path:
        return self.folder / "vecnormalize.json"

    @property
    def best_model_file(self) -> Path:
        return self.folder / "best_model.zip"

    @property
    def evaluations_file(self) -> Path:
        return self.folder / "evaluations.npz"

    @property
    def code_length_file(self) -> Path:
        return self.folder / "code_length.npz"

    @property
    def final_file(self) -> Path:
        return self.folder / "final.json"

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    def zip_file(self, env_id: str) -> Path:
        """The SB3 zip, where the zoo's tools look for it."""
        return self.folder / f"{file_name(env_id)}.zip"

    def zoo_folder(self, env_id: str) -> Path:
        """Where the zoo keeps ``config.yml``, ``args.yml`` and VecNormalize statistics."""
        return self.folder / file_name(env_id)

    def read_spec(self) -> RunSpec:
        """``run.yaml``, or a :class:`UserError` that says what is wrong with the folder."""
        if not self.folder.is_dir():
            raise UserError(f"run {self.folder}: no such folder; 'rn-rl train' makes one")
        if not self.spec_file.is_file():
            raise UserError(
                f"run {self.folder}: no run.yaml in it; give a folder such as "
                "runs/rn/dqn/CartPole-v1_1"
            )
        try:
            spec = RunSpec(**read_yaml(self.spec_file))
            check_types(spec)
            return spec
        except (yaml.YAMLError, TypeError, OSError, UnicodeDecodeError) as error:
            reason = " ".join(str(error).split())
            raise UserError(f"{self.spec_file} cannot be read: {reason}") from None

    def write_spec(self, spec: RunSpec) -> None:
        """``run.yaml``, and the same for the zoo's tools."""
        write_yaml(self.spec_file, asdict(spec))
        zoo = self.zoo_folder(spec.env)
        policy_kwargs = {**(spec.hyperparameters.get("policy_kwargs") or {}), "norm": spec.norm}
        config = {**spec.hyperparameters, "policy_kwargs": policy_kwargs}
        write_yaml(zoo / "config.yml", dict(sorted(config.items())))
        args = {
            "algo": spec.algo,
            "env": spec.env,
            "seed": spec.seed,
            "env_kwargs": spec.hyperparameters.get("env_kwargs"),
            "n_timesteps": spec.timesteps,
            "device": spec.device,
        }
        write_yaml(zoo / "args.yml", args)

    def save_agent(
        self, spec: RunSpec, model: BaseAlgorithm, normalizer: VecNormalize | None = None
    ) -> None:
        """Everything that evaluating, filming and the zoo's tools need.

        Args:
            spec: of the run.
            model: of the run.
            normalizer: statistics of observations; default: those of the agent's own environment.
        """
        if isinstance(
            model, ARS
        ):  # its parameters are views of one vector, which safetensors refuses
            for parameter in model.policy.parameters():
                parameter.data = parameter.data.clone()
        with whole(self.policy_file) as temporary:
            safetensors.torch.save_model(model.policy, str(temporary))
        with whole(self.zip_file(spec.env)) as temporary:
            model.save(temporary)
        normalizer = normalizer or model.get_vec_normalize_env()
        if normalizer is not None:
            write_json(self.vecnormalize_file, vecnormalize_state(normalizer))
            with whole(self.zoo_folder(spec.env) / "vecnormalize.pkl") as temporary:
                normalizer.save(str(temporary))  # for the zoo's tools; nothing here reads it

    def load_agent(
        self, *, weights: Path | None = None, n_envs: int = 1, seed: int | None = None
    ) -> tuple[BaseAlgorithm, VecEnv]:
        """The trained agent and its evaluation environment; nothing is unpickled.

        Args:
            weights: an SB3 zip of the same run, such as ``best_model.zip``; by default the last policy.
            n_envs: environments stepped together.
            seed: of the environments; by default the run's plus 1000.
        """
        spec = self.read_spec()
        seed = spec.seed + 1000 if seed is None else seed
        env = spec.make_env(n_envs=n_envs, seed=seed, evaluation=True)
        load_vecnormalize(self.vecnormalize_file, env)
        with warnings.catch_warnings():  # about training, which this agent will not do
            warnings.simplefilter("ignore")
            model = spec.make_model(env, **light(spec))
        load_policy(model, weights or self.policy_file)
        if hasattr(model, "exploration_rate"):
            model.exploration_rate = model.exploration_final_eps  # type: ignore[attr-defined]
        env.seed(seed)
        return model, env


def check_types(spec: RunSpec) -> None:
    """Raise a :class:`TypeError` for a value that cannot be of a run."""
    for kind, names in (
        (str, ("algo", "env", "norm", "device", "config", "command", "vector_env")),
        (int, ("seed", "timesteps", "n_envs", "eval_freq", "eval_episodes", "threads")),
        (dict, ("hyperparameters", "versions")),
        (list, ("together",)),
    ):
        for name in names:
            value = getattr(spec, name)
            if not isinstance(value, kind):
                raise TypeError(f"{name}: expected {kind.__name__}, not {value!r}")
    if not isinstance(spec.episodes, int | None):
        raise TypeError(f"episodes: expected int, not {spec.episodes!r}")


def light(spec: RunSpec) -> dict[str, Any]:
    """Arguments for an agent that will not learn: no replay memory to speak of."""
    return {"buffer_size": 1} if algorithm(spec.algo).replay else {}


def file_name(env_id: str) -> str:
    """An environment's name as a file name, as the zoo writes it."""
    return env_id.replace("/", "-").replace(":", "-")


def new_run(root: Path, spec: RunSpec) -> Run:
    """A new, empty folder; two processes never get the same one."""
    parent = root / spec.norm.replace("/", "-") / spec.algo
    stem = file_name(spec.env)
    try:
        parent.mkdir(parents=True, exist_ok=True)
        k = 1
        while True:
            try:
                (parent / f"{stem}_{k}").mkdir()
                return Run(parent / f"{stem}_{k}")
            except FileExistsError:
                k += 1
    except OSError as error:
        raise UserError(
            f"--out {root}: cannot write there ({error.strerror or error}); choose another folder"
        ) from None


def find_run(path: Path) -> tuple[Run, Path | None]:
    """A run folder, or a zip inside of one: ``(run, weights)``."""
    if path.suffix == ".zip":
        if not path.is_file():
            raise UserError(f"agent {path}: no such file")
        return Run(path.parent), path
    return Run(path), None


def load_policy(model: BaseAlgorithm, path: Path) -> None:
    """Weights and normalizer state from ``policy.safetensors`` or an SB3 zip, without unpickling.

    Raises:
        UserError: no such file, damaged, or of another architecture.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; the run has not saved a policy yet")
    try:
        if path.suffix == ".zip":
            with (
                zipfile.ZipFile(path) as archive,
                archive.open("policy.pth") as stored,
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # of odd pickles, which are refused below
                state = torch.load(stored, map_location=model.device, weights_only=True)
            model.policy.load_state_dict(state)
        else:
            safetensors.torch.load_model(model.policy, str(path))
    except (
        zipfile.BadZipFile,
        KeyError,
        EOFError,
        OSError,
        pickle.UnpicklingError,
        safetensors.SafetensorError,
    ) as error:
        reason = first_line(error)
        raise UserError(
            f"{path} is damaged or not an agent ({reason[:200]}); train again, or give another file "
            "of the run"
        ) from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        reason = reason if len(reason) < 240 else reason[:240] + "..."
        raise UserError(f"{path} does not fit this run's network: {reason}") from None
    adopt_policy(model)


def adopt_policy(model: BaseAlgorithm) -> None:
    """Make the weights that were loaded into the policy those from which the agent learns on.

    They are the same thing but for ARS, which searches from a copy.
    """
    if isinstance(model, ARS):
        model.weights = torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach()  # type: ignore[assignment]


def vecnormalize_state(normalizer: VecNormalize) -> dict[str, Any]:
    """Statistics of VecNormalize as plain data, every bit of them."""

    def plain(rms: RunningMeanStd) -> dict[str, Any]:
        return {
            "mean": np.asarray(rms.mean).tolist(),
            "var": np.asarray(rms.var).tolist(),
            "count": float(rms.count),
        }

    obs: Any = getattr(normalizer, "obs_rms", None)
    return {
        "obs": {k: plain(v) for k, v in obs.items()}
        if isinstance(obs, dict)
        else (plain(obs) if obs is not None else None),
        "obs_is_dict": isinstance(obs, dict),
        "ret": plain(normalizer.ret_rms),
        "returns": normalizer.returns.tolist(),
    }


def load_vecnormalize(path: Path, env: VecEnv) -> None:
    """Put saved statistics into the VecNormalize of an environment, if it has one."""
    normalizer = unwrap_vec_normalize(env)
    if normalizer is None:
        return
    if not path.is_file():
        raise UserError(f"{path}: no such file, and this agent saw normalized observations")
    load_vecnormalize_state(json.loads(path.read_text()), normalizer)


def load_vecnormalize_state(stored: dict[str, Any], normalizer: VecNormalize) -> None:
    """Inverse of :func:`vecnormalize_state`."""

    def restore(rms: RunningMeanStd, data: dict[str, Any]) -> None:
        rms.mean = np.array(data["mean"])
        rms.var = np.array(data["var"])
        rms.count = data["count"]

    obs: Any = getattr(normalizer, "obs_rms", None)
    if stored["obs_is_dict"]:
        for key, data in stored["obs"].items():
            restore(obs[key], data)
    elif stored["obs"] is not None:
        restore(obs, stored["obs"])
    restore(normalizer.ret_rms, stored["ret"])
    if len(stored["returns"]) == normalizer.num_envs:
        normalizer.returns = np.array(stored["returns"])
