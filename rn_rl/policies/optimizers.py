"""Optimizers of the Norm policies: decay of matrices alone, and projections after each step."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from rn_rl.errors import UserError
from rn_rl.normalization import project_after_steps


def holders(policy: nn.Module) -> Iterator[Any]:
    """Iterate over the modules of a policy that have an optimizer: itself, or actor and critic."""
    for module in (policy, getattr(policy, "actor", None), getattr(policy, "critic", None)):
        if module is not None and "optimizer" in vars(module):
            yield module


MAGNITUDES = "parametrizations.weight.original0"
"""Name that torch's ``weight_norm`` gives the magnitudes of a layer, ``(rows, 1, ...)``."""


def matrices(module: nn.Module) -> set[int]:
    """Return the ids of the weights of linear and convolutional layers, LSTMs included.

    Biases, the parameters of normalizers and scalers, and the magnitudes of weight normalization, one for
    each row, are left out.
    """
    layers = (nn.Linear, nn.modules.conv._ConvNd, nn.RNNBase)
    return {
        id(parameter)
        for layer in module.modules()
        if isinstance(layer, layers)
        for name, parameter in layer.named_parameters()
        if parameter.dim() >= 2 and name != MAGNITUDES and is_own(name)
    }


def is_own(name: str) -> bool:
    """Return True for a parameter of a layer itself, also parametrized, not of a normalizer inside."""
    return "." not in name or name.startswith("parametrizations.")


def decay_nothing(policy: nn.Module) -> None:
    """Set the decay of the optimizers of a policy to 0, which AdamW's default is not."""
    for holder in holders(policy):
        for group in holder.optimizer.param_groups:
            if group.get("weight_decay"):
                group["weight_decay"] = 0.0


def decay_matrices(policy: Any, weight_decay: float) -> None:
    """Rebuild the optimizers of a policy so that they decay weights of layers and nothing else.

    The parameters become two groups, as ``torch.optim`` takes them; SB3 sets the learning rate of both.

    Source: Lyle et al., arXiv 2402.18762, 2024, who combine weight decay with layer normalization.
    """
    decayed = matrices(policy)
    for holder in holders(policy):
        old = holder.optimizer
        parameters = [p for group in old.param_groups for p in group["params"]]
        groups = [
            {"params": [p for p in parameters if id(p) in decayed], "weight_decay": weight_decay},
            {"params": [p for p in parameters if id(p) not in decayed], "weight_decay": 0.0},
        ]
        options = {k: v for k, v in policy.optimizer_kwargs.items() if k != "weight_decay"}
        holder.optimizer = type(old)(
            [group for group in groups if group["params"]],
            lr=old.param_groups[0]["lr"],
            **options,
        )


def rebuild(policy: Any) -> None:
    """Rebuild the optimizer of a policy with one optimizer for its present parameters."""
    rate = policy.optimizer.param_groups[0]["lr"]
    policy.optimizer = policy.optimizer_class(
        policy.parameters(), lr=rate, **policy.optimizer_kwargs
    )


def attach_projections(policy: nn.Module) -> None:
    """Let each optimizer of a policy keep the norms of the weights that have a fixed one."""
    for holder in holders(policy):
        project_after_steps(holder, holder.optimizer)


def check_weight_decay(weight_decay: Any) -> None:
    """Raise :class:`UserError` unless it is None or a number of at least 0."""
    number = isinstance(weight_decay, int | float) and not isinstance(weight_decay, bool)
    if weight_decay is not None and not (number and weight_decay >= 0):
        raise UserError(
            f"weight_decay={weight_decay!r}: expected a number of at least 0, such as 0.01"
        )


ADAMW: type[torch.optim.Optimizer] = torch.optim.AdamW
"""Optimizer of a policy with ``weight_decay``, unless another one is given."""
