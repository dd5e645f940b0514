"""What a user can say about a training, and about a grid of them: documented dataclasses."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro


def shown_as(metavar: str, name: str | None = None) -> Any:
    """How ``--help`` shows an option whose default is nothing, which then need not be said."""
    return tyro.conf.arg(name=name, metavar=metavar, help_behavior_hint="")


@dataclass
class TrainConfig:
    """Train an agent and leave a run folder that evaluates, films and continues."""

    algo: Annotated[str | None, shown_as("NAME")] = None
    """dqn qrdqn ppo a2c trpo ppo_lstm ppo_mask sac td3 ddpg tqc crossq ars, or ours: rndqn rnppo."""
    env: Annotated[str | None, shown_as("ENV")] = None
    """Environment: CartPole-v1, LunarLander-v3, MiniGrid-RedBlueDoors-6x6-v0, or any registered one."""
    norm: str = "none"
    """Normalizer in every hidden layer: none, ln, rn, rln, ..., ln+rn; 'rn-rl norms' lists them."""
    seed: int = 0
    """Seed of everything random."""
    seeds: int = 1
    """How many seeds to train: SEED, SEED + 1, ..., a run folder each."""
    engine: str = "auto"
    """Many seeds: batch (in one process, together), process (one after the other on every core), auto."""
    vector_env: str = "auto"
    """Environments of a seed batch: envpool (fast; extra [fast]), gymnasium, or auto."""
    compile: bool = False
    """Compile the updates of a seed batch with torch.compile: slower to start, then faster."""
    memory: Annotated[float | None, shown_as("GB")] = None
    """Memory that a seed batch may take; default: half of what is free. More seeds go in chunks."""
    timesteps: Annotated[int | None, shown_as("N")] = None
    """Environment steps; default: the tuned value for the environment."""
    episodes: Annotated[int | None, shown_as("N")] = None
    """End a run after so many training episodes, if that is before its timesteps."""
    out: Path = Path("runs")
    """Folder that holds the runs: OUT/NORM/ALGO/ENV_K."""
    resume: Annotated[Path | None, shown_as("RUN")] = None
    """Continue this run exactly where its checkpoint stands, with its own settings."""
    set: Annotated[tuple[str, ...], shown_as("NAME=VALUE ...")] = ()
    """Hyperparameters as name=value, such as learning_rate=3e-4 policy_kwargs.net_arch=[64,64]."""
    device: str = "cpu"
    """cpu or cuda. Small networks of one seed are faster on the CPU, those of many seeds on a GPU."""
    n_envs: Annotated[int | None, shown_as("N")] = None
    """Environments stepped together; default: the tuned value."""
    eval_freq: Annotated[int | None, shown_as("N")] = None
    """Timesteps between evaluations, 0 for none; default: a twentieth of the run."""
    eval_episodes: int = 5
    """Episodes per evaluation during training."""
    env_kwargs: Annotated[tuple[str, ...], shown_as("NAME=VALUE ...")] = ()
    """Arguments of the environment as name=value, such as max_episode_steps=100."""
    from_agent: Annotated[Path | None, shown_as("AGENT", name="from")] = None
    """Start from the weights and normalizer state of this run or agent zip."""
    config: str = "zoo"
    """Set of tuned hyperparameters: zoo, or paper (the paper's protocol)."""
    threads: int = 1
    """Threads of torch and of envpool; networks of this size are fastest with one."""
    quiet: bool = False
    """No progress display."""
    trust: bool = False
    """Allow --from to unpickle a foreign zip, which runs code that is in it."""


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
