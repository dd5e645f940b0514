"""Record a video of a trained run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
from moviepy.video.io.ImageSequenceClip import ImageSequenceClip
from rich.console import Console

from rn_rl.errors import UserError
from rn_rl.experiment.evaluation.episodes import mask_arguments
from rn_rl.experiment.runs.folder import find_run
from rn_rl.experiment.runs.io import atomic_write
from rn_rl.experiment.settings.options import shown_as


@dataclass
class VideoConfig:
    """Record a video of a trained run: mp4 or gif."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder, or a zip inside one, such as RUN/best_model.zip."""
    out: Annotated[Path | None, shown_as("FILE")] = None
    """Video file, such as clip.mp4 or clip.gif; default: video.mp4 in the run folder."""
    episodes: int = 3
    """Number of episodes, one after the other."""
    stochastic: bool | None = None
    """Act stochastically; default: as evaluations during training do (MiniGrid yes, others no)."""
    max_steps: int = 2000
    """Maximum number of frames."""
    seed: Annotated[int | None, shown_as("SEED")] = None
    """Seed of the episodes; default: the run's plus 1000."""


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
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame renders without a screen
    model, env = run.load_agent(weights=weights, n_envs=1, seed=config.seed)
    if env.render_mode != "rgb_array":
        raise UserError(f"environment {spec.env} cannot be recorded: it does not render rgb_array")
    stochastic = config.stochastic
    if stochastic is None:
        stochastic = not spec.deterministic_evaluation
    frames: list[np.ndarray] = []
    episodes = 0
    observation, state, starts = env.reset(), None, np.ones(1, dtype=bool)
    while episodes < config.episodes and len(frames) < config.max_steps:
        frame = env.render()
        if frame is None:
            raise UserError(f"environment {spec.env} cannot be recorded: it renders nothing")
        # libx264 needs an even width and height
        frames.append(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
        action, state = model.predict(
            observation,  # type: ignore[arg-type]
            state,
            starts,
            deterministic=not stochastic,
            **mask_arguments(model, env),
        )
        observation, _, starts, _ = env.step(action)
        episodes += int(starts[0])
    fps = env.metadata.get("render_fps") or 30
    env.close()
    try:
        with atomic_write(out) as temporary:
            clip = ImageSequenceClip(frames, fps=fps)
            if out.suffix == ".gif":
                clip.write_gif(str(temporary), fps=min(fps, 30), logger=None)
            else:
                clip.write_videofile(
                    str(temporary), fps=fps, codec="libx264", audio=False, logger=None
                )
            clip.close()
    except OSError as error:
        raise UserError(f"--out {out}: cannot write there ({error.strerror or error})") from None
    return out


def run_video(config: VideoConfig) -> None:
    """Record a video and print its path."""
    Console().print(f"{video(config)}", soft_wrap=True, highlight=False)
