"""Which names in a ``run.yaml`` may be used: those that cannot run code or write files elsewhere.

A run folder may come from a stranger. Its environment may be ``module:Name-v0``, which imports a module,
and its wrappers may write files. So names from a file are checked against lists, unless the run was
trained on this account: ``train`` signs what it writes with a key in the user's configuration folder
(HMAC-SHA256), which a stranger does not have. A copied run keeps its signature.
"""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import secrets
from pathlib import Path
from typing import Any

import platformdirs

from rn_rl.errors import UserError
from rn_rl.experiment.runs.io import atomic_write
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.normalization import imported_names
from rn_rl.normalization.plugins import known_names
from rn_rl.policies.spec_arguments import normalizer_specs

WRAPPERS: dict[str, tuple[str, ...]] = {
    "gymnasium.wrappers.AtariPreprocessing": (
        *("noop_max", "frame_skip", "screen_size", "terminal_on_life_loss", "grayscale_obs"),
        *("grayscale_newaxis", "scale_obs"),
    ),
    "gymnasium.wrappers.ClipAction": (),
    "gymnasium.wrappers.ClipReward": ("min_reward", "max_reward"),
    "gymnasium.wrappers.DelayObservation": ("delay",),
    "gymnasium.wrappers.FilterObservation": ("filter_keys",),
    "gymnasium.wrappers.FlattenObservation": (),
    "gymnasium.wrappers.FrameStackObservation": ("stack_size", "padding_type"),
    "gymnasium.wrappers.GrayscaleObservation": ("keep_dim",),
    "gymnasium.wrappers.MaxAndSkipObservation": ("skip",),
    "gymnasium.wrappers.RepeatAction": ("num_repeats",),
    "gymnasium.wrappers.RescaleAction": ("min_action", "max_action"),
    "gymnasium.wrappers.RescaleObservation": ("min_obs", "max_obs"),
    "gymnasium.wrappers.ReshapeObservation": ("shape",),
    "gymnasium.wrappers.ResizeObservation": ("shape",),
    "gymnasium.wrappers.StickyAction": ("repeat_action_probability", "repeat_action_duration"),
    "gymnasium.wrappers.TimeAwareObservation": ("flatten", "normalize_time", "dict_time_key"),
    "gymnasium.wrappers.TimeLimit": ("max_episode_steps",),
    "minigrid.wrappers.ActionBonus": (),
    "minigrid.wrappers.DirectionObsWrapper": ("type",),
    "minigrid.wrappers.FlatObsWrapper": ("maxStrLen",),
    "minigrid.wrappers.FullyObsWrapper": (),
    "minigrid.wrappers.ImgObsWrapper": (),
    "minigrid.wrappers.OneHotPartialObsWrapper": ("tile_size",),
    "minigrid.wrappers.PositionBonus": (),
    "minigrid.wrappers.RGBImgObsWrapper": ("tile_size",),
    "minigrid.wrappers.RGBImgPartialObsWrapper": ("tile_size",),
    "minigrid.wrappers.ReseedWrapper": ("seeds", "seed_idx"),
    "minigrid.wrappers.SymbolicObsWrapper": (),
    "minigrid.wrappers.ViewSizeWrapper": ("agent_view_size",),
    "stable_baselines3.common.atari_wrappers.AtariWrapper": (
        *("noop_max", "frame_skip", "screen_size", "terminal_on_life_loss", "clip_reward"),
        "action_repeat_probability",
    ),
    "stable_baselines3.common.atari_wrappers.ClipRewardEnv": (),
    "stable_baselines3.common.atari_wrappers.EpisodicLifeEnv": (),
    "stable_baselines3.common.atari_wrappers.FireResetEnv": (),
    "stable_baselines3.common.atari_wrappers.MaxAndSkipEnv": ("skip",),
    "stable_baselines3.common.atari_wrappers.NoopResetEnv": ("noop_max",),
    "stable_baselines3.common.atari_wrappers.StickyActionEnv": ("action_repeat_probability",),
    "stable_baselines3.common.atari_wrappers.WarpFrame": ("width", "height"),
    "sb3_contrib.common.wrappers.TimeFeatureWrapper": ("max_steps", "test_mode"),
    "sb3_contrib.common.wrappers.time_feature.TimeFeatureWrapper": ("max_steps", "test_mode"),
}
"""Wrappers that a file may name, and the arguments that it may give them. None writes a file."""

CLASSES = ("stable_baselines3.", "sb3_contrib.", "rn_rl.policies.", "rn_rl.agents.")
"""Packages of the policies and replay buffers that a file may name."""


