"""``rn-rl reproduce``: the paper's agents under its protocol, with the controls that it lacks.

What is compared is what the paper compares: the mean *training* return of the last 50 episodes of each
run. Where this differs from the paper's code: SB3's DQN (epsilon falls linearly over a tenth of the run,
the paper's by a factor of 0.95 an episode, and only in the first of its runs); a number of timesteps,
equal for all, in place of 2,000 episodes; LunarLander-v3, since gymnasium refuses v2; acting moves no
state.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro
import yaml
from rich.console import Console
from rich.table import Table
from scipy import stats

from rn_rl.errors import UserError, unknown
from rn_rl.experiment import statistics
from rn_rl.experiment.compare import CompareConfig, Grid, listed, new_grid, run_grid
from rn_rl.experiment.comparison import Comparison, compare, correct
from rn_rl.experiment.config import shown_as
from rn_rl.experiment.files import markdown_table, whole
from rn_rl.experiment.grid import Cell, find, key_of
from rn_rl.experiment.progress import say
from rn_rl.experiment.records import read_episodes
from rn_rl.experiment.report import write_rows, write_text
from rn_rl.experiment.run import command_line
from rn_rl.experiment.train import TrainingStopped

LAST_EPISODES = 50
"""Of a run, whose mean training return counts."""

PUBLISHED = ("none", "ln", "rn-paper", "rln-paper", "ln+rn-paper")
OURS = ("rn", "rln", "rsn", "ln+rn", "ln+rn(half_life=2000)")
CONTROLS = ("logt", "ln+logt", "ln+ramp(5, 5000)", "ln+gain(5)")
YOKED = "ln+yoked"
"""Stands for the gains of another seed of ``ln+rn``, which is trained first."""

QUICK = ("none", "ln", "rn", "ln+rn", "logt", "ln+ramp(5, 5000)")

QUESTIONS = (
    *((arm, "none") for arm in (*PUBLISHED[1:], *OURS, *CONTROLS, YOKED)),
    ("rn", "logt"),
    ("ln+rn", "ln"),
    ("ln+rn", "ln+logt"),
    ("ln+rn", YOKED),
    ("ln+ramp(5, 5000)", "ln+rn"),
)
"""Pairs (arm, what it is compared with), decided beforehand; p values are corrected for all of them."""


@dataclass(frozen=True)
class Protocol:
    """One of the paper's three tasks."""

    algo: str
    env: str
    timesteps: int
    seeds: int
    """By default."""
    about: str


PROTOCOLS = {
    "cartpole": Protocol("dqn", "CartPole-v1", 60_000, 50, "60,000 timesteps"),
    "lunarlander": Protocol(
        "dqn", "LunarLander-v3", 200_000, 50, "200,000 timesteps, episodes cut at 100"
    ),
    "redbluedoors": Protocol(
        "ppo", "MiniGrid-RedBlueDoors-6x6-v0", 1_000_000, 10, "1,000,000 frames, memoryless"
    ),
}  # fmt: skip


@dataclass
class ReproduceConfig:
    """Run the paper's protocol with controls, and print our table beside the paper's."""

    what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """cartpole, lunarlander or redbluedoors."""
    seeds: Annotated[int | None, shown_as("N")] = None
    """Seeds 0, 1, ... of each arm; default: 50 (redbluedoors: 10)."""
    quick: bool = False
    """A rough answer in minutes: 4 seeds, six arms, a tenth of the timesteps."""
    timesteps: Annotated[int | None, shown_as("N")] = None
    """Of each run; default: the protocol's."""
    arms: Annotated[str | None, shown_as("NORM,...")] = None
    """Only these normalizers, separated by commas; default: all arms."""
    out: Path = Path("runs/reproduce")
    """Folder of the runs; the same command goes on where it stopped."""
    results: Annotated[Path | None, shown_as("FOLDER")] = None
    """Where TASK.md and TASK.csv go; default: OUT."""
    engine: str = "auto"
    """auto, process, batch or ray, as of 'rn-rl compare'."""
    jobs: Annotated[int | None, shown_as("N")] = None
    """Trainings side by side; default: one for each core."""
    address: Annotated[str | None, shown_as("HOST:PORT")] = None
    """Ray cluster."""
    quiet: bool = False
    """No progress display."""


@dataclass
class Arm:
    """Training returns of the runs of one arm."""

    name: str
    last: np.ndarray
    """Mean return of the last 50 episodes of each run."""
    fifths: np.ndarray
    """Mean return in each fifth of the timesteps, ``(runs, 5)``."""


@lru_cache
def paper_results() -> dict[str, dict[str, list[float]]]:
    """``zoo_configs/paper_results.yml``."""
    found: dict[str, dict[str, list[float]]] = yaml.safe_load(
        (files("rn_rl") / "zoo_configs" / "paper_results.yml").read_text()
    )
    return found


