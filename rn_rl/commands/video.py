"""``rn-rl video``: film a trained run."""

from __future__ import annotations

from rich.console import Console

from rn_rl.experiment.evaluation.config import VideoConfig
from rn_rl.experiment.evaluation.video import video


def run_video(config: VideoConfig) -> None:
    """Film and say where the film is."""
    Console().print(f"{video(config)}", soft_wrap=True, highlight=False)
