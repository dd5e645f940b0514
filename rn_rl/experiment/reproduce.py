"""``rn-rl reproduce``: the paper's agents under its protocol, with the controls that it lacks.

What is compared is what the paper compares: the mean *training* return of the last 50 episodes of each
run. Where this differs from the paper's code: SB3's DQN (epsilon falls linearly over a tenth of the run,
the paper's by a factor of 0.95 an episode, and only in the first of its runs); a number of timesteps,
equal for all, in place of 2,000 episodes; LunarLander-v3, since gymnasium refuses v2; acting moves no
state. ``--as-published`` keeps the confounds among these. The arms are in
:mod:`rn_rl.experiment.protocol`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
import yaml
from rich.console import Console
from rich.table import Table
from scipy import stats

from rn_rl.errors import UserError, unknown
from rn_rl.experiment import plots, statistics
from rn_rl.experiment.compare import (
    CompareConfig,
    Grid,
    grid_of,
    listed,
    make_cells,
    new_grid,
    run_grid,
)
from rn_rl.experiment.comparison import Comparison, Estimate, compare, correct
from rn_rl.experiment.config import shown_as
from rn_rl.experiment.files import markdown_table, whole
from rn_rl.experiment.grid import Cell, find, key_of
from rn_rl.experiment.progress import say
from rn_rl.experiment.protocol import (
    PROTOCOLS,
    QUICK,
    STUDIES,
    YOKED,
    Arm,
    Protocol,
    Study,
    paper_and_controls,
    plain,
)
from rn_rl.experiment.records import read_episodes, read_seconds
from rn_rl.experiment.report import write_rows, write_text
from rn_rl.experiment.run import command_line
from rn_rl.experiment.train import TrainingStopped

LAST_EPISODES = 50
"""Of a run, whose mean training return counts."""

PARTS = 20
"""Of a run, in each of which the mean training return is a point of its curve."""


@dataclass
class ReproduceConfig:
    """Run the paper's protocol with controls, and print our table beside the paper's."""

    what: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TASK")]
    """cartpole, lunarlander or redbluedoors."""
    learning_rates: bool = False
    """Instead: none and ln at five learning rates, beside ln+rn and the ramp."""
    warm_up: bool = False
    """Instead: none and ln with a learning rate that rises as the ramp does."""
    as_published: bool = False
    """Instead: the paper's arms with its confounds (epsilon, acting that moves the state)."""
    recurrent: bool = False
    """redbluedoors: PPO with an LSTM."""
    seeds: Annotated[int | None, shown_as("N")] = None
    """Seeds 0, 1, ... of each arm; default: 50 (redbluedoors: 10)."""
    quick: bool = False
    """A rough answer in minutes: 4 seeds, six arms, a tenth of the timesteps."""
    timesteps: Annotated[int | None, shown_as("N")] = None
    """Of each run; default: the protocol's."""
    arms: Annotated[str | None, shown_as("ARM,...")] = None
    """Only these of the arms, or any normalizers, separated by commas; default: all arms."""
    out: Path = Path("runs/reproduce")
    """Folder of the runs; the same command goes on where it stopped."""
    results: Annotated[Path | None, shown_as("FOLDER")] = None
    """Where TASK.md, TASK.csv and TASK.svg go; default: OUT."""
    engine: str = "auto"
    """auto, process, batch or ray, as of 'rn-rl compare'."""
    jobs: Annotated[int | None, shown_as("N")] = None
    """Trainings side by side; default: one for each core."""
    address: Annotated[str | None, shown_as("HOST:PORT")] = None
    """Ray cluster."""
    quiet: bool = False
    """No progress display."""

    @property
    def study_name(self) -> str | None:
        """Of the study that was asked for in place of the protocol."""
        asked = [name for name in STUDIES if getattr(self, name.replace("-", "_"))]
        if len(asked) > 1:
            raise UserError(f"--{asked[0]} --{asked[1]}: expected one study at a time")
        return asked[0] if asked else None

    @property
    def file_name(self) -> str:
        """Of what is written, without suffix."""
        parts = [self.what, "recurrent" if self.recurrent else None, self.study_name]
        return "-".join(part for part in parts if part)


