"""Options of ``rn-rl evaluate``, ``video``, ``export`` and ``probe``: documented dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar

import tyro

from rn_rl.experiment.settings.options import shown_as


@dataclass
class EvaluatedRun:
    """Options of ``rn-rl evaluate`` that ``--help`` prints first."""

    help_section: ClassVar[str] = "evaluation"

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder, or a zip inside one, such as RUN/best_model.zip."""
    episodes: int = 100
    """Number of episodes."""
    stochastic: bool = False
    """Sample actions (PPO, SAC, ...) or explore at the final rate (DQN) instead of acting greedily."""
    json: bool = False
    """Print one JSON object instead of a table."""
    seed: Annotated[int | None, shown_as("SEED")] = None
    """Seed of the episodes; default: the run's plus 1000."""


@dataclass
class EvaluationEnvironments:
    """Environments of ``rn-rl evaluate``."""

    help_section: ClassVar[str] = "environments"

    env_kwargs: Annotated[tuple[str, ...], shown_as("NAME=VALUE ...")] = ()
    """Arguments of the environment in place of the run's, such as max_episode_steps=1000."""
    trust: bool = False
    """Use modules and wrappers that the run names, though it was not trained on this account."""
    n_envs: int = 8
    """Number of environments that are stepped together."""
    max_episode_steps: Annotated[int | None, shown_as("N")] = None
    """Truncate an episode at N steps; default: 108,000, with a warning."""
    step_timeout: Annotated[float | None, shown_as("SECONDS")] = None
    """Stop if a step of the environments takes longer than SECONDS; default: as in the training."""


@dataclass
class EvaluateConfig(EvaluationEnvironments, EvaluatedRun):
    """Evaluate a trained run over many episodes."""


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
    step_timeout: Annotated[float | None, shown_as("SECONDS")] = None
    """Stop if a step of the environment takes longer than SECONDS; default: as in the training."""
    seed: Annotated[int | None, shown_as("SEED")] = None
    """Seed of the episodes; default: the run's plus 1000."""
    trust: bool = False
    """Use modules and wrappers that the run names, though it was not trained on this account."""


@dataclass
class ExportConfig:
    """Write a trained run as a folder to share: weights, settings, results and a model card."""

    run: Annotated[tyro.conf.Positional[Path], tyro.conf.arg(metavar="RUN")]
    """Run folder, or a zip inside one, such as RUN/best_model.zip."""
    to: Annotated[Path, shown_as("FOLDER")]
    """Folder to write, in the layout of the Hugging Face Hub. Nothing is uploaded."""
    episodes: int = 100
    """Number of episodes for the results of the card."""
    trust: bool = False
    """Use modules and wrappers that the run names, though it was not trained on this account."""


@dataclass
class ProbeConfig:
    """Show what the layers of runs did while they learned: code lengths, stages, and more, as a page.

    Runs are recorded by train --probe. Of a run without, the gains of its normalizers are printed.
    """

    runs: Annotated[tyro.conf.Positional[tuple[Path, ...]], tyro.conf.arg(metavar="RUN ...")]
    """Run folders, folders that hold runs, or npz files of rn_rl.probe.ProbeLog."""
    out: Path = Path("probe.html")
    """HTML page; a CSV file of all figures goes beside it."""
    figures: str = ""
    """Also write each plot for a paper, one and two columns wide: pdf,svg,png or some of them."""
    watch: bool = False
    """Draw the curves of one run in the terminal while it is trained, until it ends or Ctrl-C."""
    json: bool = False
    """Print one JSON object for each layer, with at most 100 evenly spaced points of the record."""
