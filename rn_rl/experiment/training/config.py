"""Options of ``rn-rl train``, and those that it shares with ``rn-rl compare``, as dataclasses.

Nothing here imports torch or Stable-Baselines3, since ``rn-rl --help`` reads these classes.
"""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, ClassVar

from rn_rl.errors import UserError
from rn_rl.experiment.settings.options import shown_as

RESUME_OPTIONS = {"--resume", "--timesteps", "--compile", "--track", "--quiet", "--trust"}
"""Options that a resumed training uses."""


MOST_SEEDS = 10_000
"""Largest number of seeds of one command."""


def check_seeds(seeds: int) -> None:
    """Raise :class:`UserError` unless so many seeds can be trained by one command."""
    if not 1 <= seeds <= MOST_SEEDS:
        raise UserError(f"--seeds {seeds}: expected at least 1 and at most {MOST_SEEDS:,}")


@dataclass(kw_only=True)
class TrainingOptions:
    """Options of a training that say what is learned, and how."""

    help_section: ClassVar[str] = "training"

    timesteps: Annotated[int | None, shown_as("N")] = None
    """Environment steps of each training; default: the tuned value for the environment."""
    episodes: Annotated[int | None, shown_as("N")] = None
    """End a training after N training episodes, if that comes before its last timestep."""
    config: str = "zoo"
    """zoo (tuned), or paper (its network and replay; with --algo rndqn its loss and episodes too)."""
    conf_file: Annotated[Path | None, shown_as("FILE.yml")] = None
    """Own hyperparameters by environment, as in the RL Zoo; 'rn-rl zoo --export FILE.yml' writes one. Of
    a folder of 'rn-rl tune': those of each normalizer."""
    set: Annotated[tuple[str, ...], shown_as("NAME=VALUE ...")] = ()
    """Other values, such as learning_rate=3e-4 policy_kwargs.net_arch=[64,64] dqn:gamma=0.9."""
    net: Annotated[str | None, shown_as("NAME")] = None
    """Hidden layers: mlp (SB3's), simba, simbav2 or bronet, of their papers' widths unless --set says."""
    env_kwargs: Annotated[tuple[str, ...], shown_as("NAME=VALUE ...")] = ()
    """Arguments of the environment, such as max_episode_steps=100."""
    n_envs: Annotated[int | None, shown_as("N")] = None
    """Environments that each training steps together; default: the tuned value."""


@dataclass(kw_only=True)
class EvaluationOptions:
    """Options of a training that say when its policy is evaluated."""

    help_section: ClassVar[str] = "evaluation"

    eval_freq: Annotated[int | None, shown_as("N")] = None
    """Timesteps between two evaluations; default: 20 evaluations, or as many as take no longer than the
    training."""
    eval_episodes: int = 5
    """Episodes of each evaluation during training."""


@dataclass(kw_only=True)
class RecordOptions:
    """Options of a training that say what it writes."""

    help_section: ClassVar[str] = "records"

    out: Path = Path("runs")
    """Folder that holds the run folders OUT/NORM/ALGO/ENV_K."""
    track: Annotated[str, shown_as("SERVICE")] = "tensorboard"
    """Where curves go beside TensorBoard's files in the run folder: wandb or mlflow (extra [track])."""
    probe: bool = False
    """Record code lengths and other measures of every layer in probe.npz, which 'rn-rl probe' shows."""
    quiet: bool = False
    """Print no progress."""
    trust: bool = False
    """Unpickle a foreign agent zip, or use modules that a foreign run names. This runs code in them."""


@dataclass(kw_only=True)
class MachineOptions:
    """Options of a training that say how it uses the machine."""

    help_section: ClassVar[str] = "machine"

    engine: str = "auto"
    """Many seeds: batch (together in one process), process (one a seed), or auto (batch if possible)."""
    vector_env: str = "auto"
    """Steps a seed batch: envpool (fast; extra [fast]), gymnasium, or auto (envpool if possible)."""
    compile: bool = False
    """Compile a seed batch's updates: starts later, then 5% slower to 10% faster where measured."""
    device: str = "cpu"
    """cpu or cuda. With small networks a single seed is faster on the CPU, a batch of many on a GPU."""
    threads: int = 1
    """Threads of torch and envpool in each process; small networks are fastest with one."""
    step_timeout: Annotated[float | None, shown_as("SECONDS")] = None
    """Stop a run whose environments take longer for a step than SECONDS; default: wait."""


