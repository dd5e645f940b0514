"""Convert networks, optimizers and nested arrays to flat, named arrays of an npz, and back."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from sb3_contrib import ARS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.save_util import recursive_getattr


def put_array(arrays: dict[str, Any], name: str, value: Any) -> None:
    """Store an array, or each array of a dict, under ``name``; store nothing for None."""
    if isinstance(value, dict):
        for key, part in value.items():
            arrays[f"{name}:{key}"] = part
    elif value is not None:
        arrays[name] = np.asarray(value)


def take_array(arrays: Any, name: str) -> Any:
    """Return what :func:`put_array` stored under ``name``: an array, a dict of arrays, or None."""
    if name in arrays.files:
        return arrays[name]
    parts = {n.split(":", 1)[1]: arrays[n] for n in arrays.files if n.startswith(f"{name}:")}
    return parts or None


def first_rows(value: Any, rows: int) -> Any:
    """Return the first rows of an array, or of each array of a dict."""
    if isinstance(value, dict):
        return {key: first_rows(part, rows) for key, part in value.items()}
    return None if value is None else value[:rows]


def copy_rows(target: Any, value: Any) -> None:
    """Copy ``value`` over the first rows of an array, or of each array of a dict, in place."""
    if isinstance(target, dict):
        for key, part in target.items():
            copy_rows(part, value[key])
    elif target is not None and value is not None:
        target[: len(value)] = value


def trained_parts(model: BaseAlgorithm) -> tuple[dict[str, Any], dict[str, torch.Tensor]]:
    """Return the parts of an agent that SB3 saves: networks and optimizers, and tensors, by name."""
    with_state, tensors = model._get_torch_save_params()
    tensors = [*tensors, "weights"] if isinstance(model, ARS) else tensors
    return (
        {name: recursive_getattr(model, name) for name in with_state},
        {name: recursive_getattr(model, name) for name in tensors},
    )


def put_trained(arrays: dict[str, Any], model: BaseAlgorithm) -> dict[str, list[dict[str, Any]]]:
    """Store networks, optimizers and tensors in ``arrays``; return the optimizers' parameter groups."""
    groups = {}
    parts, tensors = trained_parts(model)
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
    """Restore what :func:`put_trained` stored, in place."""
    parts, tensors = trained_parts(model)
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
