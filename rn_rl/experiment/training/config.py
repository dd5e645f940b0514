"""What a user can say about a training: a documented dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from rn_rl.experiment.settings.options import shown_as


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
