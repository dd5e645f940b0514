"""State of a training between two phases: put into a checkpoint, and restored from it exactly.

Networks, optimizers and other trained tensors (such as SAC's entropy coefficient) are found as SB3 finds
them when it saves an agent.

Random state is restored twice: before ``learn()``, and again when the first rollout begins
(:func:`restore_rollout`). For ``learn()`` resets action noise, and SB3 calls ``on_rollout_start`` only
after it has drawn the noise of state-dependent exploration. ARS calls it after drawing its candidates,
which it does not expose; its checkpoint holds the random state before that, so that the resumed run
draws the same candidates.
"""

from __future__ import annotations

import json
from collections import deque
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.buffers import DictReplayBuffer, NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv, unwrap_vec_normalize
from stable_baselines3.her.her_replay_buffer import HerReplayBuffer

from rn_rl.agents import NormalizerLogger, ProbeCallback
from rn_rl.agents.replay import AgeWeightedDictReplayBuffer, AgeWeightedReplayBuffer
from rn_rl.experiment.envs.checks import count_timesteps_from
from rn_rl.experiment.runs.arrays import (
    copy_rows,
    first_rows,
    put_array,
    put_trained,
    take_array,
    take_trained,
)
from rn_rl.experiment.runs.checkpoint import open_state, write_state
from rn_rl.experiment.runs.monitors import monitor_rows
from rn_rl.experiment.runs.rng_state import (
    exploration_noise,
    generator_states,
    set_exploration_noise,
    set_generator_states,
)
from rn_rl.experiment.runs.weights import load_vecnormalize_state, vecnormalize_state
from rn_rl.experiment.training.probe import put_probe, take_probe

AGENT_COUNTERS = (
    "num_timesteps",
    "_episode_num",
    "_n_calls",
    "_n_updates",
    "_current_progress_remaining",
    "_total_timesteps",
    "exploration_rate",
)
"""Numbers that an SB3 agent carries from one phase to the next."""

AGENT_ARRAYS = ("_last_obs", "_last_original_obs", "_last_episode_starts")
"""Arrays that an SB3 agent carries from one phase to the next."""

REPLAY_ARRAYS = ("observations", "next_observations", "actions", "rewards", "dones", "timeouts")
"""Arrays of a replay buffer, one row for each transition."""

EPISODE_ARRAYS = ("ep_start", "ep_length", "_current_ep_start")
"""Arrays by which a hindsight replay buffer finds the episode of a transition."""

EVALUATION_LISTS = ("timesteps", "results", "length", "successes")
"""Lists that SB3's evaluation callback collects."""


def save_training(
    folder: Path,
    model: BaseAlgorithm,
    evaluation: EvalCallback,
    log: NormalizerLogger,
    *,
    rollout_began: bool = False,
    random: dict[str, np.ndarray] | None = None,
    probe: ProbeCallback | None = None,
) -> None:
    """Write a checkpoint of a training that is between two phases.

    Args:
        folder: checkpoint folder of the run.
        model: the agent.
        evaluation: callback of the evaluations during training.
        log: callback that records gains.
        rollout_began: True if SB3 has drawn the noise of the next rollout already.
        random: states of the random generators, see :mod:`rn_rl.experiment.runs.rng_state`; default:
            their present states.
        probe: callback that probes the layers, if the run has one.
    """
    arrays: dict[str, Any] = {}
    optimizers = put_trained(arrays, model)
    for name in AGENT_ARRAYS:
        put_array(arrays, f"last/{name}", getattr(model, name, None))
    states = getattr(model, "_last_lstm_states", None)
    if states is not None:
        for i, tensor in enumerate((*states.pi, *states.vf)):
            arrays[f"lstm/{i}"] = tensor.cpu().numpy()
    memory = getattr(model, "replay_buffer", None)
    if memory is not None:
        # with optimize_memory_usage the next observation of the last transition is one row further
        rows = memory.size() + bool(memory.optimize_memory_usage)
        for name in REPLAY_ARRAYS:
            filled = getattr(memory, name, None)
            put_array(arrays, f"memory/{name}", first_rows(filled, rows))
        for name in EPISODE_ARRAYS:
            put_array(arrays, f"memory/{name}", getattr(memory, name, None))
    put_array(arrays, "random", random or generator_states(model))
    put_array(arrays, "exploration", exploration_noise(model))
    for name in EVALUATION_LISTS:
        arrays[f"evaluations/{name}"] = np.array(getattr(evaluation, f"evaluations_{name}"))
    arrays["history/timesteps"] = np.array([t for t, _ in log.history])
    arrays["history/gains"] = np.array([g for _, g in log.history])
    arrays["history/commit_kls"] = np.array(log.commit_kls)
    arrays["history/commit_actions"] = np.array(log.commit_actions)

    assert model.env is not None and model.ep_info_buffer is not None
    assert model.ep_success_buffer is not None
    normalizer = model.get_vec_normalize_env()
    plain = {
        "counters": {n: getattr(model, n) for n in AGENT_COUNTERS if hasattr(model, n)},
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
        "recent_commits": list(log.recent_commits),
        "logged": pending_scalars(model.logger),
        "monitor_rows": monitor_rows(folder.parent),
    }
    if probe is not None:
        plain["probe"] = put_probe(arrays, probe)
    write_state(folder, arrays, plain)


