"""``rn-rl reproduce``: the paper's agents under its protocol, with the controls that it lacks.

What is compared is what the paper compares: the mean *training* return of the last 50 episodes of each
run of 2,000 episodes. CartPole and LunarLander are trained with the author's loss (mean squared error),
without clipping of gradients, and with epsilon times 0.95 an episode. Where this differs from the
published code: epsilon begins at 1 in every run, not in the first alone; acting moves no state, and the
target network takes the online network's state; LunarLander-v3, since gymnasium refuses v2.
``--as-published`` keeps the first two of these confounds. ``--huber`` is SB3's DQN as it is: Huber
loss, gradients clipped to a norm of 10, a linear epsilon, a number of timesteps. The arms are in
:mod:`rn_rl.reproduction.protocol`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from rich.console import Console

from rn_rl.errors import TrainingStopped, UserError, unknown
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.grid.grid import check, grid_of, listed, make_cells, new_grid
from rn_rl.experiment.grid.jobs import Cell, find, key_of
from rn_rl.experiment.grid.leases import alone
from rn_rl.experiment.grid.scheduler import Grid, run_grid
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.runs.records import read_episodes, read_seconds
from rn_rl.reproduction.config import ReproduceConfig
from rn_rl.reproduction.protocol import (
    PROTOCOLS,
    QUICK,
    RECORDED_SEED,
    STUDIES,
    YOKED,
    Arm,
    Protocol,
    Study,
    find_arm,
    paper_and_controls,
    plain,
)
from rn_rl.reproduction.report import (
    LAST_EPISODES,
    PARTS,
    Reproduction,
    Trained,
    in_arms,
    read_runs,
    write,
)


def run_reproduce(config: ReproduceConfig) -> None:
    """Train what is missing, then write and print the table.

    Raises:
        UserError: anything that the user can fix.
        TrainingStopped: Ctrl-C; the same command goes on.
    """
    protocol = protocol_of(config)
    study = study_of(config, protocol)
    console = Console(quiet=config.quiet)
    seeds = config.seeds or (4 if config.quick else protocol.seeds)
    shared = CompareConfig(
        algo=protocol.algo,
        env=protocol.env,
        config="paper",
        timesteps=protocol.timesteps,
        episodes=protocol.episodes,
        seeds=seeds,
        out=config.out / config.what,
        engine=config.engine,
        jobs=config.jobs,
        compile=config.compile,
        address=config.address,
        device=config.device,
        threads=config.threads,
        quiet=config.quiet,
        final_episodes=1,
        eval_freq=max(protocol.timesteps // 5, 1),
        eval_episodes=1,
    )
    check(shared)
    folder = config.results or config.out
    kept = kept_runs(config, protocol, folder) if config.add else []
    here = {(run.arm, run.seed) for run in kept}
    missing = {
        name: [seed for seed in range(seeds) if (name, seed) not in here] for name in names(study)
    }
    cells = {
        arm.name: cells_of(shared, arm, missing[arm.name])
        for arm in study.arms
        if arm.name != YOKED
    }
    keys = [cell.keys[0] for each in cells.values() for cell in each]
    if len({*names(study)}) < len(study.arms) or len({*keys}) < len(keys):
        raise UserError(f"--arms {config.arms}: two of them are the same")
    for reason in {cell.reason for each in cells.values() for cell in each if cell.reason}:
        say(console, f"one process for each seed, since {reason}")
    if missing.get(YOKED):
        yoked = Arm(YOKED, f"ln+yoked({recorded(shared, console)})")
        cells[YOKED] = cells_of(shared, yoked, missing[YOKED])
    grid = grid_of(shared, [cell for each in cells.values() for cell in each], console)
    stopped = run_grid(grid)
    trained = [run for name in names(study) for run in read_arm(grid, name, cells.get(name, []))]
    folder.mkdir(parents=True, exist_ok=True)
    with alone(folder / config.file_name):
        if config.add:  # others may have added to the tables meanwhile
            mine = {(run.arm, run.seed) for run in trained}
            kept = kept_runs(config, protocol, folder)
            kept = [run for run in kept if (run.arm, run.seed) not in mine]
        done = in_arms(whole_study(config, protocol), [*kept, *trained])
        # of a run that was stopped, what there is does not take the place of results
        if stopped:
            folder = config.out
        if done:
            found = Reproduction(config.what, protocol, study, done, config.quick)
            write(found, folder / config.file_name, console)
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
    if config.episodes is not None and config.episodes < 1:
        raise UserError(f"--episodes {config.episodes}: expected at least 1")
    protocol = PROTOCOLS[config.what]
    protocol = protocol.with_huber() if config.huber else protocol
    if protocol.episodes is None and config.episodes is not None:
        raise UserError(
            f"--episodes {config.episodes}: these runs are counted in timesteps; use --timesteps"
        )
    quick = config.quick and protocol.episodes is None
    timesteps = config.timesteps or (protocol.quick if quick else protocol.timesteps)
    episodes = config.episodes or (protocol.quick_episodes if config.quick else protocol.episodes)
    protocol = replace(protocol, timesteps=timesteps, episodes=episodes)
    return protocol.with_memory() if config.recurrent else protocol


def whole_study(config: ReproduceConfig, protocol: Protocol) -> Study:
    """With all of its arms."""
    name = config.study_name
    return paper_and_controls(protocol) if name is None else STUDIES[name](protocol)


def study_of(config: ReproduceConfig, protocol: Protocol) -> Study:
    """What was asked for: all arms of a study, or some."""
    study = whole_study(config, protocol)
    if config.arms is not None:
        arms = tuple(find_arm(study, each) for each in listed(config.arms))
        if not arms:
            raise UserError(f"--arms {config.arms!r}: expected some, separated by commas")
        study = replace(study, arms=arms)
    elif config.quick and config.study_name is None:
        study = replace(study, arms=plain(*QUICK, protocol.ramped, protocol.plain_ramp))
    return study


def kept_runs(config: ReproduceConfig, protocol: Protocol, folder: Path) -> list[Trained]:
    """What the tables have already: the one asked for, and the protocol's of what a study shares with it.

    Raises:
        UserError: one is no such table, or of runs of another length.
    """
    shared = {arm.name for arm in whole_study(config, protocol).arms if not (arm.set or arm.later)}
    kept = []
    for stem in (config.protocol_name, config.file_name):
        path = folder / f"{stem}.csv"
        for run in read_runs(path) if path.exists() else []:
            if protocol.episodes is None and run.timesteps != protocol.timesteps:
                raise UserError(
                    f"--add: {path} has runs of {run.timesteps:,} timesteps, these are of "
                    f"{protocol.timesteps:,}; expected another --results, or --timesteps {run.timesteps}"
                )
            if stem == config.file_name or run.arm in shared:
                kept.append(run)
    return kept


def names(study: Study) -> list[str]:
    """Of its arms."""
    return [arm.name for arm in study.arms]


def cells_of(shared: CompareConfig, arm: Arm, seeds: list[int]) -> list[Cell]:
    """The trainings of an arm: a cell for each stretch of seeds, and one for a first run that differs."""
    first = [seed for seed in seeds if arm.later and seed == shared.seed]
    groups = [(f"{arm.name}, first run", first, arm.set)] if first else []
    groups += [
        (arm.name, stretch, arm.set + arm.later)
        for stretch in stretches([seed for seed in seeds if seed not in first])
    ]
    cells = []
    for label, stretch, settings in groups:
        one = replace(shared, norms=arm.norm, seed=stretch[0], seeds=len(stretch), set=settings)
        quiet = Console(quiet=True)  # what it has to say is the same for most arms
        cells += [replace(cell, label=label) for cell in make_cells(one, quiet)]
    return cells


def stretches(seeds: list[int]) -> list[list[int]]:
    """Seeds that follow one another, together."""
    found: list[list[int]] = []
    for seed in seeds:
        if found and seed == found[-1][-1] + 1:
            found[-1].append(seed)
        else:
            found.append([seed])
    return found


def recorded(shared: CompareConfig, console: Console) -> Path:
    """A run of ``ln+rn`` with a seed that is none of the others', whose gains are replayed."""
    grid = new_grid(replace(shared, norms="ln+rn", seeds=1, seed=RECORDED_SEED), console)
    if run_grid(grid):
        raise TrainingStopped("stopped; the same command goes on where it stopped")
    if grid.failed:
        raise UserError(f"the run to be replayed failed: {next(iter(grid.failed.values()))}")
    spec = grid.cells[0].specs[0]
    return find(shared.out, spec)[key_of(spec)].run.folder