@dataclass(kw_only=True)
class SharedOptions(MachineOptions, RecordOptions, EvaluationOptions, TrainingOptions):
    """Options of every command that trains.

    A command's dataclass names this class first and a second one with ``--algo``, ``--env``, ...
    after it: dataclasses collect the fields of their last base first, and ``--help`` prints
    fields in that order, each class under its ``help_section``.
    """


@dataclass(kw_only=True)
class TrainedAgent:
    """Options of ``rn-rl train`` that ``--help`` prints first."""

    help_section: ClassVar[str] = "agent"

    algo: Annotated[str | None, shown_as("NAME")] = None
    """Algorithm: dqn qrdqn ppo a2c trpo ppo_lstm ppo_mask sac td3 ddpg tqc crossq ars rndqn rnppo pqn, or
    module:Class, a subclass of one."""
    env: Annotated[str | None, shown_as("ENV")] = None
    """Environment: CartPole-v1, LunarLander-v3, MiniGrid-RedBlueDoors-6x6-v0, or any registered one."""
    norm: Annotated[str | None, shown_as("SPEC")] = None
    """Normalizer in every hidden layer: none (default; ln for simba, bronet and pqn), ln, rn, ln+rn, ...,
    which 'rn-rl norms' lists, or module:Class(a=1), one of your own."""
    seed: int = 0
    """Seed of the network's weights, the environments and everything else that is random."""
    seeds: int = 1
    """Number of seeds to train: SEED, SEED + 1, ...; each has a run folder."""


@dataclass(kw_only=True)
class MemoryOption:
    """Option of the commands that divide their seeds among batches themselves."""

    help_section: ClassVar[str] = MachineOptions.help_section

    memory: Annotated[float | None, shown_as("GB")] = None
    """Memory that a seed batch may take; default: half of what is free. More seeds take more batches."""


@dataclass(kw_only=True)
class TrainConfig(MemoryOption, SharedOptions, TrainedAgent):
    """Train an agent and write a run folder, from which it can be evaluated, filmed and continued."""

    help_section: ClassVar[str] = "continuing"

    eval_freq: Annotated[int | None, shown_as("N")] = None
    """Timesteps between two evaluations, 0 for none; default: 20 evaluations, or as many as
    take no longer than the training."""
    resume: Annotated[Path | None, shown_as("RUN")] = None
    """Continue this run from its checkpoint with its own settings, as if it had never stopped."""
    from_agent: Annotated[Path | None, shown_as("AGENT", name="from")] = None
    """Start from the weights and normalizer state of this run or agent zip."""

    def check_arguments(self, arguments: Sequence[str]) -> None:
        """Raise :class:`UserError` for options typed beside ``--resume`` that it does not use."""
        self.check_resume(name.partition("=")[0] for name in arguments if name.startswith("--"))

    def check_resume(self, given: Iterable[str] | None = None) -> None:
        """Raise :class:`UserError` for options beside ``--resume`` that it does not use.

        Args:
            given: options as typed; default: those that do not have their default value.
        """
        if self.resume is None:
            return
        if given is None:
            changed = [f.name for f in fields(self) if getattr(self, f.name) != f.default]
            given = ["--from" if n == "from_agent" else f"--{n.replace('_', '-')}" for n in changed]
        ignored = sorted(set(given) - RESUME_OPTIONS)
        if ignored:
            raise UserError(
                f"--resume {self.resume} continues with the settings of the run: expected no "
                f"{', '.join(ignored)}; leave that out, or start another run with --from "
                f"{shlex.quote(str(self.resume))}"
            )
