"""Memory of a seed batch: what one seed takes, and how many seeds fit."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import psutil
import torch
from rich.console import Console
from sb3_contrib import TRPO
from sb3_contrib.common.recurrent.type_aliases import RNNStates
from stable_baselines3.common.vec_env import VecEnv

from rn_rl.errors import UserError
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.settings.algorithms import algorithm
from rn_rl.experiment.training.seed_batch import make_model_silently

FLOAT = 4
"""Bytes of a float32."""


def bytes_of_seed(spec: RunSpec, env: VecEnv) -> int:
    """Estimate the memory of one seed of a batch, in bytes.

    It is the sum of

    - the replay buffer, or a rollout and its shuffled copy,
    - six copies of the weights: weights, gradients, two moments, targets, temporaries,
    - three times the activations of a minibatch: forward, backward, observed by the normalizers; of TRPO
      six times those of what its policy learns from at once, whose gradient is differentiated again.

    Args:
        spec: description of the run.
        env: its environment.
    """
    model = make_model_silently(spec, env)
    model.policy.set_training_mode(False)  # batch renormalization cannot train on one observation
    row = int(np.prod(env.observation_space.shape)) * env.observation_space.dtype.itemsize  # type: ignore
    weights = sum(p.numel() for p in model.policy.parameters())
    stored = (
        model.buffer_size * (2 * row + 16)
        if algorithm(spec.algo).replay
        else model.n_steps * env.num_envs * 2 * (row + 24)
    )
    activations = count_activations(model.policy, env.observation_space.shape)  # type: ignore[arg-type]
    copies = 6
    passes = 3
    rows = (
        getattr(model, "batch_size", None) or model.n_steps * env.num_envs
    )  # A2C: a whole rollout
    if isinstance(model, TRPO):
        rows = model.n_steps * env.num_envs // model.sub_sampling_factor
        passes = 6
        copies = 14  # random numbers in float64 too
    return stored + copies * FLOAT * weights + passes * FLOAT * rows * activations


def count_activations(policy: Any, shape: tuple[int, ...]) -> int:
    """Count the outputs of all layers of a policy for one observation of ``shape``."""
    widths: list[int] = []

    def count(_: Any, __: Any, out: Any) -> None:
        widths.append((out[0] if isinstance(out, tuple) else out).numel())

    hooks = [
        module.register_forward_hook(count)
        for module in policy.modules()
        if not list(module.children())
    ]
    inputs: list[Any] = [torch.zeros(1, *shape, device=policy.device)]
    lstm = getattr(policy, "lstm_actor", None)
    if lstm is not None:
        state = (torch.zeros(lstm.num_layers, 1, lstm.hidden_size, device=policy.device),) * 2
        inputs += [RNNStates(state, state), torch.zeros(1, device=policy.device)]
    with torch.no_grad():
        policy(*inputs)
        critic = getattr(policy, "critic", None)
        if (
            critic is not None
        ):  # of SAC, TD3 and their relatives; the others have no module of that name
            actions = torch.zeros(1, *policy.action_space.shape, device=policy.device)
            critic(inputs[0], actions.flatten(1))
    for hook in hooks:
        hook.remove()
    return sum(widths)


def free_memory(device: str) -> int:
    """Return the free bytes of the machine, or of the GPU if it has fewer.

    A seed batch on a GPU keeps nearly all of its memory there.
    """
    here: int = psutil.virtual_memory().available
    return here if device == "cpu" else min(here, torch.cuda.mem_get_info(device)[0])


def largest_batch(
    specs: Sequence[RunSpec], env: VecEnv, console: Console, gigabytes: float | None = None
) -> int:
    """Return the number of seeds that fit into memory together, and print what they will take.

    Args:
        specs: description of every seed's run.
        env: environment of one of them.
        console: where the line is printed.
        gigabytes: memory for the batch in GB; default: half of what is free.

    Raises:
        UserError: not even one seed fits.
    """
    each = bytes_of_seed(specs[0], env)
    free = free_memory(specs[0].device)
    budget = free / 2 if gigabytes is None else gigabytes * 1e9
    size = int(budget // each)
    if size < 1:
        raise UserError(
            f"one seed takes about {each / 1e9:.2f} GB and there are {budget / 1e9:.2f} GB for it; set a "
            "smaller buffer_size, or give more (train: --memory, compare: fewer --jobs)"
        )
    size = min(size, len(specs))
    batches = -(-len(specs) // size)
    say(
        console,
        f"{len(specs)} seeds in {batches} batch{'es' * (batches > 1)} of up to {size}: about "
        f"{size * each / 1e9:.2f} GB of {free / 1e9:.1f} GB free",
    )
    return size