@dataclass
class Result:
    """Training returns of the runs of one arm."""

    arm: Arm
    last: np.ndarray
    """Mean return of the last 50 episodes of each run."""
    curves: np.ndarray
    """Mean return in each part of the timesteps, ``(runs, PARTS)``; not a number where none ended."""
    timesteps: int
    """Of all runs together."""
    seconds: float
    """Wall time of all runs together, one process."""

    @property
    def fifths(self) -> np.ndarray:
        """Mean return in each fifth of the timesteps, ``(runs, 5)``."""
        return np.stack([mean_of(part) for part in np.split(self.curves, 5, axis=1)], 1)

    @property
    def estimate(self) -> Estimate:
        """Mean over runs."""
        return Estimate(float(self.last.mean()), *statistics.bootstrap_interval(self.last))


def mean_of(rows: np.ndarray) -> np.ndarray:
    """Mean of each row over what is a number in it; not a number where nothing is."""
    there = np.isfinite(rows)
    total = np.where(there, rows, 0.0).sum(1)
    return np.divide(total, there.sum(1), out=np.full(len(rows), np.nan), where=there.any(1))


@lru_cache
def paper_results() -> dict[str, Any]:
    """``zoo_configs/paper_results.yml``."""
    found: dict[str, Any] = yaml.safe_load(
        (files("rn_rl") / "zoo_configs" / "paper_results.yml").read_text()
    )
    return found


def run_reproduce(config: ReproduceConfig) -> None:
    """Train what is missing, then write and print the table.

    Raises:
        UserError: anything that the user can fix.
        TrainingStopped: Ctrl-C; the same command goes on.
    """
    protocol = protocol_of(config)
    study = study_of(config, protocol)
    console = Console(quiet=config.quiet)
    timesteps = config.timesteps or protocol.timesteps // (10 if config.quick else 1)
    seeds = config.seeds or (4 if config.quick else protocol.seeds)
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
    norms = {arm.name: arm.norm for arm in study.arms}
    if YOKED in norms:
        norms[YOKED] = f"ln+yoked({recorded(shared, console)})"
    cells = {
        arm.name: cells_of(replace(shared, norms=norms[arm.name]), arm, console)
        for arm in study.arms
    }
    grid = grid_of(shared, [cell for each in cells.values() for cell in each], console)
    if len({cell.keys[0] for cell in grid.cells}) != len(grid.cells):
        raise UserError(f"--arms {config.arms}: two of them are the same")
    stopped = run_grid(grid)
    results = [read_arm(grid, arm, cells[arm.name]) for arm in study.arms]
    write(config, protocol, study, timesteps, [r for r in results if len(r.last)], console)
    if stopped:
        raise TrainingStopped("stopped; the same command goes on where it stopped")
    if grid.failed:
        key, reason = next(iter(grid.failed.items()))
        raise UserError(f"{len(grid.failed)} trainings failed, such as {key}: {reason}")


def protocol_of(config: ReproduceConfig) -> Protocol:
    """The task, checked."""
    if config.what not in PROTOCOLS:
        raise unknown("task", config.what, PROTOCOLS)
    for flag, value in (("seeds", config.seeds), ("timesteps", config.timesteps)):
        if value is not None and value < 1:
            raise UserError(f"--{flag} {value}: expected at least 1")
    protocol = PROTOCOLS[config.what]
    if not config.recurrent:
        return protocol
    if protocol.recurrent is None:
        raise UserError(f"{config.what} --recurrent: needs no memory; expected redbluedoors")
    return replace(protocol, algo=protocol.recurrent, about=", with memory (an LSTM)")


