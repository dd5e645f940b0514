"""Single results beside many seeds: those that the RL Zoo published, and any saved agent."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecFrameStack, unwrap_vec_normalize

from rn_rl.errors import UserError
from rn_rl.experiment.envs.make import check_env_id
from rn_rl.experiment.evaluation.config import EvaluateConfig
from rn_rl.experiment.evaluation.episodes import play_agent
from rn_rl.experiment.evaluation.evaluate import evaluate
from rn_rl.experiment.runs.folder import find_run
from rn_rl.experiment.runs.foreign import read_agent
from rn_rl.experiment.runs.match import check_spaces
from rn_rl.experiment.runs.spec import RunSpec, file_name
from rn_rl.experiment.runs.trust import check_names
from rn_rl.experiment.runs.trusted import load_trusted
from rn_rl.experiment.runs.weights import load_state
from rn_rl.experiment.runs.zoo_folder import load_statistics, need_statistics, zoo_folder
from rn_rl.experiment.settings.algorithms import ALGORITHMS, algorithm
from rn_rl.experiment.settings.hyperparameters import tuned
from rn_rl.experiment.settings.shipped import shipped
from rn_rl.statistics import bootstrap_interval


@dataclass
class Reference:
    """Result of one agent; its interval is over episodes, and says nothing about other seeds."""

    label: str
    """Name in tables and plots."""
    algo: str
    """Algorithm."""
    env: str
    """Environment id."""
    value: float
    """Mean return."""
    low: float
    """Lower bound of the 95% interval over episodes; NaN if unknown."""
    high: float
    """Upper bound; NaN if unknown."""
    env_kwargs: dict[str, Any]
    """Arguments of the environment in which it was evaluated."""
    note: str
    """Sentence about its source, and its differences from the runs beside it."""


def published(spec: RunSpec) -> list[Reference]:
    """Return the RL Zoo's published results for a run's algorithm and environment, in any version."""
    algo, env, timesteps = spec.algo, spec.env, spec.timesteps
    kwargs = spec.hyperparameters.get("env_kwargs")
    found = []
    stem = env.rsplit("-v", 1)[0]
    for row in shipped("baselines.yml"):
        if row["algo"] != algo or row["env"].rsplit("-v", 1)[0] != stem:
            continue
        differences = ["one training run, so nothing about other seeds"]
        if row["env"] != env:
            differences.append(f"{row['env']}, not {env}")
        if row["timesteps"] != timesteps:
            differences.append(f"{row['timesteps']:,} timesteps, not {timesteps:,}")
        if spec.config != "zoo":
            differences.append(f"its own hyperparameters, not those of --config {spec.config}")
        if kwargs:
            differences.append(f"environments without {kwargs}")
        note = (
            f"RL Zoo (rl-baselines3-zoo, benchmark.md), {algo} on {row['env']}: {row['mean']} ± "
            f"{row['std']} over episodes; differs by: {'; '.join(differences)}."
        )
        value = float(row["mean"])
        label = "RL Zoo, published" if row["env"] == env else f"RL Zoo, {row['env']}"
        found.append(Reference(label, algo, env, value, math.nan, math.nan, {}, note))
    return found


def evaluate_agent(
    path: Path, algos: list[str], envs: list[str], episodes: int, *, trust: bool
) -> Reference:
    """Evaluate anybody's agent as ours are.

    Its network is the one that its zip describes, and its environment the one that ``config.yml`` beside
    it describes; without that file, the one of the tuned hyperparameters.

    Args:
        path: a run of ours, a folder of the RL Zoo (``ALGO/ENV_K``), or an SB3 zip.
        algos: of the comparison; a zip that stands alone must be of the only one.
        envs: of the comparison; likewise.
        episodes: to play.
        trust: whether a zip may be unpickled, which runs code that is in it.

    Raises:
        UserError: not an agent, or one that needs ``--trust``.
    """
    run, weights = find_run(path)
    if run.spec_file.is_file():
        spec = run.read_spec()
        stochastic = not spec.deterministic_evaluation
        config = EvaluateConfig(path, episodes=episodes, stochastic=stochastic, trust=trust)
        own = evaluate(config)
        return reference(path, spec, np.array(own.returns), "a run of rn-rl")
    zip_file = weights or find_zip(path)
    algo = guess(path, algos, "algo", [*ALGORITHMS])
    if algo not in ALGORITHMS:  # a stranger's run may name any module
        raise UserError(f"--agent {path}: for agents of {algo} there is 'rn-rl evaluate'")
    env_id = guess(path, envs, "env", envs, zip_file.stem)
    check_env_id(env_id)
    zoo = zoo_folder(zip_file, env_id)
    settings = zoo.environment()
    hyperparameters = environment_settings(algo, env_id) if settings is None else {**settings}
    if settings is None and zoo.statistics.is_file():
        hyperparameters.setdefault("normalize", True)
    stacked = hyperparameters.pop("frame_stack", 1)
    spec = RunSpec(
        algo=algo,
        env=env_id,
        norm="none",
        seed=0,
        timesteps=0,
        n_envs=1,
        eval_freq=0,
        eval_episodes=1,
        device="cpu",
        threads=1,
        config="zoo",
        hyperparameters=hyperparameters,
    )
    # the name of the environment is the user's, wrappers are the file's
    check_names(replace(spec, env=env_id.rpartition(":")[2]), path, trust=trust)
    env = spec.make_env(n_envs=min(8, episodes), seed=1000, evaluation=True)
    try:
        if stacked > 1:
            env = VecFrameStack(env, stacked)
        model = load_foreign(zip_file, spec, env, settings, trust=trust)
        deterministic = spec.deterministic_evaluation
        returns, _ = play_agent(model, env, episodes, deterministic=deterministic)
    finally:
        env.close()
    what = "an agent from elsewhere"
    if settings is None:
        what += ", without a config.yml that says how its environment was made"
    return reference(path, spec, np.array(returns), what)


def environment_settings(algo: str, env_id: str) -> dict[str, Any]:
    """Return the tuned hyperparameters that describe the environment."""
    known = tuned(algorithm(algo), env_id)
    return {
        name: known[name]
        for name in ("env_wrapper", "env_kwargs", "normalize", "gamma")
        if known.get(name)
    }


def reference(path: Path, spec: RunSpec, returns: np.ndarray, what: str) -> Reference:
    """Return an evaluated agent as a reference, with its note."""
    low, high = bootstrap_interval(returns)
    note = (
        f"Agent {path} ({what}), {spec.algo} on {spec.env}: {returns.mean():.2f} ± "
        f"{returns.std():.2f} over {len(returns)} episodes; one agent, so nothing about other seeds."
    )
    label = f"agent {path}" if len(str(path)) < 40 else f"agent ...{str(path)[-36:]}"
    kwargs = spec.hyperparameters.get("env_kwargs") or {}
    return Reference(label, spec.algo, spec.env, float(returns.mean()), low, high, kwargs, note)


def find_zip(folder: Path) -> Path:
    """Return the zip of the agent in a folder of the RL Zoo.

    Raises:
        UserError: the folder is missing, or has no agent.
    """
    if not folder.exists():
        raise UserError(f"--agent {folder}: no such file or folder")
    stem = folder.name.rpartition("_")[0]
    for name in (f"{stem}.zip", "best_model.zip"):
        if (folder / name).is_file():
            return folder / name
    raise UserError(
        f"--agent {folder}: no agent in it; expected an SB3 zip, a run, or a folder of the RL Zoo such "
        "as ppo/CartPole-v1_1 with CartPole-v1.zip in it"
    )


def guess(path: Path, given: list[str], flag: str, known: list[str], stem: str = "") -> str:
    """Return the algorithm or environment of an agent: from its path, or the only one compared.

    Args:
        path: the agent.
        given: names that are compared.
        flag: option with which one is chosen.
        known: all valid names.
        stem: another part in which a name may be.

    Raises:
        UserError: the path names none, and several are compared.
    """
    parts = [*reversed(path.parts), stem]
    names = {file_name(name): name for name in known}
    for part in parts:
        numbered = re.fullmatch(r"(.+)_\d+", part)
        for text in (part, numbered[1] if numbered else part):
            if text in names:
                return names[text]
    if len(given) == 1:
        return given[0]
    raise UserError(
        f"--agent {path}: cannot tell which of {', '.join(given)} it is for; put it where its path says "
        f"so, such as ppo/CartPole-v1_1/CartPole-v1.zip, or give one --{flag}"
    )


def load_foreign(
    path: Path, spec: RunSpec, env: VecEnv, settings: dict[str, Any] | None, *, trust: bool
) -> BaseAlgorithm:
    """Load an SB3 zip: its weights into the network that it describes, or, with ``trust``, by SB3 itself.

    Args:
        path: the zip.
        spec: description of its algorithm and environment.
        env: the environment, which gets the statistics of its VecNormalize.
        settings: how its environment was made, by the files beside it; None if there are none.
        trust: whether pickles may be opened.

    Raises:
        UserError: the zip does not describe its network in plain text, weights or spaces do not fit, or
            statistics are missing or not trusted.
    """
    agent = read_agent(path)
    normalizer = unwrap_vec_normalize(env)
    if normalizer is not None and normalizer.norm_obs:
        statistics = zoo_folder(path, spec.env).statistics
        need_statistics(statistics, path, trust=trust)
        load_statistics(statistics, normalizer)
    elif agent.saw_normalized and settings is None:
        raise UserError(
            f"agent {path}: it saw normalized observations; put config.yml and vecnormalize.pkl into "
            f"{zoo_folder(path, spec.env).folder}, as the RL Zoo does"
        )
    if trust:
        return load_trusted(path, spec.algo, env)
    check_spaces(agent, env.observation_space, env.action_space, bounds=True)
    model = agent.make_model(algorithm(spec.algo).cls, env)
    load_state(model, path)
    return model
