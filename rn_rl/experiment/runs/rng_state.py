"""Everything random in a training: generators of random numbers, and noise already drawn."""

from __future__ import annotations

import json
import random

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise, VectorizedActionNoise

SDE = ("exploration_mat", "exploration_matrices")
"""Noise of state-dependent exploration, drawn when a rollout begins and used all through it."""


def generators(model: BaseAlgorithm) -> dict[str, np.ndarray]:
    """States of all generators, of Python, NumPy, torch, and the action space; as arrays."""
    kind, keys, *rest = np.random.get_state()
    plain = {
        "python": random.getstate(),
        "numpy": [kind, *rest],
        "actions": model.action_space.np_random.bit_generator.state,
    }
    arrays = {"numpy": np.asarray(keys), "torch": torch.get_rng_state().numpy()}
    if torch.cuda.is_available():
        for i, state in enumerate(torch.cuda.get_rng_state_all()):
            arrays[f"cuda{i}"] = state.numpy()
    return {**arrays, "plain": np.array(json.dumps(plain))}


def set_generators(model: BaseAlgorithm, arrays: dict[str, np.ndarray]) -> None:
    """Inverse of :func:`generators`."""
    plain = json.loads(str(arrays["plain"]))
    version, internal, gauss = plain["python"]
    random.setstate((version, tuple(internal), gauss))
    kind, *rest = plain["numpy"]
    np.random.set_state((kind, arrays["numpy"], *rest))
    model.action_space.np_random.bit_generator.state = plain["actions"]
    for name, state in arrays.items():
        if name.startswith("cuda"):
            torch.cuda.set_rng_state(torch.from_numpy(state), int(name.removeprefix("cuda")))
    torch.set_rng_state(torch.from_numpy(arrays["torch"]))


def exploration(model: BaseAlgorithm) -> dict[str, np.ndarray]:
    """Exploration noise that an agent carries: of state-dependent exploration, Ornstein-Uhlenbeck's."""
    arrays = {}
    noise = state_dependent_noise(model)
    if noise is not None:
        for name in SDE:
            arrays[name] = getattr(noise, name).detach().cpu().numpy()
    for i, process in enumerate(noise_processes(model)):
        arrays[f"process{i}"] = np.array(process.noise_prev)
    return arrays


def set_exploration(model: BaseAlgorithm, arrays: dict[str, np.ndarray]) -> None:
    """Inverse of :func:`exploration`."""
    noise = state_dependent_noise(model)
    if noise is not None:
        for name in SDE:
            setattr(noise, name, torch.from_numpy(arrays[name]).to(model.device))
    for i, process in enumerate(noise_processes(model)):
        process.noise_prev = arrays[f"process{i}"]


def state_dependent_noise(model: BaseAlgorithm) -> StateDependentNoiseDistribution | None:
    """The distribution that holds the noise of state-dependent exploration, if it is used."""
    actor = getattr(model.policy, "actor", None) or model.policy
    distribution = getattr(actor, "action_dist", None)
    return distribution if isinstance(distribution, StateDependentNoiseDistribution) else None


def noise_processes(model: BaseAlgorithm) -> list[OrnsteinUhlenbeckActionNoise]:
    """Action noise with a memory, one an environment."""
    noise = model.action_noise
    each = noise.noises if isinstance(noise, VectorizedActionNoise) else [noise]
    return [one for one in each if isinstance(one, OrnsteinUhlenbeckActionNoise)]
