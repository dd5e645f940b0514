"""Weights and VecNormalize statistics, saved and loaded without pickle unless the user trusts a file."""

from __future__ import annotations

import json
import pickle
import warnings
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from sb3_contrib import ARS
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from rn_rl.errors import UserError, first_line
from rn_rl.experiment.runs.match import check_network


def save_policy(model: BaseAlgorithm, path: Path) -> None:
    """Write weights and normalizer state as safetensors; tensors that share memory are stored once."""
    if isinstance(model, ARS):
        # ARS's parameters are views of one vector, which safetensors refuses
        for parameter in model.policy.parameters():
            parameter.data = parameter.data.clone()
    safetensors.torch.save_model(model.policy, str(path))


def load_policy(model: BaseAlgorithm, path: Path) -> None:
    """Load weights and normalizer state from ``policy.safetensors`` or an SB3 zip, without unpickling.

    The network that a zip describes must be that of the model, also in what the shapes of its weights
    do not show.

    Raises:
        UserError: the file does not exist, is damaged, or holds another architecture.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file; the run has not saved a policy yet")
    if path.suffix == ".zip":
        check_network(path, model)
    load_state(model, path)


def load_state(model: BaseAlgorithm, path: Path) -> None:
    """Load weights and normalizer state as :func:`load_policy`, into a network known to be the same."""
    try:
        if path.suffix == ".zip":
            with (
                zipfile.ZipFile(path) as archive,
                archive.open("policy.pth") as stored,
                warnings.catch_warnings(),
            ):
                warnings.simplefilter("ignore")  # about unusual pickles, which are refused below
                state = torch.load(stored, map_location=model.device, weights_only=True)
            model.policy.load_state_dict(with_aliases(state, model))
        else:
            safetensors.torch.load_model(model.policy, str(path))
    except (
        zipfile.BadZipFile,
        KeyError,
        EOFError,
        OSError,
        pickle.UnpicklingError,
        safetensors.SafetensorError,
    ) as error:
        reason = first_line(error)
        raise UserError(
            f"{path} is damaged or not an agent ({reason[:200]}); train again, or give another file "
            "of the run"
        ) from None
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        reason = reason if len(reason) < 240 else reason[:240] + "..."
        raise UserError(f"{path} does not fit this run's network: {reason}") from None
    adopt_policy(model)


def with_aliases(state: dict[str, Any], model: BaseAlgorithm) -> dict[str, Any]:
    """Add the names that SB3 before 1.7 did not store: the shared extractor's as actor's and critic's."""
    if not getattr(model.policy, "share_features_extractor", False):
        return state
    shared = {key: value for key, value in state.items() if key.startswith("features_extractor.")}
    known = model.policy.state_dict()
    added = {f"{part}_{key}": value for part in ("pi", "vf") for key, value in shared.items()}
    return {**{key: value for key, value in added.items() if key in known}, **state}


def adopt_policy(model: BaseAlgorithm) -> None:
    """Continue training from the weights now in the policy.

    Only ARS needs it: it searches from a vector of its own, a copy of the policy's parameters.
    """
    if isinstance(model, ARS):
        model.weights = torch.nn.utils.parameters_to_vector(model.policy.parameters()).detach()  # type: ignore[assignment]


def vecnormalize_state(normalizer: VecNormalize) -> dict[str, Any]:
    """Return the statistics of VecNormalize as plain data, exactly."""

    def plain(rms: RunningMeanStd) -> dict[str, Any]:
        return {
            "mean": np.asarray(rms.mean).tolist(),
            "var": np.asarray(rms.var).tolist(),
            "count": float(rms.count),
        }

    obs: Any = getattr(normalizer, "obs_rms", None)
    return {
        "obs": {k: plain(v) for k, v in obs.items()}
        if isinstance(obs, dict)
        else (plain(obs) if obs is not None else None),
        "obs_is_dict": isinstance(obs, dict),
        "ret": plain(normalizer.ret_rms),
        "returns": normalizer.returns.tolist(),
    }


def load_vecnormalize(path: Path, env: VecEnv) -> None:
    """Load ``vecnormalize.json`` into the VecNormalize of an environment, if it has one.

    Raises:
        UserError: the environment normalizes and there is no such file.
    """
    normalizer = unwrap_vec_normalize(env)
    if normalizer is None:
        return
    if not path.is_file():
        raise UserError(
            f"{path}: no such file; the agent was trained on normalized observations and needs their "
            "statistics: put the file back, or train again"
        )
    load_vecnormalize_state(json.loads(path.read_text(encoding="utf-8")), normalizer)


def load_vecnormalize_state(stored: dict[str, Any], normalizer: VecNormalize) -> None:
    """Restore statistics that :func:`vecnormalize_state` returned, in place."""

    def restore(rms: RunningMeanStd, data: dict[str, Any]) -> None:
        rms.mean = np.array(data["mean"])
        rms.var = np.array(data["var"])
        rms.count = data["count"]

    obs: Any = getattr(normalizer, "obs_rms", None)
    if stored["obs_is_dict"]:
        for key, data in stored["obs"].items():
            restore(obs[key], data)
    elif stored["obs"] is not None:
        restore(obs, stored["obs"])
    restore(normalizer.ret_rms, stored["ret"])
    if len(stored["returns"]) == normalizer.num_envs:
        normalizer.returns = np.array(stored["returns"])