def key_file() -> Path:
    """Return the path of this account's key."""
    return Path(platformdirs.user_config_path("rn-rl")) / "key"


def account_key() -> bytes | None:
    """Return the key of this account, which is made at the first use; None where none can be stored."""
    path = key_file()
    try:
        if not path.is_file():
            with (
                atomic_write(path) as temporary,
                open(
                    temporary, "w", opener=lambda name, flags: os.open(name, flags, 0o600)
                ) as stream,
            ):
                stream.write(secrets.token_hex(32))
        key = bytes.fromhex(path.read_text().strip())
        return key if len(key) == 32 else None
    except (OSError, ValueError):
        return None


def signature(spec: RunSpec) -> str:
    """Return the signature of what a run's description names; empty where there is no key.

    Timesteps, threads and the like are not signed, since ``--resume`` changes them.
    """
    key = account_key()
    if key is None:
        return ""
    names: list[Any] = [spec.algo, spec.env, spec.norm, spec.hyperparameters]
    if spec.normalizers:  # earlier versions had none
        names.append(spec.normalizers)
    named = json.dumps(names, default=str, sort_keys=True)
    return hmac.new(key, named.encode(), hashlib.sha256).hexdigest()


def check_names(spec: RunSpec, folder: Path, *, trust: bool) -> None:
    """Raise :class:`UserError` if a run names what may run code or write files elsewhere.

    Args:
        spec: what its ``run.yaml`` says.
        folder: the run folder.
        trust: the user trusts this run.
    """
    if trust or (spec.signature and hmac.compare_digest(spec.signature, signature(spec))):
        return
    for what, why in unsafe_names(spec):
        raise UserError(
            f"run {folder}: {what} {why}, and this run was not trained on this account; if you trust "
            "where it comes from, add --trust"
        )


def unsafe_names(spec: RunSpec) -> list[tuple[str, str]]:
    """Return what a run names that may run code or write files, and why."""
    found = []
    if ":" in spec.algo:
        found.append((f"its algorithm {spec.algo!r}", "imports a module"))
    if ":" in spec.env:
        found.append((f"its environment {spec.env!r}", "imports a module"))
    given = spec.hyperparameters
    specs = [spec.norm, *normalizer_specs(given)]
    for name in {n: None for text in specs for n in imported_names(text)}:
        found.append((f"its normalizer {name!r}", "imports a module"))
    for name, origin in spec.normalizers.items():
        if name not in known_names():
            found.append((f"its normalizer {name!r} of {origin}", "imports a module"))
    wrappers = given.get("env_wrapper") or []
    for entry in wrappers if isinstance(wrappers, list) else [wrappers]:
        found += unsafe_wrapper(entry)
    for name in ("policy", "replay_buffer_class"):
        value = given.get(name)
        if isinstance(value, str) and "." in value and not value.startswith(CLASSES):
            found.append((f"its {name} {value!r}", "is not one of SB3's"))
    return found


def unsafe_wrapper(entry: Any) -> list[tuple[str, str]]:
    """Return the parts of one entry of ``env_wrapper`` that are not in :data:`WRAPPERS`, and why."""
    name: Any = entry
    arguments: Any = {}
    if isinstance(entry, dict) and len(entry) == 1:
        name, arguments = next(iter(entry.items()))
    if isinstance(name, str) and ":" in name:
        return [(f"its wrapper {name!r}", "imports a module")]
    if not isinstance(name, str) or name not in WRAPPERS:
        return [(f"its wrapper {name!r}", "is not on the list of those that write no files")]
    if not isinstance(arguments or {}, dict):
        return [(f"its wrapper {name} with {arguments!r}", "has no named arguments")]
    return [
        (f"its wrapper {name} with {argument}={value!r}", "is not on the list")
        for argument, value in (arguments or {}).items()
        if argument not in WRAPPERS[name]
    ]


def plain_name(name: Any) -> bool:
    """Return True for the name of a file or folder, without a path."""
    return isinstance(name, str) and Path(name).name == name and name not in ("", ".", "..")


def refuse_links(folder: Path) -> None:
    """Raise :class:`UserError` if a run folder is or holds a symbolic link, which leads elsewhere.

    Training would write through it.
    """
    links = [folder] if folder.is_symlink() else []
    with contextlib.suppress(OSError):
        links += [path for path in folder.rglob("*") if path.is_symlink()]
    for path in links:
        raise UserError(
            f"run {folder}: {path} is a symbolic link; training writes only into the run folder: "
            "replace the link by what it leads to"
        )
