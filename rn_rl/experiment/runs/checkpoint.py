"""Exact resume: the one place where everything random or carried over is gathered.

A checkpoint stands between two phases, when a rollout begins or after the last one. It is a single
``.npz`` of plain arrays and one JSON text, so it appears whole or not at all, and nothing in it is a
pickle. What is trained (networks, optimizers, SAC's entropy coefficient) is found as SB3 itself finds
it when it saves an agent.

SB3 calls back when a rollout begins after drawing the noise of state-dependent exploration, and resets
action noise in ``learn()``. So a resumed run gets its random state twice: before ``learn()``, and again
(:func:`restore_rollout`) when its first rollout begins. ARS calls back after drawing its candidates and
keeps them to itself; its checkpoint has the random state of before that, and the resumed run draws the
same ones.
"""

from __future__ import annotations

import json
import zipfile
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib import ARS
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.save_util import recursive_getattr
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize

from rn_rl.agents import NormalizerLogger
from rn_rl.errors import UserError
from rn_rl.experiment.runs.folder import load_vecnormalize_state, vecnormalize_state
from rn_rl.experiment.runs.io import write_npz
from rn_rl.experiment.runs.rng_state import (
    exploration,
    generators,
    set_exploration,
    set_generators,
)

COUNTERS = (
    "num_timesteps",
    "_episode_num",
    "_n_calls",
    "_n_updates",
    "_current_progress_remaining",
    "_total_timesteps",
    "exploration_rate",
)
"""Numbers that an SB3 agent carries from one phase to the next."""

LAST = ("_last_obs", "_last_original_obs", "_last_episode_starts")
"""Arrays that it carries."""

MEMORY = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
"""Arrays of a replay buffer."""

EVALUATIONS = ("timesteps", "results", "length", "successes")
"""What an evaluation callback has collected."""


def file(folder: Path) -> Path:
    """Where the checkpoint of a run is."""
    return folder / "state.npz"


def save(
    folder: Path,
    model: BaseAlgorithm,
    evaluation: EvalCallback,
    log: NormalizerLogger,
    *,
    rollout_began: bool = False,
    random: dict[str, np.ndarray] | None = None,
) -> None:
    """Write a checkpoint of a training.

    Args:
        folder: where.
        model: the agent, between two phases.
        evaluation: its evaluation callback.
        log: its logging callback.
        rollout_began: whether SB3 has drawn the noise of the next rollout already.
        random: states of generators, see :mod:`rn_rl.experiment.runs.rng_state`; default: now.
    """
    arrays: dict[str, Any] = {}
    optimizers = put_trained(arrays, model)
    for name in LAST:
        put(arrays, f"last/{name}", getattr(model, name, None))
    states = getattr(model, "_last_lstm_states", None)
    if states is not None:
        for i, tensor in enumerate((*states.pi, *states.vf)):
            arrays[f"lstm/{i}"] = tensor.cpu().numpy()
    memory = getattr(model, "replay_buffer", None)
    if memory is not None:
        for name in MEMORY:
            filled = getattr(memory, name, None)
            put(arrays, f"memory/{name}", head(filled, memory.size()))
    put(arrays, "random", random or generators(model))
    put(arrays, "exploration", exploration(model))
    for name in EVALUATIONS:
        arrays[f"evaluations/{name}"] = np.array(getattr(evaluation, f"evaluations_{name}"))
    arrays["history/timesteps"] = np.array([t for t, _ in log.history])
    arrays["history/gains"] = np.array([g for _, g in log.history])
    arrays["history/commit_kls"] = np.array(log.commit_kls)
    arrays["history/commit_actions"] = np.array(log.commit_actions)

    assert model.env is not None and model.ep_info_buffer is not None
    assert model.ep_success_buffer is not None
    normalizer = model.get_vec_normalize_env()
    plain = {
        "counters": {n: getattr(model, n) for n in COUNTERS if hasattr(model, n)},
        "optimizers": optimizers,
        "memory": None if memory is None else {"pos": memory.pos, "full": bool(memory.full)},
        "rollout_began": rollout_began,
        "environments": snapshots(model.env),
        "evaluation_environments": snapshots(evaluation.eval_env),
        "vecnormalize": None if normalizer is None else vecnormalize_state(normalizer),
        "episodes": [{k: float(v) for k, v in e.items()} for e in model.ep_info_buffer],
        "successes": [float(success) for success in model.ep_success_buffer],
        "evaluation_calls": evaluation.n_calls,
        "best_mean_reward": float(evaluation.best_mean_reward),
        "rollouts": log.rollouts,
        "monitor_rows": monitor_rows(folder.parent),
    }
    write(folder, arrays, plain)


def write(folder: Path, arrays: dict[str, Any], plain: dict[str, Any]) -> None:
    """Arrays and plain data as the checkpoint of a run."""
    write_npz(file(folder), **arrays, plain=np.array(json.dumps(plain)))


