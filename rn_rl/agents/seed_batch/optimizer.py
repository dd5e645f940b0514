"""One optimizer for the stacked weights of all seeds, and its state by seed."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from rn_rl.engine.ensemble import ModuleStack, to_rows

ELEMENTWISE = ("Adam", "AdamW", "RMSprop", "RMSpropTFLike", "SGD", "NAdam", "RAdam", "Adamax")
"""Optimizers that update each weight independently, so that stacked weights can be one parameter."""


class Part(NamedTuple):
    """Networks of all seeds that one optimizer updates."""

    stack: ModuleStack
    optimizer: Optimizer
    decay: Tensor | None = None
    """Weight decay of each column, where parameters differ in it, see :func:`decays`."""

    @torch.no_grad()
    def step(self) -> None:
        """Update the weights by their gradients."""
        weights = self.stack.weights
        group = self.optimizer.param_groups[0]
        if self.decay is not None and group.get("decoupled_weight_decay"):  # AdamW
            weights.mul_((1 - group["lr"] * self.decay).to(weights))
        elif self.decay is not None and weights.grad is not None:
            weights.grad = weights.grad + self.decay.to(weights) * weights
        self.optimizer.step()


def cannot(optimizer: Optimizer) -> str | None:
    """Return the reason why the updates of an optimizer cannot be stacked, or None."""
    name = type(optimizer).__name__
    if name not in ELEMENTWISE:
        return f"the optimizer {name} is not one of {', '.join(ELEMENTWISE)}"
    return None


def stacked_optimizer(weights: Tensor, template: Optimizer) -> Optimizer:
    """Make an optimizer of the template's class and options whose only parameter is ``weights``.

    Args:
        weights: weights of all seeds, ``(seeds, P)``.
        template: optimizer of one agent. Adam is made fused: one kernel for all weights. A decay of some
            parameters alone is left out, see :func:`decays`.
    """
    defaults = {**template.defaults, "lr": template.param_groups[0]["lr"]}
    if "weight_decay" in defaults:
        several = len(template.param_groups) > 1
        defaults["weight_decay"] = 0.0 if several else template.param_groups[0]["weight_decay"]
    taken = inspect.signature(type(template)).parameters  # AdamW has defaults that it does not take
    options = {name: value for name, value in defaults.items() if name in taken}
    special = options.get("capturable") or options.get("differentiable")
    if isinstance(template, torch.optim.Adam) and not special:
        options.update(fused=True, foreach=False)
    return type(template)([weights], **options)


def decays(network: nn.Module, optimizer: Optimizer) -> Tensor | None:
    """Return the weight decay of each column of stacked weights, ``(P,)``, where parameters differ in it.

    Args:
        network: network of one agent.
        optimizer: its optimizer. Before a step, AdamW multiplies the weights by ``1 - lr * decay``, and
            others add ``decay * weights`` to the gradients.
    """
    if len(optimizer.param_groups) == 1:
        return None
    of = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    like = [torch.full_like(p, of[id(p)], dtype=torch.float64) for p in network.parameters()]
    return to_rows([each.detach()[None] for each in like])[0]


def state_of(optimizer: Optimizer) -> dict[str, Tensor | int]:
    """Return the optimizer's state by name: ``(seeds, P)`` tensors, and scalars such as ``step``.

    ``step`` is a tensor in torch's optimizers, and an ``int`` in SB3's ``RMSpropTFLike``.
    """
    stored = optimizer.state_dict()["state"].get(0, {})
    return {name: value for name, value in stored.items() if value is not None}


def state_tensors(optimizer: Optimizer) -> dict[str, Tensor]:
    """Return the tensors of :func:`state_of`."""
    stored = state_of(optimizer).items()
    return {name: value for name, value in stored if isinstance(value, Tensor)}


def seed_state(
    optimizer: Optimizer, seed: int, length: int
) -> tuple[dict[str, np.ndarray], dict[str, float]]:
    """Return one seed's state: arrays of so many numbers under ``optimizer/<name>``, and scalars by name.

    A scalar that is a tensor becomes a ``float``; an ``int`` stays one.
    """
    arrays: dict[str, np.ndarray] = {}
    numbers: dict[str, float] = {}
    for name, value in state_of(optimizer).items():
        if not isinstance(value, Tensor):
            numbers[name] = value
        elif value.dim():
            arrays[f"optimizer/{name}"] = value[seed, :length].cpu().numpy()
        else:
            numbers[name] = float(value)
    return arrays, numbers


def restore(
    optimizer: Optimizer,
    arrays: Sequence[Mapping[str, np.ndarray]],
    numbers: Mapping[str, float],
    prefix: str = "",
) -> None:
    """Load the :func:`seed_state` of every seed; the scalars are the same for all seeds.

    Args:
        optimizer: optimizer of the stacked weights.
        arrays: arrays of each seed.
        numbers: scalars.
        prefix: beginning of the names in both, as of one of several optimizers.
    """
    state: dict[str, Any] = {
        name.removeprefix(f"{prefix}optimizer/"): to_rows(
            [torch.stack([torch.from_numpy(of_seed[name]) for of_seed in arrays])]
        )
        for name in arrays[0]
        if name.startswith(f"{prefix}optimizer/")
    }
    for name, value in numbers.items():
        if name.startswith(prefix):
            scalar = value if isinstance(value, int) else torch.tensor(value)
            state[name.removeprefix(prefix)] = scalar
    if state:
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": {0: state}, "param_groups": groups})


def load_into(optimizer: Optimizer, seed: int, single: Any, parameters: Sequence[Tensor]) -> None:
    """Copy one seed's state and the learning rate into the optimizer of a single agent.

    Args:
        optimizer: optimizer of the stacked weights.
        seed: number of the seed.
        single: optimizer of the agent.
        parameters: parameters of the agent in the order in which they are stacked.
    """
    stored = state_of(optimizer)
    if not stored:
        return
    held = [p for group in single.param_groups for p in group["params"]]
    numbers = {id(p): number for number, p in enumerate(held)}
    state: dict[int, dict[str, Any]] = {number: {} for number in range(len(held))}
    for name, value in stored.items():
        parts: Sequence[Tensor | int] = [value] * len(parameters)
        if isinstance(value, Tensor) and value.dim():
            sizes = [p.numel() for p in parameters]
            split = value[seed, : sum(sizes)].split(sizes)
            parts = [part.view_as(p) for part, p in zip(split, parameters, strict=True)]
        for part, parameter in zip(parts, parameters, strict=True):
            own = part.clone() if isinstance(part, Tensor) else part
            state[numbers[id(parameter)]][name] = own
    groups = single.state_dict()["param_groups"]
    for group in groups:
        group["lr"] = optimizer.param_groups[0]["lr"]
    single.load_state_dict({"state": state, "param_groups": groups})