def study_of(config: ReproduceConfig, protocol: Protocol) -> Study:
    """What was asked for: all arms of a study, or some."""
    name = config.study_name
    study = paper_and_controls(protocol) if name is None else STUDIES[name](protocol)
    if config.arms is not None:
        known = {arm.name: arm for arm in study.arms}
        chosen = (known.get(name, Arm(name, name)) for name in listed(config.arms))
        study = replace(study, arms=tuple(chosen))
    elif config.quick and name is None:
        study = replace(study, arms=plain(*QUICK, protocol.ramped))
    return study


def cells_of(shared: CompareConfig, arm: Arm, console: Console) -> list[Cell]:
    """The trainings of an arm: one cell, or two where the first run differs from the others."""
    groups = [(shared.seed, shared.seeds, arm.set)]
    if arm.later:
        groups = [
            (shared.seed, 1, arm.set),
            (shared.seed + 1, shared.seeds - 1, arm.set + arm.later),
        ]
    cells = []
    for seed, seeds, settings in groups:
        if seeds:
            one = replace(shared, seed=seed, seeds=seeds, set=settings)
            cells += [replace(cell, label=arm.name) for cell in make_cells(one, console)]
    return cells


def recorded(shared: CompareConfig, console: Console) -> Path:
    """A run of ``ln+rn`` with a seed that is none of the others', whose gains are replayed."""
    grid = new_grid(replace(shared, norms="ln+rn", seeds=1, seed=shared.seeds), console)
    if run_grid(grid):
        raise TrainingStopped("stopped; the same command goes on where it stopped")
    if grid.failed:
        raise UserError(f"the run to be replayed failed: {next(iter(grid.failed.values()))}")
    spec = grid.cells[0].specs[0]
    return find(shared.out, spec)[key_of(spec)].run.folder


def read_arm(grid: Grid, arm: Arm, cells: list[Cell]) -> Result:
    """What the runs of an arm returned while they trained."""
    last, curves, timesteps, seconds = [], [], 0, 0.0
    for cell in cells:
        found = find(grid.config.out, cell.specs[0])
        for key in cell.keys:
            if key not in found or not found[key].trained:
                continue
            run, spec = found[key].run, found[key].spec
            ended, returns = read_episodes(run)
            last.append(returns[-LAST_EPISODES:].mean())
            curves.append(curve(ended, returns, cell.specs[0].timesteps))
            timesteps += spec.timesteps
            seconds += read_seconds(run, len(spec.together) or 1) or 0.0
    rows = np.array(curves).reshape(len(curves), PARTS)
    return Result(arm, np.array(last), rows, timesteps, seconds)


