"""What a user can say about a grid of trainings: a documented dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rn_rl.experiment.settings.options import shown_as


@dataclass
class CompareConfig:
    """Train normalizers, algorithms, environments and seeds, as far as not done yet, and report."""

    algo: Annotated[str | None, shown_as("NAME[,NAME]")] = None
    """One or more algorithms, as of 'rn-rl train', separated by commas."""
    env: Annotated[str | None, shown_as("ENV[,ENV]")] = None
    """One or more environments, separated by commas."""
    norms: str = "none,ln,rn,ln+rn"
    """Normalizers, separated by commas."""
    seeds: int = 10
    """How many seeds of each: SEED, SEED + 1, ... More seeds later train only the new ones."""
    seed: int = 0
    """The first of them."""
    engine: str = "auto"
    """auto (batches of seeds where there are such, else processes), process, batch or ray."""
    jobs: Annotated[int | None, shown_as("N")] = None
    """Trainings side by side; default: one for each core (ray: of the cluster), on a GPU one."""
    address: Annotated[str | None, shown_as("HOST:PORT")] = None
    """Ray cluster; default: the one that is running here, or a new one of this machine."""
    vector_env: str = "auto"
    """Environments of seed batches: envpool (fast; extra [fast]), gymnasium, or auto."""
    compile: bool = False
    """Compile the updates of seed batches."""
    timesteps: Annotated[int | None, shown_as("N")] = None
    """Of each training; default: the tuned value for the environment."""
    episodes: Annotated[int | None, shown_as("N")] = None
    """End each training after so many episodes, if that is before its timesteps."""
    final_episodes: int = 20
    """Episodes in which each last policy is evaluated after its training."""
    out: Path = Path("runs")
    """Folder that holds the runs: OUT/NORM/ALGO/ENV_K. What it has is not trained again."""
    report: Annotated[Path | None, shown_as("FILE")] = None
    """The page; default: OUT/report.html. Markdown and CSV files go beside it."""
    baseline: str = "none"
    """Normalizer with which the others are compared."""
    threshold: Annotated[float | None, shown_as("RETURN")] = None
    """Return that counts as learned; default: the environment's, if it is one of the tuned ones."""
    zoo: bool = False
    """Set what the RL Zoo published beside our figures."""
    agent: Annotated[tuple[Path, ...], shown_as("PATH ...")] = ()
    """SB3 zips, folders of the RL Zoo or runs, to be evaluated and set beside our figures."""
    trust: bool = False
    """Allow --agent to unpickle a foreign zip, which runs code that is in it."""
    config: str = "zoo"
    """Set of tuned hyperparameters: zoo, or paper (the paper's protocol)."""
    set: Annotated[tuple[str, ...], shown_as("NAME=VALUE ...")] = ()
    """Hyperparameters as name=value, of all trainings."""
    env_kwargs: Annotated[tuple[str, ...], shown_as("NAME=VALUE ...")] = ()
    """Arguments of the environments as name=value."""
    n_envs: Annotated[int | None, shown_as("N")] = None
    """Environments stepped together; default: the tuned value."""
    eval_freq: Annotated[int | None, shown_as("N")] = None
    """Timesteps between evaluations; default: a twentieth of the run."""
    eval_episodes: int = 5
    """Episodes per evaluation during training."""
    device: str = "cpu"
    """cpu or cuda."""
    threads: int = 1
    """Threads of torch and of envpool in each process."""
    quiet: bool = False
    """No progress display."""
