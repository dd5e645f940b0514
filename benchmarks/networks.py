"""Study of networks and normalizers: which network with which normalizer, at a learning rate of its own.

Stage ``rates`` trains each pair at three learning rates on seeds of its own; stage ``runs`` trains the
best rate of each pair on the seeds of the table. Both use ``rn-rl compare``, so a stopped stage continues
where it was, and ``rn-rl report OUT/runs/TASK/NET`` shows one network's normalizers.
"""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from rn_rl.cli import main as rn_rl
from rn_rl.errors import UserError, unknown
from rn_rl.experiment.runs.folder import Run, file_name
from rn_rl.experiment.runs.records import read_evaluations

STAGES = ("commands", "rates", "runs")
RATES_SEED = 1000
"""First seed of the stage that chooses learning rates; the table begins at 0."""

FACTORS = (1 / 3, 1, 3)
"""Learning rates that are tried, as factors of the tuned one."""

NETS: dict[str, tuple[str, ...]] = {
    "mlp": ("none", "ln", "ln+nap", "ln+rn(half_life=50)"),
    "simba": ("none", "ln", "ln+rn(half_life=50)"),
    "simbav2": ("none", "rn(half_life=50)"),
    "bronet": ("none", "ln", "ln+nap", "ln+rn(half_life=50)"),
}
"""Networks, and the normalizers that fit them: SimBa has no place for nap, SimbaV2 no LayerNorm."""


@dataclass(frozen=True)
class Task:
    """One task of the table.

    Attributes:
        algo: algorithm.
        env: environment.
        rate: tuned learning rate.
        timesteps: of a run of the table.
        screening: timesteps of a run that chooses the learning rate.
        seeds: number of seeds of the table.
        screening_seeds: number of seeds that choose the learning rate.
        options: further options of ``rn-rl compare``.
        settings: further hyperparameters.
    """

    algo: str
    env: str
    rate: float
    timesteps: int
    screening: int
    seeds: int = 10
    screening_seeds: int = 3
    options: tuple[str, ...] = ()
    settings: tuple[str, ...] = ()


TASKS: dict[str, Task] = {
    "dqn-lunarlander": Task("dqn", "LunarLander-v3", 6.3e-4, 100_000, 50_000),
    "ppo-lunarlander": Task("ppo", "LunarLander-v3", 3e-4, 1_000_000, 300_000),
    "ppo-redbluedoors": Task(
        "ppo", "MiniGrid-RedBlueDoors-6x6-v0", 3e-4, 1_000_000, 300_000, options=("--config", "paper")
    ),
    "sac-pendulum": Task(
        "sac", "Pendulum-v1", 1e-3, 10_000, 10_000, seeds=5, screening_seeds=2,
        settings=("learning_starts=500", "batch_size=64"),
    ),
    "sac-lunarlander": Task(
        "sac", "LunarLanderContinuous-v3", 7.3e-4, 100_000, 30_000, seeds=5, screening_seeds=2,
        settings=("batch_size=64",),
    ),
}  # fmt: skip
"""The tasks; they are begun in this order, and what does not fit into the time is left out by name."""


@dataclass
class NetworksConfig:
    """Train networks x normalizers x tasks, with a learning rate chosen for each pair on other seeds."""

    stage: str = "commands"
    """commands: print what would be run; rates: choose learning rates; runs: train the table."""
    tasks: tuple[str, ...] = field(default_factory=lambda: tuple(TASKS))
    """Tasks, of dqn-lunarlander ppo-lunarlander ppo-redbluedoors sac-pendulum sac-lunarlander."""
    nets: tuple[str, ...] = field(default_factory=lambda: tuple(NETS))
    """Networks, of mlp simba simbav2 bronet."""
    out: Path = Path("runs/networks")
    """Folder of the runs."""


def command(
    task: Task, net: str, norms: tuple[str, ...], rate: float, out: Path, screening: bool
) -> list[str]:
    """Return the arguments of ``rn-rl`` that train some normalizers of a network."""
    small = "[64,64]" if net == "mlp" else "small"
    settings = (f"learning_rate={rate:.3g}", f"policy_kwargs.net_arch={small}", *task.settings)
    seeds = task.screening_seeds if screening else task.seeds
    first = RATES_SEED if screening else 0
    timesteps = task.screening if screening else task.timesteps
    return [
        *("compare", "--algo", task.algo, "--env", task.env, "--norms", ",".join(norms)),
        *("--net", net, "--seeds", str(seeds), "--seed", str(first), "--timesteps", str(timesteps)),
        *task.options,
        *("--out", str(out), "--set", *settings),
    ]


def rate_folder(config: NetworksConfig, name: str, net: str, rate: float) -> Path:
    """Return the folder of the runs of one network at one learning rate."""
    return config.out / "rates" / name / net / f"{rate:.3g}"


def chosen_rate(config: NetworksConfig, name: str, net: str, norm: str) -> float:
    """Return the learning rate whose last three evaluations are best on average over the seeds.

    Raises:
        UserError: the stage ``rates`` has not finished for this pair.
    """
    task, scores = TASKS[name], {}
    for factor in FACTORS:
        rate = task.rate * factor
        folder = rate_folder(config, name, net, rate) / file_name(norm) / task.algo
        runs = [Run(path.parent) for path in sorted(folder.glob("*/run.yaml"))]
        if len(runs) < task.screening_seeds:
            raise UserError(
                f"{folder}: {len(runs)} of {task.screening_seeds} runs; first run: python -m benchmarks "
                f"networks --stage rates --tasks {name} --nets {net}"
            )
        notes: list[str] = []
        found = [read_evaluations(run, notes)[1] for run in runs]
        scores[rate] = float(np.mean([returns[-3:].mean() for returns in found]))
    return max(scores, key=scores.__getitem__)


def run_networks(config: NetworksConfig) -> None:
    """Print or run the commands of a stage."""
    for kind, given, known in (
        ("stage", (config.stage,), STAGES),
        ("task", config.tasks, TASKS),
        ("net", config.nets, NETS),
    ):
        for name in given:
            if name not in known:
                raise unknown(kind, name, known)
    for name in config.tasks:
        task = TASKS[name]
        for net in config.nets:
            if config.stage in ("commands", "rates"):
                for factor in FACTORS:
                    rate = task.rate * factor
                    folder = rate_folder(config, name, net, rate)
                    perform(command(task, net, NETS[net], rate, folder, True), config)
            if config.stage == "runs":
                for norm in NETS[net]:
                    rate = chosen_rate(config, name, net, norm)
                    folder = config.out / "runs" / name / net / file_name(norm)
                    perform(command(task, net, (norm,), rate, folder, False), config)


def perform(arguments: list[str], config: NetworksConfig) -> None:
    """Print a command, and run it unless only commands are wanted."""
    print("rn-rl", shlex.join(arguments), flush=True)
    if config.stage != "commands" and rn_rl(arguments):
        raise UserError(f"rn-rl {shlex.join(arguments)}: failed; the message is above")