def read_arm(grid: Grid, name: str, cells: list[Cell]) -> list[Trained]:
    """What the runs of an arm returned while they trained."""
    runs = []
    for cell in cells:
        found = find(grid.config.out, cell.specs[0])
        for key in cell.keys:
            if key not in found or not found[key].trained:
                continue
            run, spec = found[key].run, found[key].spec
            ended, returns = read_episodes(run)
            ended, returns = ended[: spec.episodes], returns[: spec.episodes]
            took = read_seconds(run, len(spec.together) or 1)
            parts = (
                curve(ended, returns, spec.timesteps)
                if spec.episodes is None
                else curve(np.arange(len(returns)), returns, spec.episodes)
            )
            runs.append(
                Trained(
                    arm=name,
                    seed=spec.seed,
                    timesteps=spec.timesteps if spec.episodes is None else int(ended[-1]),
                    last=float(returns[-LAST_EPISODES:].mean()),
                    seconds=np.nan if took is None else took,
                    command=spec.command,
                    parts=tuple(parts),
                )
            )
    return runs


def curve(ended: np.ndarray, returns: np.ndarray, length: int) -> np.ndarray:
    """Mean return of the episodes that ended in each part of a run, ``(PARTS,)``.

    Args:
        ended: where in the run each episode ended, in timesteps or in episodes.
        returns: of each episode.
        length: of the run, in the same unit.
    """
    place = np.minimum(ended * PARTS // length, PARTS - 1).astype(int)
    count = np.bincount(place, minlength=PARTS)
    total = np.bincount(place, weights=returns, minlength=PARTS)
    return np.divide(total, count, out=np.full(PARTS, np.nan), where=count > 0)
