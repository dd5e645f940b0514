"""Record a video of a trained run."""

from __future__ import annotations

import math
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from moviepy.video.io.ImageSequenceClip import ImageSequenceClip

from rn_rl.errors import UserError, first_line
from rn_rl.experiment.evaluation.config import VideoConfig
from rn_rl.experiment.evaluation.episodes import close_after_use, mask_arguments
from rn_rl.experiment.runs.folder import find_run
from rn_rl.experiment.runs.io import atomic_write


def video(config: VideoConfig) -> Path:
    """Play episodes and write the rendered frames.

    Returns:
        Path of the video.

    Raises:
        UserError: there is no such run, the environment does not render ``rgb_array``, or the file name
            does not end in .mp4 or .gif.
    """
    run, weights = find_run(config.run)
    spec = run.read_spec()
    out = config.out or run.folder / "video.mp4"
    if out.suffix not in (".mp4", ".gif"):
        raise UserError(f"--out {out}: expected a name that ends in .mp4 or .gif")
    for name, value in (("episodes", config.episodes), ("max-steps", config.max_steps)):
        if value < 1:
            raise UserError(f"--{name} {value}: expected at least 1")
    render_without_screen()
    model, env = run.load_agent(
        weights=weights,
        n_envs=1,
        seed=config.seed,
        trust=config.trust,
        step_timeout=spec.step_timeout if config.step_timeout is None else config.step_timeout,
    )
    if env.render_mode != "rgb_array":
        raise UserError(f"environment {spec.env} cannot be recorded: it does not render rgb_array")
    stochastic = config.stochastic
    if stochastic is None:
        stochastic = not spec.deterministic_evaluation
    frames: list[np.ndarray] = []
    episodes = 0
    observation, state, starts = env.reset(), None, np.ones(1, dtype=bool)
    while episodes < config.episodes and len(frames) < config.max_steps:
        try:
            rendered = env.get_images()[0]
        except Exception as error:
            reason = f"render() raised {type(error).__name__}: {first_line(error)}"
            raise UserError(f"environment {spec.env} cannot be recorded: {reason}") from error
        frames.append(rgb_frame(rendered, spec.env))
        action, state = model.predict(
            observation,  # type: ignore[arg-type]
            state,
            starts,
            deterministic=not stochastic,
            **mask_arguments(model, env),
        )
        observation, _, starts, _ = env.step(action)
        episodes += int(starts[0])
    fps: Any = env.unwrapped.metadata.get("render_fps")  # SB3's wrappers have no metadata of it
    if not isinstance(fps, int | float) or not 0 < fps < math.inf:
        fps = 30
    close_after_use(env)
    frames = equal_sizes(frames)
    try:
        with atomic_write(out) as temporary:
            clip = ImageSequenceClip(frames, fps=fps)
            if out.suffix == ".gif":
                clip.write_gif(str(temporary), fps=gif_rate(fps), logger=None)
            else:
                clip.write_videofile(
                    str(temporary), fps=fps, codec="libx264", audio=False, logger=None
                )
            clip.close()
    except OSError as error:
        raise UserError(f"--out {out}: cannot write there ({error.strerror or error})") from None
    return out


def gif_rate(fps: float) -> float:
    """Return the frames per second of a GIF, of which moviepy drops or repeats frames to keep the speed.

    A GIF stores the delay of a frame in whole hundredths of a second, here at least 3, since browsers
    show shorter ones slowly. Any other rate would play too fast.

    Args:
        fps: frames per second of the environment.
    """
    delay = max(round(100 / min(fps, 30)), 3)
    return 100 / delay - 1e-6  # moviepy rounds the delay down


def render_without_screen() -> None:
    """Choose drivers of pygame and MuJoCo that render into memory, unless the user chose others.

    MuJoCo reads its variable when it is imported. Without one it opens a window, which needs a screen.
    """
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")
    screen = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform == "linux" and not screen:
        os.environ.setdefault("MUJOCO_GL", "egl")


def rgb_frame(rendered: Any, env_id: str) -> np.ndarray:
    """Return a rendered image as an RGB frame, ``(height, width, 3)`` of bytes.

    Gray images get three equal channels, an alpha channel is left out, and of a list of images the last
    is taken.

    Raises:
        UserError: it is no image of bytes.
    """
    if isinstance(rendered, list | tuple) and rendered:
        rendered = rendered[-1]
    if rendered is None:
        raise UserError(f"environment {env_id} cannot be recorded: it renders nothing")
    frame = np.asarray(rendered)
    if frame.ndim == 2:
        frame = frame[:, :, None]
    image = frame.ndim == 3 and frame.shape[2] in (1, 3, 4) and frame.size > 0
    if image and frame.dtype.kind in "iu" and frame.min() >= 0 and frame.max() <= 255:
        frame = frame.astype(np.uint8)
    if not image or frame.dtype != np.uint8:
        raise UserError(
            f"environment {env_id} cannot be recorded: it renders {frame.dtype} of shape "
            f"{np.shape(rendered)}, expected uint8 of shape (height, width, 3)"
        )
    return np.repeat(frame, 3, 2) if frame.shape[2] == 1 else frame[:, :, :3]


def equal_sizes(frames: list[np.ndarray]) -> list[np.ndarray]:
    """Return frames of the largest height and width, smaller ones with black below and to the right.

    libx264 needs an even width and height: an odd row or column at the end is cut off.
    """
    height, width = (max(max(f.shape[axis] for f in frames) // 2 * 2, 2) for axis in (0, 1))
    equal = []
    for frame in frames:
        part = frame[:height, :width]
        if part.shape[:2] != (height, width):
            blank = np.zeros((height, width, 3), np.uint8)
            blank[: part.shape[0], : part.shape[1]] = part
            part = blank
        equal.append(part)
    return equal