def prepare(folder: Path, arrays: dict[str, Any], plain: dict[str, Any]) -> None:
    """Write a checkpoint that :func:`adopt` makes the one of the run, or a resume does."""
    write_npz(coming(folder), **arrays, plain=np.array(json.dumps(plain)))


def coming(folder: Path) -> Path:
    """Where a checkpoint waits until those of all runs of a batch are written."""
    return folder / "next.npz"


def adopt(folders: Sequence[Path]) -> None:
    """Make the checkpoints that wait those of their runs, if every run has one or has adopted it.

    So a batch that was killed while its checkpoints were written stands at one timestep.
    """
    waiting = [folder for folder in folders if coming(folder).is_file()]
    newest = [steps_of(coming(folder)) for folder in waiting]
    others = [steps_of(file(folder)) for folder in folders if folder not in waiting]
    whole_batch = len({*newest, *others}) == 1
    for folder in waiting:
        if whole_batch:
            coming(folder).replace(file(folder))
        else:
            coming(folder).unlink()


def steps_of(path: Path) -> int:
    """Timesteps behind a checkpoint; -1 without one."""
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
            return int(json.loads(str(arrays["plain"]))["counters"]["num_timesteps"])
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return -1


def read_plain(folder: Path) -> dict[str, Any]:
    """The plain data of a checkpoint."""
    with read(folder) as arrays:
        return dict(json.loads(str(arrays["plain"])))


def restore(
    folder: Path, model: BaseAlgorithm, evaluation: EvalCallback, log: NormalizerLogger
) -> None:
    """Put a fresh agent, its environments and callbacks where a checkpoint stands.

    Raises:
        UserError: no checkpoint, a damaged one, or an environment that does not replay.
    """
    with read(folder) as arrays:
        plain = json.loads(str(arrays["plain"]))
        take_trained(arrays, model, plain["optimizers"])
        for name, value in plain["counters"].items():
            setattr(model, name, value)
        for name in LAST:
            value = take(arrays, f"last/{name}")
            if value is not None:
                setattr(model, name, value)
        if "lstm/0" in arrays.files:
            states = [torch.from_numpy(arrays[f"lstm/{i}"]).to(model.device) for i in range(4)]
            model._last_lstm_states = RNNStates((*states[:2],), (*states[2:],))  # type: ignore[attr-defined]
        if plain["memory"] is not None:
            memory: Any = model.replay_buffer  # type: ignore[attr-defined]
            for name in MEMORY:
                fill(getattr(memory, name, None), take(arrays, f"memory/{name}"))
            memory.pos, memory.full = plain["memory"]["pos"], plain["memory"]["full"]
        assert model.env is not None
        restore_environments(model.env, plain["environments"])
        restore_environments(evaluation.eval_env, plain["evaluation_environments"])
        normalizer = model.get_vec_normalize_env()
        if normalizer is not None:
            load_vecnormalize_state(plain["vecnormalize"], normalizer)
            held_out = unwrap_vec_normalize(evaluation.eval_env)
            assert held_out is not None
            load_vecnormalize_state(plain["vecnormalize"], held_out)
        model.ep_info_buffer = deque(plain["episodes"], maxlen=model._stats_window_size)
        model.ep_success_buffer = deque(plain["successes"], maxlen=model._stats_window_size)
        evaluation.n_calls = plain["evaluation_calls"]
        evaluation.best_mean_reward = plain["best_mean_reward"]
        for name in EVALUATIONS:
            stored = arrays[f"evaluations/{name}"]
            setattr(evaluation, f"evaluations_{name}", stored.tolist())
        gains = arrays["history/gains"].tolist()
        steps = arrays["history/timesteps"].tolist()
        log.history = list(zip(steps, gains, strict=True))
        log.commit_kls = arrays["history/commit_kls"].tolist()
        log.commit_actions = arrays["history/commit_actions"].tolist()
        log.rollouts = plain["rollouts"]
        set_generators(model, take(arrays, "random"))


def restore_rollout(folder: Path, model: BaseAlgorithm) -> None:
    """When the first rollout of a resumed run begins: undo what was drawn and reset on the way."""
    with read(folder) as arrays:
        set_exploration(model, take(arrays, "exploration") or {})
        if json.loads(str(arrays["plain"]))["rollout_began"]:
            set_generators(model, take(arrays, "random"))


def trained(model: BaseAlgorithm) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """What SB3 saves of an agent: networks and optimizers by name, and single tensors by name."""
    with_state, tensors = model._get_torch_save_params()
    tensors = [*tensors, "weights"] if isinstance(model, ARS) else tensors
    return (
        {name: recursive_getattr(model, name) for name in with_state},
        {name: recursive_getattr(model, name) for name in tensors},
    )


