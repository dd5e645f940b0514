"""Film a trained run."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from moviepy.video.io.ImageSequenceClip import ImageSequenceClip

from rn_rl.errors import UserError
from rn_rl.experiment.evaluation.config import VideoConfig
from rn_rl.experiment.evaluation.masking import masks
from rn_rl.experiment.runs.folder import find_run
from rn_rl.experiment.runs.io import whole


def video(config: VideoConfig) -> Path:
    """Play episodes and write what the environment renders.

    Raises:
        UserError: no such run, an environment without ``rgb_array`` rendering, or a suffix other than
            mp4 and gif.
    """
    run, weights = find_run(config.run)
    spec = run.read_spec()
    out = config.out or run.folder / "video.mp4"
    if out.suffix not in (".mp4", ".gif"):
        raise UserError(f"--out {out}: expected a name that ends in .mp4 or .gif")
    for name, value in (("episodes", config.episodes), ("max-steps", config.max_steps)):
        if value < 1:
            raise UserError(f"--{name} {value}: expected at least 1")
    os.environ.setdefault("SDL_VIDEODRIVER", "dummy")  # pygame draws into memory: no screen needed
    model, env = run.load_agent(weights=weights, n_envs=1, seed=config.seed)
    if env.render_mode != "rgb_array":
        raise UserError(f"environment {spec.env} cannot be filmed: it does not render rgb_array")
    stochastic = config.stochastic
    if stochastic is None:
        stochastic = not spec.deterministic_evaluation
    frames: list[np.ndarray] = []
    episodes = 0
    observation, state, starts = env.reset(), None, np.ones(1, dtype=bool)
    while episodes < config.episodes and len(frames) < config.max_steps:
        frame = env.render()
        if frame is None:
            raise UserError(f"environment {spec.env} cannot be filmed: it renders nothing")
        # libx264 needs even sides
        frames.append(frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2])
        action, state = model.predict(
            observation,  # type: ignore[arg-type]
            state,
            starts,
            deterministic=not stochastic,
            **masks(model, env),
        )
        observation, _, starts, _ = env.step(action)
        episodes += int(starts[0])
    fps = env.metadata.get("render_fps") or 30
    env.close()
    try:
        with whole(out) as temporary:
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
