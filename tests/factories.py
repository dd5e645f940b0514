"""Agents, environments and minibatches that several test files build."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3.common.buffers import ReplayBufferSamples
from stable_baselines3.common.vec_env import DummyVecEnv

from rn_rl.agents import VecSeedEnvs
from rn_rl.agents.seed_batch.minibatch import RolloutSamples, Transitions
from rn_rl.experiment.runs.folder import Run, new_run
from rn_rl.experiment.runs.io import write_npz, write_yaml
from rn_rl.experiment.runs.spec import RunSpec


def slow_unless(quick: Callable[..., bool], cases: Iterable[Any]) -> list[Any]:
    """Mark the cases of ``parametrize`` slow for which ``quick`` is False.

    For tests that send many normalizers along one path: ``make test`` takes one of each kind, and
    ``make test-all`` all of them.
    """
    rows = [case if isinstance(case, tuple) else (case,) for case in cases]
    return [pytest.param(*row, marks=[] if quick(*row) else [pytest.mark.slow]) for row in rows]


def to_double(policy: Any) -> None:
    """Compute in float64; SB3 makes observations float32."""
    policy.double()
    policy.features_extractor.register_forward_pre_hook(lambda _, given: (given[0].double(),))


def envs_of(models: list[Any], env_id: str = "CartPole-v1", num_envs: int = 1) -> VecSeedEnvs:
    made = []
    for model in models:
        env = DummyVecEnv([lambda: gym.make(env_id) for _ in range(num_envs)])
        env.seed(model.seed)
        made.append(env)
    return VecSeedEnvs(made)


def transitions(rng: np.random.Generator, shape: tuple[int, ...], size: int) -> Transitions:
    """Random minibatches of DQN with observations of this size, ``(*shape, ...)`` each."""
    return Transitions(
        torch.from_numpy(rng.normal(size=(*shape, size)).astype(np.float32)),
        torch.from_numpy(rng.normal(size=(*shape, size)).astype(np.float32)),
        torch.from_numpy(rng.integers(0, 2, (*shape, 1))),
        torch.from_numpy(3 * rng.normal(size=(*shape, 1)).astype(np.float32)),
        torch.from_numpy(rng.integers(0, 2, (*shape, 1)).astype(np.float32)),
    )


def replay_samples(drawn: Transitions, seed: int) -> ReplayBufferSamples:
    """Return one seed's transitions as SB3's replay buffer gives them."""
    one = Transitions(*(part[seed] for part in drawn))
    return ReplayBufferSamples(
        one.observations, one.actions, one.next_observations, one.dones, one.rewards
    )


def rollout_samples(rng: np.random.Generator, shape: tuple[int, ...]) -> RolloutSamples:
    """Random minibatches of PPO with two actions, without observations."""
    actions = torch.from_numpy(rng.integers(0, 2, shape))
    values, log_probs, advantages, returns = (
        torch.from_numpy(rng.normal(size=shape)) for _ in range(4)
    )
    return RolloutSamples(actions, values, -0.7 + 0.3 * log_probs, advantages, returns)


def networks_agree(batch: Any, models: list[Any], network: Any, atol: float) -> None:
    for i, model in enumerate(models):
        mine = batch.write_back(i)
        theirs = network(model).state_dict()
        for name, value in network(mine).state_dict().items():
            torch.testing.assert_close(value, theirs[name], rtol=0, atol=atol, msg=name)


def made_up_run(
    root: Path,
    norm: str,
    seed: int,
    returns: np.ndarray,
    *,
    env: str = "CartPole-v1",
    algo: str = "dqn",
    timesteps: int = 50_000,
    **settings: Any,
) -> Run:
    """Write a run folder with given evaluations and a rising gain; nothing is trained.

    Args:
        root: folder of the runs.
        norm: normalizer.
        seed: seed of the run.
        returns: returns of the evaluations, ``(evaluations, episodes)``.
        env: environment id.
        algo: algorithm.
        timesteps: length of the run.
        settings: other fields of its description, in place of the usual ones.
    """
    spec = RunSpec(
        algo=algo,
        env=env,
        norm=norm,
        seed=seed,
        timesteps=timesteps,
        n_envs=1,
        eval_freq=timesteps // len(returns),
        eval_episodes=returns.shape[1],
        device="cpu",
        threads=1,
        config="zoo",
        hyperparameters={"learning_rate": 1e-3, "policy_kwargs": {"net_arch": [64, 64]}},
        command="made up",
    )
    spec = replace(spec, **settings)
    run = new_run(root, spec)
    write_yaml(run.spec_file, vars(spec))
    steps = spec.eval_freq * np.arange(1, len(returns) + 1)
    lengths = np.full(returns.shape, 100)
    write_npz(run.evaluations_file, timesteps=steps, results=returns, ep_lengths=lengths)
    if norm != "none":
        phases = np.arange(0, timesteps, 64)
        gains = np.log(np.stack([phases + np.e, phases + np.e], 1))
        layers = np.array(["q_net.1", "q_net.4"])
        write_npz(run.code_length_file, layers=layers, timesteps=phases, gains=gains)
    rows = "".join(f"{x},100,{9.0 * i}\n" for i, x in enumerate(returns.mean(1)))
    (run.folder / "0.monitor.csv").write_text(f'#{{"t_start": 0}}\nr,l,t\n{rows}')
    return run