def run_reproduce(config: ReproduceConfig) -> None:
    """Train what is missing, then write and print the table.

    Raises:
        UserError: anything that the user can fix.
        TrainingStopped: Ctrl-C; the same command goes on.
    """
    if config.what not in PROTOCOLS:
        raise unknown("task", config.what, PROTOCOLS)
    for flag, value in (("seeds", config.seeds), ("timesteps", config.timesteps)):
        if value is not None and value < 1:
            raise UserError(f"--{flag} {value}: expected at least 1")
    protocol = PROTOCOLS[config.what]
    console = Console(quiet=config.quiet)
    timesteps = config.timesteps or protocol.timesteps // (10 if config.quick else 1)
    seeds = config.seeds or (4 if config.quick else protocol.seeds)
    names = arms_of(config)
    shared = CompareConfig(
        algo=protocol.algo,
        env=protocol.env,
        config="paper",
        timesteps=timesteps,
        seeds=seeds,
        out=config.out / config.what,
        engine=config.engine,
        jobs=config.jobs,
        address=config.address,
        quiet=config.quiet,
        final_episodes=1,
        eval_freq=max(timesteps // 5, 1),
        eval_episodes=1,
    )
    specs = {name: name for name in names}
    if YOKED in names:
        specs[YOKED] = f"ln+yoked({recorded(shared, console)})"
    grid = new_grid(replace(shared, norms=",".join(specs.values())), console)
    if len(grid.cells) != len(names):
        raise UserError(f"--arms {config.arms}: two of them are the same")
    stopped = run_grid(grid)
    arms = [read_arm(grid, name, cell) for name, cell in zip(names, grid.cells, strict=True)]
    write(config, protocol, timesteps, [arm for arm in arms if len(arm.last)], console)
    if stopped:
        raise TrainingStopped("stopped; the same command goes on where it stopped")
    if grid.failed:
        key, reason = next(iter(grid.failed.items()))
        raise UserError(f"{len(grid.failed)} trainings failed, such as {key}: {reason}")


def arms_of(config: ReproduceConfig) -> list[str]:
    """The arms that were asked for."""
    if config.arms is not None:
        return listed(config.arms)
    return list(QUICK if config.quick else (*PUBLISHED, *OURS, *CONTROLS, YOKED))


def recorded(shared: CompareConfig, console: Console) -> Path:
    """A run of ``ln+rn`` with a seed that is none of the others', whose gains are replayed."""
    grid = new_grid(replace(shared, norms="ln+rn", seeds=1, seed=shared.seeds), console)
    if run_grid(grid):
        raise TrainingStopped("stopped; the same command goes on where it stopped")
    if grid.failed:
        raise UserError(f"the run to be replayed failed: {next(iter(grid.failed.values()))}")
    spec = grid.cells[0].specs[0]
    return find(shared.out, spec)[key_of(spec)].run.folder


def read_arm(grid: Grid, name: str, cell: Cell) -> Arm:
    """What the runs of a cell returned while they trained."""
    found = find(grid.config.out, cell.specs[0])
    runs = [found[key].run for key in cell.keys if key in found and found[key].trained]
    last, fifths = [], []
    for run in runs:
        ended, returns = read_episodes(run)
        last.append(returns[-LAST_EPISODES:].mean())
        place = np.minimum(ended * 5 // cell.specs[0].timesteps, 4)
        with_episodes = [returns[place == i] for i in range(5)]
        fifths.append([part.mean() if len(part) else np.nan for part in with_episodes])
    return Arm(name, np.array(last), np.array(fifths))


def compare_arms(protocol: Protocol, arms: list[Arm]) -> list[Comparison]:
    """The questions that these arms can answer."""
    by_name = {arm.name: arm for arm in arms}
    task = f"{protocol.algo} on {protocol.env}"
    asked = [pair for pair in QUESTIONS if pair[0] in by_name and pair[1] in by_name]
    comparisons = [compare(task, x, y, by_name[x].last, by_name[y].last) for x, y in asked]
    correct(comparisons)
    return comparisons


COLUMNS = ["arm", "seeds", "last 50 episodes", "95% interval", "by fifths of the run", "paper"]


def table_rows(what: str, arms: list[Arm]) -> list[list[str]]:
    """Our figures, mean ± standard error over runs as the paper has them, beside the paper's."""
    rows = []
    for arm in arms:
        error = f" ± {stats.sem(arm.last):.1f}" if len(arm.last) > 1 else ""
        low, high = statistics.bootstrap_interval(arm.last)
        fifths = ", ".join(f"{value:.0f}" for value in arm.fifths.mean(0))
        paper = paper_results()[what].get(arm.name)
        published = f"{paper[0]} ± {paper[1]}" if paper else ""
        shown = f"{arm.last.mean():.1f}{error}"
        interval = f"[{low:.1f}, {high:.1f}]"
        rows.append([arm.name, str(len(arm.last)), shown, interval, fifths, published])
    return rows


def write(
    config: ReproduceConfig,
    protocol: Protocol,
    timesteps: int,
    arms: list[Arm],
    console: Console,
) -> None:
    """``TASK.md`` and ``TASK.csv``, and the same on the terminal."""
    comparisons = compare_arms(protocol, arms)
    rows = table_rows(config.what, arms)
    about = f"{protocol.algo} on {protocol.env}, the paper's configuration: {timesteps:,} timesteps"
    rough = [f"Rough: --quick, {timesteps:,} of {protocol.timesteps:,} timesteps, few seeds."]
    lines = [
        f"# {config.what}: the paper's protocol, with controls",
        about
        + f" ({protocol.about}); mean training return of the last {LAST_EPISODES} episodes of each "
        "run, mean ± standard error over runs.",
        *(rough if config.quick else []),
        markdown_table(COLUMNS, rows),
        "\n".join(f"- {each.sentence(len(comparisons))}" for each in comparisons),
        f"Made by `{command_line()}`.",
    ]
    folder = config.results or config.out
    folder.mkdir(parents=True, exist_ok=True)
    with whole(folder / f"{config.what}.md") as temporary:
        write_text(temporary, "\n\n".join(lines) + "\n")
    write_rows(
        folder / f"{config.what}.csv",
        ["arm", "run", "last_50_episodes", *(f"fifth_{i}" for i in range(1, 6))],
        (
            [arm.name, i, last, *fifths]
            for arm in arms
            for i, (last, fifths) in enumerate(zip(arm.last, arm.fifths, strict=True))
        ),
    )
    table = Table(title=about)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("arm", "paper") else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in (*(rough if config.quick else []), *lines[-2].splitlines()):
        say(console, line)
    say(console, f"written: {folder / config.what}.md and .csv")