def put_trained(arrays: dict[str, Any], model: BaseAlgorithm) -> dict[str, list[dict[str, Any]]]:
    """Store networks, optimizers and tensors; returns the parameter groups of the optimizers."""
    groups = {}
    parts, tensors = trained(model)
    for part, holder in parts.items():
        state = holder.state_dict()
        if isinstance(holder, torch.optim.Optimizer):
            groups[part] = state["param_groups"]
            for index, entry in state["state"].items():
                for name, value in entry.items():
                    arrays[f"{part}/{index}/{name}"] = torch.as_tensor(value).cpu().numpy()
        else:
            for name, value in state.items():
                arrays[f"{part}/{name}"] = value.cpu().numpy()
    for name, tensor in tensors.items():
        arrays[f"tensor/{name}"] = tensor.detach().cpu().numpy()
    return groups


@torch.no_grad()
def take_trained(
    arrays: Any, model: BaseAlgorithm, groups: dict[str, list[dict[str, Any]]]
) -> None:
    """Inverse of :func:`put_trained`, in place."""
    parts, tensors = trained(model)
    for part, holder in parts.items():
        stored = {
            name.removeprefix(f"{part}/"): torch.from_numpy(arrays[name])
            for name in arrays.files
            if name.startswith(f"{part}/")
        }
        if isinstance(holder, torch.optim.Optimizer):
            moments: dict[int, dict[str, torch.Tensor]] = {}
            for name, value in stored.items():
                index, key = name.split("/")
                moments.setdefault(int(index), {})[key] = value
            holder.load_state_dict({"state": moments, "param_groups": groups[part]})
        else:
            holder.load_state_dict(stored)
    for name, tensor in tensors.items():
        tensor.copy_(torch.from_numpy(arrays[f"tensor/{name}"]))


@contextmanager
def read(folder: Path) -> Iterator[Any]:
    """The arrays of a checkpoint."""
    path = file(folder)
    if not path.is_file():
        raise UserError(
            f"run {folder.parent}: no checkpoint to continue from; start another run, with "
            f"--from {folder.parent} to begin with its weights"
        )
    with path.open("rb") as stream:  # np.load leaves a file open that it opened and cannot read
        try:
            arrays = np.load(stream, allow_pickle=False)
        except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is damaged ({' '.join(str(error).split())})") from None
        with arrays:
            yield arrays


def timesteps(folder: Path) -> int:
    """Timesteps that a checkpoint has behind it."""
    return int(read_plain(folder)["counters"]["num_timesteps"])


def has_episodes(folder: Path, episodes: int | None) -> bool:
    """Return True if the training ended so many episodes before the checkpoint; None: never."""
    if episodes is None:
        return False
    header = 2  # lines of SB3's monitor files
    rows = read_plain(folder)["monitor_rows"]
    return sum(max(count - header, 0) for count in rows.values()) >= episodes


def trim_monitor(folder: Path) -> None:
    """Drop what the monitor files hold beyond the checkpoint: the resumed run writes it again."""
    rows = read_plain(folder)["monitor_rows"]
    for name, count in rows.items():
        path = folder.parent / name
        lines = path.read_text().splitlines(keepends=True)
        path.write_text("".join(lines[:count]))


def monitor_rows(run_folder: Path) -> dict[str, int]:
    """Lines in each monitor file of a run."""
    return {
        path.name: len(path.read_text().splitlines())
        for path in sorted(run_folder.glob("*.monitor.csv"))
    }


def snapshots(env: VecEnv) -> list[dict[str, Any]]:
    """Of every environment; see :class:`rn_rl.experiment.envs.replayable.ReplayableEnv`."""
    inner = env.unwrapped
    assert isinstance(inner, DummyVecEnv)
    return [e.snapshot() for e in inner.envs]  # type: ignore[attr-defined]


def restore_environments(env: VecEnv, stored: list[dict[str, Any]]) -> None:
    """Replay every environment; a vector environment then must not be reset."""
    inner = env.unwrapped
    assert isinstance(inner, DummyVecEnv)
    for one, snapshot in zip(inner.envs, stored, strict=True):
        if one.restore(snapshot):  # type: ignore[attr-defined]
            inner._reset_seeds()  # or the next reset would start the first episode again


def put(arrays: dict[str, Any], name: str, value: Any) -> None:
    """Store an array, or a dict of them; None stores nothing."""
    if isinstance(value, dict):
        for key, part in value.items():
            arrays[f"{name}:{key}"] = part
    elif value is not None:
        arrays[name] = np.asarray(value)


def take(arrays: Any, name: str) -> Any:
    """Inverse of :func:`put`."""
    if name in arrays.files:
        return arrays[name]
    parts = {n.split(":", 1)[1]: arrays[n] for n in arrays.files if n.startswith(f"{name}:")}
    return parts or None


def head(value: Any, rows: int) -> Any:
    """The first rows of an array or a dict of arrays."""
    if isinstance(value, dict):
        return {key: head(part, rows) for key, part in value.items()}
    return None if value is None else value[:rows]


def fill(target: Any, value: Any) -> None:
    """Write rows into the beginning of an array or a dict of arrays, in place."""
    if isinstance(target, dict):
        for key, part in target.items():
            fill(part, value[key])
    elif target is not None and value is not None:
        target[: len(value)] = value
