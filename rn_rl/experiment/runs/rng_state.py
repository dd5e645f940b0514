"""Random state of a training: states of random generators, and exploration noise already drawn."""

from __future__ import annotations

import json
import random

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import StateDependentNoiseDistribution
from stable_baselines3.common.noise import OrnsteinUhlenbeckActionNoise, VectorizedActionNoise

SDE = ("exploration_mat", "exploration_matrices")
"""Attributes with the noise of state-dependent exploration (gSDE), drawn once for each rollout."""


def generator_states(model: BaseAlgorithm) -> dict[str, np.ndarray]:
    """Return the states of Python's, NumPy's, torch's and the action space's generators as arrays."""
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


def set_generator_states(model: BaseAlgorithm, arrays: dict[str, np.ndarray]) -> None:
    """Restore the generators to states that :func:`generator_states` returned."""
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


def exploration_noise(model: BaseAlgorithm) -> dict[str, np.ndarray]:
    """Return the exploration noise that an agent holds, from gSDE or Ornstein-Uhlenbeck processes."""
    arrays = {}
    noise = state_dependent_noise(model)
    if noise is not None:
        for name in SDE:
            arrays[name] = getattr(noise, name).detach().cpu().numpy()
    for i, process in enumerate(noise_processes(model)):
        arrays[f"process{i}"] = np.array(process.noise_prev)
    return arrays


def set_exploration_noise(model: BaseAlgorithm, arrays: dict[str, np.ndarray]) -> None:
    """Restore noise that :func:`exploration_noise` returned, in place."""
    noise = state_dependent_noise(model)
    if noise is not None:
        for name in SDE:
            setattr(noise, name, torch.from_numpy(arrays[name]).to(model.device))
    for i, process in enumerate(noise_processes(model)):
        process.noise_prev = arrays[f"process{i}"]


def state_dependent_noise(model: BaseAlgorithm) -> StateDependentNoiseDistribution | None:
    """Return the distribution that holds the noise of gSDE; None if the agent does not use it."""
    actor = getattr(model.policy, "actor", None) or model.policy
    distribution = getattr(actor, "action_dist", None)
    return distribution if isinstance(distribution, StateDependentNoiseDistribution) else None


def noise_processes(model: BaseAlgorithm) -> list[OrnsteinUhlenbeckActionNoise]:
    """Return the agent's Ornstein-Uhlenbeck processes, one for each environment."""
    noise = model.action_noise
    each = noise.noises if isinstance(noise, VectorizedActionNoise) else [noise]
    return [one for one in each if isinstance(one, OrnsteinUhlenbeckActionNoise)]