def restore_training(
    folder: Path,
    model: BaseAlgorithm,
    evaluation: EvalCallback,
    log: NormalizerLogger,
    probe: ProbeCallback | None = None,
) -> None:
    """Restore an untrained agent, its environments and its callbacks from a checkpoint, in place.

    Raises:
        UserError: there is no checkpoint, or it is damaged.
    """
    with open_state(folder) as arrays:
        plain = json.loads(str(arrays["plain"]))
        take_trained(arrays, model, plain["optimizers"])
        for name, value in plain["counters"].items():
            setattr(model, name, value)
        for name in AGENT_ARRAYS:
            value = take_array(arrays, f"last/{name}")
            if value is not None:
                setattr(model, name, value)
        if "lstm/0" in arrays.files:
            states = [torch.from_numpy(arrays[f"lstm/{i}"]).to(model.device) for i in range(4)]
            model._last_lstm_states = RNNStates((*states[:2],), (*states[2:],))  # type: ignore[attr-defined]
        if plain["memory"] is not None:
            memory: Any = model.replay_buffer  # type: ignore[attr-defined]
            for name in (*REPLAY_ARRAYS, *EPISODE_ARRAYS):
                copy_rows(getattr(memory, name, None), take_array(arrays, f"memory/{name}"))
            memory.pos, memory.full = plain["memory"]["pos"], plain["memory"]["full"]
        assert model.env is not None
        restore_environments(model.env, plain["environments"])
        count_timesteps_from(model.env, model.num_timesteps)
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
        for name in EVALUATION_LISTS:
            stored = arrays[f"evaluations/{name}"]
            setattr(evaluation, f"evaluations_{name}", stored.tolist())
        gains = arrays["history/gains"].tolist()
        steps = arrays["history/timesteps"].tolist()
        log.history = list(zip(steps, gains, strict=True))
        log.commit_kls = arrays["history/commit_kls"].tolist()
        log.commit_actions = arrays["history/commit_actions"].tolist()
        log.rollouts = plain["rollouts"]
        log.recent_commits.extend(plain.get("recent_commits", []))  # rn-rl 0.1.0 did not keep them
        for name, value, count, excluded in plain.get("logged", []):
            model.logger.name_to_value[name] = value
            model.logger.name_to_count[name] = count
            model.logger.name_to_excluded[name] = tuple(excluded)
        if probe is not None and plain.get("probe") is not None:
            take_probe(arrays, plain["probe"], probe)
        set_generator_states(model, take_array(arrays, "random"))


def restore_rollout(folder: Path, model: BaseAlgorithm) -> None:
    """Restore random state and exploration noise again when a resumed run begins its first rollout."""
    with open_state(folder) as arrays:
        set_exploration_noise(model, take_array(arrays, "exploration") or {})
        if json.loads(str(arrays["plain"]))["rollout_began"]:
            set_generator_states(model, take_array(arrays, "random"))


def is_saved_whole(memory: Any) -> bool:
    """Return True if a checkpoint holds all that a replay buffer keeps of past transitions."""
    known = (
        ReplayBuffer,
        DictReplayBuffer,
        NStepReplayBuffer,
        HerReplayBuffer,
        AgeWeightedReplayBuffer,
        AgeWeightedDictReplayBuffer,
    )
    return type(memory) in known and not getattr(memory, "copy_info_dict", False)


def pending_scalars(logger: Logger) -> list[tuple[str, float, int, tuple[str, ...]]]:
    """Return what was recorded since the last row of a logger was written: losses and learning rate.

    Returns:
        Name, value, number of values that it is the mean of, and outputs that leave it out.
    """
    return [
        (name, float(value), logger.name_to_count[name], logger.name_to_excluded.get(name, ()))
        for name, value in logger.name_to_value.items()
        if isinstance(value, (int, float, np.number))
    ]


def snapshots(env: VecEnv) -> list[dict[str, Any]]:
    """Return a snapshot of each environment, by :meth:`.ReplayableEnv.snapshot`."""
    inner = env.unwrapped
    assert isinstance(inner, DummyVecEnv)
    return [e.snapshot() for e in inner.envs]  # type: ignore[attr-defined]


def restore_environments(env: VecEnv, stored: list[dict[str, Any]]) -> None:
    """Restore each environment by replaying its episode; ``env`` must not be reset after that."""
    inner = env.unwrapped
    assert isinstance(inner, DummyVecEnv)
    for one, snapshot in zip(inner.envs, stored, strict=True):
        if one.restore(snapshot):  # type: ignore[attr-defined]
            inner._reset_seeds()  # else the next reset would start the first episode again
