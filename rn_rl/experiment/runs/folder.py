"""Run folders: paths of their files, and how an agent is saved to one and loaded from it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

from rn_rl.errors import UserError
from rn_rl.experiment.runs.divergence import Divergence, read_divergence
from rn_rl.experiment.runs.foreign import read_agent
from rn_rl.experiment.runs.io import DAMAGE, atomic_write, read_yaml, write_json, write_yaml
from rn_rl.experiment.runs.match import check_spaces, refuse_difference
from rn_rl.experiment.runs.spec import RunSpec, check_values, file_name
from rn_rl.experiment.runs.trust import check_names, signature
from rn_rl.experiment.runs.trusted import load_trusted
from rn_rl.experiment.runs.weights import (
    adopt_policy,
    adopt_vecnormalize,
    load_policy,
    load_vecnormalize,
    save_policy,
    save_zip,
    saved_timesteps,
    vecnormalize_state,
)
from rn_rl.experiment.runs.zoo_folder import start_normalized
from rn_rl.experiment.settings.hyperparameters import merge_nested
from rn_rl.normalization import adopt


@dataclass(frozen=True)
class Run:
    """Paths in one run folder, ``RUNS/<norm>/<algo>/<Env>_<k>``: the RL Zoo's layout for each norm."""

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
    def probe_file(self) -> Path:
        return self.folder / "probe.npz"

    @property
    def final_file(self) -> Path:
        return self.folder / "final.json"

    @property
    def divergence_file(self) -> Path:
        return self.folder / "diverged.json"

    @property
    def divergence(self) -> Divergence | None:
        """How the training diverged, if it did."""
        return read_divergence(self.divergence_file)

    @property
    def checkpoint(self) -> Path:
        return self.folder / "checkpoint"

    def zip_file(self, env_id: str) -> Path:
        """Return the path of the SB3 zip, where the RL Zoo's tools look for it."""
        return self.folder / f"{file_name(env_id)}.zip"

    def zoo_folder(self, env_id: str) -> Path:
        """Return the folder of the RL Zoo's ``config.yml``, ``args.yml`` and ``vecnormalize.pkl``."""
        return self.folder / file_name(env_id)

    def read_spec(self) -> RunSpec:
        """Read ``run.yaml``.

        Raises:
            UserError: there is no such folder or file, or it does not describe a run.
        """
        if not self.folder.is_dir():
            raise UserError(f"run {self.folder}: no such folder; 'rn-rl train' makes one")
        if not self.spec_file.is_file():
            raise UserError(
                f"run {self.folder}: no run.yaml in it; give a folder such as "
                "runs/rn/dqn/CartPole-v1_1"
            )
        try:
            found = read_yaml(self.spec_file)
            if not isinstance(found, dict):
                raise ValueError(f"expected names and values, not {str(found)[:80]!r}")
            spec = RunSpec(**found)
            check_values(spec)
            return spec
        except DAMAGE as error:
            reason = " ".join(str(error).split())[:300]
            raise UserError(f"{self.spec_file} cannot be read: {reason}") from None

    def usable_spec(self, *, trust: bool = False) -> RunSpec:
        """Read ``run.yaml`` to make the environment and the agent that it names.

        Args:
            trust: also use names that may run code, though the run is from elsewhere.

        Raises:
            UserError: it cannot be read, or names what only a trusted run may.
        """
        spec = self.read_spec()
        check_names(spec, self.folder, trust=trust)
        adopt(spec.normalizers)
        return spec

    def write_spec(self, spec: RunSpec) -> None:
        """Write ``run.yaml``, and the same settings in the RL Zoo's ``config.yml`` and ``args.yml``."""
        write_yaml(self.spec_file, {**asdict(spec), "signature": signature(spec)})
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
        """Write all files from which an agent is evaluated or filmed, here and by the RL Zoo's tools.

        Args:
            spec: description of the run.
            model: its agent.
            normalizer: VecNormalize whose statistics are saved; default: that of the agent's environment.
        """
        normalizer = normalizer or model.get_vec_normalize_env()
        with atomic_write(self.policy_file, durable=True) as temporary:
            save_policy(model, temporary, normalizer)
        with atomic_write(self.zip_file(spec.env), durable=True) as temporary:
            save_zip(model, temporary, normalizer)
        if normalizer is not None:
            write_json(self.vecnormalize_file, vecnormalize_state(normalizer), durable=True)
            with atomic_write(self.zoo_folder(spec.env) / "vecnormalize.pkl") as temporary:
                normalizer.save(str(temporary))  # for the RL Zoo's tools; rn-rl never reads it

    def has_policy_of(self, timesteps: int) -> bool:
        """Return True if there is a policy, saved after so many timesteps as far as it says.

        rn-rl 0.1.0 did not store them, and wrote the policy after the checkpoint.
        """
        if not self.policy_file.is_file():
            return False
        return saved_timesteps(self.policy_file) in (None, timesteps)

    def load_agent(
        self,
        *,
        weights: Path | None = None,
        n_envs: int = 1,
        seed: int | None = None,
        trust: bool = False,
        env_kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> tuple[BaseAlgorithm, VecEnv]:
        """Load the trained agent and make its evaluation environment; nothing is unpickled.

        Args:
            weights: SB3 zip of the same run, such as ``best_model.zip``; default: the last policy.
            n_envs: number of environments that are stepped together.
            seed: seed of the environments; default: the run's seed plus 1000.
            trust: see :meth:`usable_spec`.
            env_kwargs: arguments of the environment in place of the run's.
            options: others of :func:`rn_rl.experiment.envs.make.make_env`.

        Raises:
            UserError: a file of the run is missing, damaged, or does not fit its network; or the run
                names what only a trusted run may.
        """
        spec = self.usable_spec(trust=trust)
        if env_kwargs:
            given = merge_nested(spec.hyperparameters, {"env_kwargs": env_kwargs})
            spec = replace(spec, hyperparameters=given)
        seed = spec.seed + 1000 if seed is None else seed
        env = spec.make_env(n_envs=n_envs, seed=seed, evaluation=True, **options)
        weights = weights or self.policy_file
        model = spec.make_model(env, training=False)
        load_policy(model, weights)
        model.num_timesteps = saved_timesteps(weights) or 0
        load_vecnormalize(weights, self.vecnormalize_file, env)
        if hasattr(model, "exploration_rate"):
            model.exploration_rate = model.exploration_final_eps  # type: ignore[attr-defined]
        env.seed(seed)
        return model, env


def parent_folder(root: Path, spec: RunSpec) -> Path:
    """Return ``root/<norm>/<algo>``, the folder that holds the runs of one normalizer and algorithm."""
    return root / file_name(spec.norm) / file_name(spec.algo)


def new_run(root: Path, spec: RunSpec) -> Run:
    """Make a new, empty run folder; two processes never get the same one.

    Raises:
        UserError: ``root`` cannot be written to.
    """
    parent = parent_folder(root, spec)
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
    """Resolve a run folder, or a zip inside one, to ``(run, zip)``; zip is None for a folder."""
    if path.suffix == ".zip":
        if not path.is_file():
            raise UserError(f"agent {path}: no such file")
        return Run(path.parent), path
    return Run(path), None


def load_weights(path: Path, spec: RunSpec, model: BaseAlgorithm, *, trust: bool) -> None:
    """Start an untrained agent from another agent's weights and normalizer state.

    With a run folder, or a zip inside one, the statistics of VecNormalize are those of that run. Both
    load without unpickling, and so does any other SB3 zip that describes its network in plain text. The
    networks must be the same, also in what the shapes of weights do not show, such as activations.

    Args:
        path: run folder or SB3 zip.
        spec: description of the new run.
        model: its agent.
        trust: also open a foreign zip whose network is described only by the pickle in it.

    Raises:
        UserError: there is no such agent, or it does not fit the network.
    """
    run, weights = find_run(path)
    env = model.get_env()
    assert env is not None
    if weights is None:
        source = replace(run.usable_spec(trust=trust), device="cpu")
        with torch.random.fork_rng(devices=[]):
            theirs = source.make_model(env, training=False, seed=None)
        refuse_difference(path, theirs, model)
        load_policy(model, run.policy_file)
        adopt_vecnormalize(run.policy_file, run.vecnormalize_file, model)
        return
    if run.spec_file.is_file():
        load_policy(model, weights)
        adopt_vecnormalize(weights, run.vecnormalize_file, model)
        return
    start_normalized(read_agent(path), spec.env, model, trust=trust)
    if trust:
        trusted = load_trusted(path, spec.algo, env, bounds=False)
        refuse_difference(path, trusted, model)
        model.policy.load_state_dict(trusted.policy.state_dict())
        adopt_policy(model)
    else:
        check_spaces(read_agent(path), env.observation_space, env.action_space, bounds=False)
        load_policy(model, path)