def curve(ended: np.ndarray, returns: np.ndarray, timesteps: int) -> np.ndarray:
    """Mean return of the episodes that ended in each part of a run, ``(PARTS,)``."""
    place = np.minimum(ended * PARTS // timesteps, PARTS - 1).astype(int)
    count = np.bincount(place, minlength=PARTS)
    total = np.bincount(place, weights=returns, minlength=PARTS)
    return np.divide(total, count, out=np.full(PARTS, np.nan), where=count > 0)


def compare_arms(protocol: Protocol, study: Study, results: list[Result]) -> list[Comparison]:
    """The questions that these arms can answer."""
    by_name = {result.arm.name: result for result in results}
    task = f"{protocol.algo} on {protocol.env}"
    asked = [pair for pair in study.questions if pair[0] in by_name and pair[1] in by_name]
    comparisons = [compare(task, x, y, by_name[x].last, by_name[y].last) for x, y in asked]
    correct(comparisons)
    return comparisons


COLUMNS = ["arm", "seeds", "last 50 episodes", "95% interval", "by fifths of the run", "paper"]


def table_rows(what: str, results: list[Result]) -> list[list[str]]:
    """Our figures, mean ± standard error over runs as the paper has them, beside the paper's."""
    rows = []
    for result in results:
        error = f" ± {stats.sem(result.last):.1f}" if len(result.last) > 1 else ""
        found = result.estimate
        fifths = ", ".join(f"{value:.0f}" for value in result.fifths.mean(0))
        paper = paper_results()[what].get(result.arm.name)
        published = f"{paper[0]} ± {paper[1]}" if paper else ""
        shown = f"{found.value:.1f}{error}"
        interval = f"[{found.low:.1f}, {found.high:.1f}]"
        rows.append([result.arm.name, str(len(result.last)), shown, interval, fifths, published])
    return rows


def costs(protocol: Protocol, results: list[Result]) -> str:
    """What the trainings took, and what the published code would need for those it has."""
    seconds = sum(result.seconds for result in results)
    steps = sum(result.timesteps for result in results)
    runs = sum(len(result.last) for result in results)
    if not seconds:
        return ""
    speed = f"{steps / seconds:,.0f} timesteps/s of a process"
    told = f"Cost: {runs} trainings took {duration(seconds)} of one process here ({speed})."
    published = paper_results()["timesteps_per_second"]
    theirs = [r for r in results if r.arm.norm in published]
    if protocol.algo != "dqn" or not theirs:
        return told
    needed = sum(r.timesteps / published[r.arm.norm] for r in theirs)
    names = ", ".join(dict.fromkeys(r.arm.norm for r in theirs))
    return (
        f"{told} The published code would need {duration(needed)} for {names}, at the speed that was "
        "measured of it (RLN and LN+RN at RN's)."
    )


def duration(seconds: float) -> str:
    """In the unit that suits."""
    if seconds >= 3600:
        return f"{seconds / 3600:.1f} hours"
    return f"{seconds / 60:.1f} minutes" if seconds >= 60 else f"{seconds:.1f} seconds"


def write(
    config: ReproduceConfig,
    protocol: Protocol,
    study: Study,
    timesteps: int,
    results: list[Result],
    console: Console,
) -> None:
    """``TASK.md``, ``TASK.csv`` and ``TASK.svg``, and the same on the terminal."""
    comparisons = compare_arms(protocol, study, results)
    rows = table_rows(config.what, results)
    about = (
        f"{protocol.algo} on {protocol.env}{protocol.about}, the paper's configuration, {timesteps:,} "
        "timesteps"
    )
    rough = [f"Rough: --quick, {timesteps:,} of {protocol.timesteps:,} timesteps, few seeds."]
    folder = config.results or config.out
    name = config.file_name
    picture = draw(folder / f"{name}.svg", study, timesteps, results)
    told = [costs(protocol, results), *(rough if config.quick else [])]
    answers = [each.sentence(len(comparisons)) for each in comparisons]
    lines = [
        f"# {config.what}: {study.title}",
        f"{about}; mean training return of the last {LAST_EPISODES} episodes of each run, mean ± "
        "standard error over runs.",
        *told[1:],
        markdown_table(COLUMNS, rows),
        f"![{study.title}]({name}.svg)" if picture else "",
        "\n".join(f"- {answer}" for answer in answers),
        told[0],
        f"Made by `{command_line()}`.",
    ]
    with whole(folder / f"{name}.md") as temporary:
        write_text(temporary, "\n\n".join(line for line in lines if line) + "\n")
    write_rows(
        folder / f"{name}.csv",
        ["arm", "run", "last_50_episodes", *(f"part_{i}" for i in range(1, PARTS + 1))],
        (
            [result.arm.name, i, last, *parts]
            for result in results
            for i, (last, parts) in enumerate(zip(result.last, result.curves, strict=True))
        ),
    )
    table = Table(title=about)
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in ("arm", "paper") else "right")
    for row in rows:
        table.add_row(*row)
    console.print(table)
    for line in (*told, *answers):
        say(console, line)
    say(console, f"written: {folder / name}.md, .csv and .svg")


def draw(path: Path, study: Study, timesteps: int, results: list[Result]) -> bool:
    """The intervals of all arms, and the curves of those that the last questions are about."""
    if not results:
        return False
    asked = dict.fromkeys(name for pair in study.questions[-5:] for name in pair)
    curves = {r.arm.name: r.curves for r in results if r.arm.name in {*asked, "none"}}
    text = plots.training(
        [(r.arm.name, r.estimate) for r in results], curves or {}, timesteps, study.title
    )
    with whole(path) as temporary:
        write_text(temporary, text)
    return True
