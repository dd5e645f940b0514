"""What a user can say about a training, and nothing else: one documented dataclass."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro


@dataclass
class TrainConfig:
    """Train an agent and leave a run folder that evaluates, films and continues."""

    algo: str | None = None
    """Algorithm: dqn, ppo, or ours with replay-aware state, rndqn, rnppo."""
    env: str | None = None
    """Environment: CartPole-v1, LunarLander-v3, MiniGrid-RedBlueDoors-6x6-v0, or any registered one."""
    norm: str = "none"
    """Normalizer in every hidden layer: none, ln, rn, rln, ..., ln+rn; 'rn-rl norms' lists them."""
    seed: int = 0
    """Seed of everything random."""
    timesteps: int | None = None
    """Environment steps; default: the tuned value for the environment."""
    out: Path = Path("runs")
    """Folder that holds the runs: OUT/NORM/ALGO/ENV_K."""
    resume: Path | None = None
    """Continue this run exactly where its checkpoint stands, with its own settings."""
    set: tuple[str, ...] = ()
    """Hyperparameters as name=value, such as learning_rate=3e-4 policy_kwargs.net_arch=[64,64]."""
    device: str = "cpu"
    """cpu or cuda. Small networks are faster on the CPU."""
    n_envs: int | None = None
    """Environments stepped together; default: the tuned value."""
    eval_freq: int | None = None
    """Timesteps between evaluations, 0 for none; default: a twentieth of the run."""
    eval_episodes: int = 5
    """Episodes per evaluation during training."""
    env_kwargs: tuple[str, ...] = ()
    """Arguments of the environment as name=value, such as max_episode_steps=100."""
    from_agent: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Start from the weights and normalizer state of this run or agent zip."""
    config: str = "zoo"
    """Set of tuned hyperparameters: zoo, or paper (the paper's protocol)."""
    threads: int = 1
    """Threads of torch; networks of this size are fastest with one."""
    quiet: bool = False
    """No progress display."""
    trust: bool = False
    """Allow --from to unpickle a foreign zip, which runs code that is in it."""
