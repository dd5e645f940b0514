"""Weights and VecNormalize statistics, saved and loaded without pickle unless the user trusts a file."""

from __future__ import annotations

import contextlib
import json
import pickle
import warnings
import zipfile
from collections.abc import Iterator
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
from rn_rl.experiment.runs.io import DAMAGE
from rn_rl.experiment.runs.match import check_network

VECNORMALIZE_MEMBER = "vecnormalize.json"
"""Member of our SB3 zips that holds the statistics of VecNormalize; SB3 ignores it."""


def save_policy(model: BaseAlgorithm, path: Path, normalizer: VecNormalize | None) -> None:
    """Write weights and normalizer state as safetensors; tensors that share memory are stored once.

    The metadata hold the number of timesteps trained and the statistics of VecNormalize, so that one
    file is all of the agent, and never a part of an older one.

    Args:
        model: the agent.
        path: the file.
        normalizer: VecNormalize of its environment, if there is one.
    """
    if isinstance(model, ARS):
        # ARS's parameters are views of one vector, which safetensors refuses
        for parameter in model.policy.parameters():
            parameter.data = parameter.data.clone()
    metadata = {"timesteps": str(model.num_timesteps)}
    if normalizer is not None:
        metadata["vecnormalize"] = json.dumps(vecnormalize_state(normalizer))
    with write_errors(path):
        path.touch()
        mode = path.stat().st_mode  # that of new files; safetensors lets nobody else read its own
        safetensors.torch.save_model(model.policy, str(path), metadata=metadata)
        path.chmod(mode)


@contextlib.contextmanager
def write_errors(path: Path) -> Iterator[None]:
    """Raise :class:`OSError` where torch or safetensors raise errors of their own, as on a full disk."""
    try:
        yield
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise OSError(None, f"cannot write: {first_line(error)}", str(path)) from error


def policy_metadata(path: Path) -> dict[str, str]:
    """Return the metadata of ``policy.safetensors``; empty for those of rn-rl 0.1.0 and damaged files."""
    try:
        with safetensors.safe_open(str(path), framework="pt") as stored:
            return dict(stored.metadata() or {})
    except (OSError, safetensors.SafetensorError):
        return {}


def saved_timesteps(path: Path) -> int | None:
    """Return the timesteps trained before a policy was saved; None if its file does not say.

    Args:
        path: ``policy.safetensors`` or an SB3 zip.
    """
    if path.suffix != ".zip":
        found = policy_metadata(path).get("timesteps", "")
        return int(found) if found.isdecimal() else None
    try:
        with zipfile.ZipFile(path) as archive:
            return int(json.loads(archive.read("data"))["num_timesteps"])
    except DAMAGE:
        return None


def save_zip(model: BaseAlgorithm, path: Path, normalizer: VecNormalize | None) -> None:
    """Write an SB3 zip that also holds the statistics of VecNormalize, in plain text."""
    with write_errors(path):
        model.save(path)
        add_vecnormalize(path, normalizer)


def add_vecnormalize(path: Path, normalizer: VecNormalize | None) -> None:
    """Add the statistics of VecNormalize to an SB3 zip, if there are some."""
    if normalizer is not None:
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(VECNORMALIZE_MEMBER, json.dumps(vecnormalize_state(normalizer)))


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
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        reason = reason if len(reason) < 240 else reason[:240] + "..."
        raise UserError(f"{path} does not fit this run's network: {reason}") from None
    except (*DAMAGE, pickle.UnpicklingError, safetensors.SafetensorError) as error:
        reason = first_line(error)
        raise UserError(
            f"{path} is damaged or not an agent ({reason[:200]}); train again, or give another file "
            "of the run"
        ) from None
    for name, parameter in model.policy.named_parameters():
        if not parameter.isfinite().all():
            raise UserError(
                f"{path}: weights of {name} are not finite, since the training diverged; train again "
                "with a lower learning_rate, or use best_model.zip of the run, from before"
            )
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


def stored_vecnormalize(weights: Path, beside: Path) -> dict[str, Any] | None:
    """Return the statistics of VecNormalize that belong to saved weights; None if there are none.

    Args:
        weights: ``policy.safetensors`` or an SB3 zip. Those that rn-rl 0.1.0 wrote hold no statistics.
        beside: ``vecnormalize.json`` of the run, which holds those of the last policy; read where the
            weights hold none.

    Raises:
        UserError: ``vecnormalize.json`` is damaged.
    """
    try:
        text: str | None = None
        if weights.suffix == ".zip":
            missing = contextlib.suppress(OSError, KeyError, zipfile.BadZipFile)
            with missing, zipfile.ZipFile(weights) as archive:
                text = archive.read(VECNORMALIZE_MEMBER).decode()
        else:
            text = policy_metadata(weights).get("vecnormalize")
        if text is None and beside.is_file():
            text = beside.read_text(encoding="utf-8")
            if weights.name == "best_model.zip":
                warnings.warn(
                    f"{weights} was saved by rn-rl 0.1.0 without statistics of observations; those of "
                    "the last policy are used",
                    stacklevel=2,
                )
        return None if text is None else dict(json.loads(text))
    except DAMAGE as error:
        raise UserError(
            f"{beside} is damaged ({first_line(error)}); train again, or put the file back"
        ) from None


def load_vecnormalize(weights: Path, beside: Path, env: VecEnv) -> None:
    """Load the statistics that belong to saved weights into VecNormalize, if ``env`` has it.

    For arguments see :func:`stored_vecnormalize`.

    Raises:
        UserError: the environment normalizes and there are no statistics, or they are damaged.
    """
    normalizer = unwrap_vec_normalize(env)
    if normalizer is None:
        return
    stored = stored_vecnormalize(weights, beside)
    if stored is None:
        raise UserError(
            f"{beside}: no such file; the agent was trained on normalized observations and needs their "
            "statistics: put the file back, or train again"
        )
    restore_statistics(stored, beside, normalizer)


def restore_statistics(stored: dict[str, Any], beside: Path, normalizer: VecNormalize) -> None:
    """Restore statistics from a file, or raise :class:`UserError` if they are of another shape."""
    try:
        load_vecnormalize_state(stored, normalizer)
    except DAMAGE as error:
        raise UserError(
            f"{beside} is damaged ({type(error).__name__}: {first_line(error)}); train again, or put "
            "the file back"
        ) from None


def adopt_vecnormalize(weights: Path, beside: Path, model: BaseAlgorithm) -> None:
    """Begin a training with the statistics that belong to the weights it begins with.

    For arguments see :func:`stored_vecnormalize`; ``model`` has the weights already.

    Raises:
        UserError: one of the two agents normalizes observations and the other does not, or the
            statistics are damaged.
    """
    normalizer = model.get_vec_normalize_env()
    stored = stored_vecnormalize(weights, beside)
    normalized = stored is not None and stored.get("obs") is not None
    if normalized != (normalizer is not None and normalizer.norm_obs):
        was, now, value = ("", "not ", "true") if normalized else ("not ", "", "false")
        raise UserError(
            f"--from {weights}: it was {was}trained on normalized observations, and this training "
            f"does {now}normalize them; add --set normalize={value}"
        )
    if stored is not None and normalizer is not None:
        restore_statistics(stored, beside, normalizer)


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
