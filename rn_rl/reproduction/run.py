"""``rn-rl reproduce``: the paper's agents under its protocol, with the controls that it lacks.

Runs are compared, as in the paper, by the mean *training* return of their last 50 episodes of 2,000.
CartPole and LunarLander are trained with the author's loss (mean squared error), without clipping of
gradients, and with epsilon times 0.95 an episode. Differences from the published code: epsilon begins at
1 in every run, not in the first alone; acting moves no state, and the target network takes the online
network's state; LunarLander-v3, since gymnasium refuses v2. ``--as-published`` has the published code's
epsilon, acting and target. ``--huber`` is SB3's own DQN: Huber loss, gradients clipped to a norm of 10, a
linear epsilon, a number of timesteps; its target always takes the state. The arms are in
:mod:`rn_rl.reproduction.protocol`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from rn_rl.errors import TrainingStopped, UserError, unknown
from rn_rl.experiment.grid.cells import Cell
from rn_rl.experiment.grid.config import CompareConfig
from rn_rl.experiment.grid.disk import find_cell_runs
from rn_rl.experiment.grid.grid import check_options, grid_of, make_cells, new_grid
from rn_rl.experiment.grid.leases import exclusive
from rn_rl.experiment.grid.scheduler import run_grid
from rn_rl.experiment.runs.console import say
from rn_rl.experiment.training.config import check_seeds
from rn_rl.normalization import split_names
from rn_rl.reproduction.config import ReproduceConfig
from rn_rl.reproduction.protocol import (
    DONOR_SEED,
    DONORS,
    PROTOCOLS,
    QUICK,
    STUDIES,
    Arm,
    Protocol,
    Study,
    find_arms,
    paper_and_controls,
    plain,
)
from rn_rl.reproduction.report import Reproduction, length_of, write_reproduction
from rn_rl.reproduction.results import Trained, in_arms, read_runs
from rn_rl.reproduction.trained import read_arm


def run_reproduce(config: ReproduceConfig) -> None:
    """Train the missing runs, then write and print the table.

    Raises:
        UserError: an option is wrong, or trainings failed.
        TrainingStopped: Ctrl-C; the same command continues.
    """
    protocol = protocol_of(config)
    study = study_of(config, protocol)
    console = Console(quiet=config.quiet)
    seeds = seeds_of(config, protocol, study)
    shared = CompareConfig(
        algo=protocol.algo,
        env=protocol.env,
        config="paper",
        timesteps=protocol.timesteps,
        episodes=protocol.episodes,
        seed=seeds.start,
        seeds=len(seeds),
        out=config.out / config.what,
        engine=config.engine,
        jobs=config.jobs,
        compile=config.compile,
        address=config.address,
        device=config.device,
        threads=config.threads,
        quiet=config.quiet,
        final_episodes=study.final_episodes,
        eval_freq=max(protocol.timesteps // study.evaluations, 1),
        eval_episodes=study.eval_episodes,
    )
    check_options(shared)
    folder = config.results or config.out
    kept = kept_runs(config, protocol, folder) if config.add else []
    here = {(run.arm, run.seed) for run in kept}
    missing = {
        name: [seed for seed in seeds if (name, seed) not in here] for name in arm_names(study)
    }
    cells = {
        arm.name: cells_of(shared, arm, missing[arm.name])
        for arm in study.arms
        if arm.donor is None
    }
    keys = [cell.keys[0] for each in cells.values() for cell in each]
    if len({*arm_names(study)}) < len(study.arms) or len({*keys}) < len(keys):
        raise UserError(f"--arms {config.arms}: two of them are the same")
    for reason in {cell.reason for each in cells.values() for cell in each if cell.reason}:
        say(console, f"one process for each seed, since {reason}")
    for arm in study.arms:
        if arm.donor is not None and missing[arm.name]:
            planned = max(len(study.seeds or range(protocol.seeds)), len(seeds))
            chosen = {seed: (seed - seeds.start) * DONORS // planned for seed in seeds}
            donors = train_donors(shared, arm.donor, 1 + chosen[seeds[-1]], console)
            cells[arm.name] = yoked_cells(shared, arm, donors, chosen, missing[arm.name])
    grid = grid_of(shared, [cell for each in cells.values() for cell in each], console)
    stopped = run_grid(grid)
    trained = [
        run
        for name in arm_names(study)
        for run in read_arm(grid, name, cells.get(name, []), protocol, study)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    with exclusive(folder / config.file_name):
        if config.add:  # other processes may have added runs meanwhile
            mine = {(run.arm, run.seed) for run in trained}
            kept = kept_runs(config, protocol, folder)
            kept = [run for run in kept if (run.arm, run.seed) not in mine]
        done = in_arms(whole_study(config, protocol), [*kept, *trained])
        # incomplete results do not replace those in --results
        if stopped:
            folder = config.out
        if done:
            found = Reproduction(config.what, protocol, study, done, config.quick)
            write_reproduction(found, folder / config.file_name, console)
    if stopped:
        raise TrainingStopped("stopped; the same command goes on where it stopped")
    if grid.failed:
        key, reason = next(iter(grid.failed.items()))
        raise UserError(
            f"{len(grid.failed)} trainings failed, such as {grid.name_of(key)}: {reason}"
        )


def protocol_of(config: ReproduceConfig) -> Protocol:
    """Return the task with the length of its runs.

    Raises:
        UserError: an option is out of range, or does not apply to the task.
    """
    if config.what not in PROTOCOLS:
        raise unknown("task", config.what, PROTOCOLS)
    if config.seeds is not None:
        check_seeds(config.seeds)
    if config.timesteps is not None and config.timesteps < 1:
        raise UserError(f"--timesteps {config.timesteps}: expected at least 1")
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
    if config.quick and protocol.whole is not None:
        protocol = replace(protocol, whole=replace(protocol.whole, episodes=protocol.whole.quick))
    return protocol.with_memory() if config.recurrent else protocol


def whole_study(config: ReproduceConfig, protocol: Protocol) -> Study:
    """Return the study that was chosen, with all of its arms."""
    name = config.study_name
    return paper_and_controls(protocol) if name is None else STUDIES[name](protocol)


def study_of(config: ReproduceConfig, protocol: Protocol) -> Study:
    """Return the study with the arms that were chosen.

    Raises:
        UserError: an arm is unknown.
    """
    study = whole_study(config, protocol)
    if config.arms is not None:
        names = split_names(config.arms)
        arms = tuple(arm for each in names for arm in find_arms(study, each))
        if not arms:
            raise UserError(f"--arms {config.arms!r}: expected some, separated by commas")
        study = replace(study, arms=arms)
    elif config.quick and config.study_name is None:
        study = replace(study, arms=plain(*QUICK, protocol.ramped, protocol.plain_ramp))
    return study


def seeds_of(config: ReproduceConfig, protocol: Protocol, study: Study) -> range:
    """Return the seeds of each arm."""
    chosen = study.seeds or range(4 if config.quick else protocol.seeds)
    count = config.seeds or (min(4, len(chosen)) if config.quick else len(chosen))
    return range(chosen.start, chosen.start + count)


def kept_runs(config: ReproduceConfig, protocol: Protocol, folder: Path) -> list[Trained]:
    """Read the runs of the existing tables: the study's own, and the arms it shares with the protocol.

    A study that compares other measures than the protocol shares none of its runs, which lack them.

    Raises:
        UserError: a file is no such table, or its runs have another length.
    """
    study = whole_study(config, protocol)
    shared = {arm.name for arm in study.arms if not (arm.set or arm.later)}
    if study.measures != paper_and_controls(protocol).measures:
        shared = set()
    kept = []
    for stem in dict.fromkeys((config.protocol_name, config.file_name)):
        path = folder / f"{stem}.csv"
        for run in read_runs(path) if path.exists() else []:
            theirs = replace(protocol, timesteps=run.timesteps, episodes=run.episodes)
            if length_of(theirs) != length_of(protocol):
                raise UserError(
                    f"--add: {path} has runs of {length_of(theirs)}, these are of "
                    f"{length_of(protocol)}; expected another --results, or the same --episodes or "
                    "--timesteps"
                )
            if stem == config.file_name or run.arm in shared:
                kept.append(run)
    return kept


def arm_names(study: Study) -> list[str]:
    """Return the names of a study's arms."""
    return [arm.name for arm in study.arms]


def cells_of(shared: CompareConfig, arm: Arm, seeds: list[int]) -> list[Cell]:
    """Return an arm's trainings: a cell for each range of seeds, and for a different first run."""
    first = [seed for seed in seeds if arm.later and seed == shared.seed]
    groups = [(f"{arm.name}, first run", first, arm.set)] if first else []
    groups += [
        (arm.name, block, arm.set + arm.later)
        for block in ranges([seed for seed in seeds if seed not in first])
    ]
    cells = []
    for label, block, settings in groups:
        one = replace(shared, norms=arm.norm, seed=block[0], seeds=len(block), set=settings)
        quiet = Console(quiet=True)  # its messages are the same for most arms
        cells += [replace(cell, label=label) for cell in make_cells(one, quiet)]
    return cells


def ranges(seeds: list[int]) -> list[list[int]]:
    """Split ascending seeds into ranges of consecutive ones."""
    found: list[list[int]] = []
    for seed in seeds:
        if found and seed == found[-1][-1] + 1:
            found[-1].append(seed)
        else:
            found.append([seed])
    return found


def train_donors(shared: CompareConfig, norm: str, count: int, console: Console) -> list[Path]:
    """Train the runs whose gains a yoked arm replays, and return their folders.

    Args:
        shared: options of all runs.
        norm: normalizer of the donors.
        count: number of donors.
        console: terminal.
    """
    grid = new_grid(replace(shared, norms=norm, seeds=count, seed=DONOR_SEED), console)
    if run_grid(grid):
        raise TrainingStopped("stopped; the same command goes on where it stopped")
    if grid.failed:
        raise UserError(f"a run to be replayed failed: {next(iter(grid.failed.values()))}")
    [cell] = grid.cells
    found = find_cell_runs(shared.out, cell.specs[0])
    return [found[key].run.folder for key in cell.keys]


def yoked_cells(
    shared: CompareConfig, arm: Arm, donors: list[Path], chosen: dict[int, int], seeds: list[int]
) -> list[Cell]:
    """Return the trainings of an arm that replays the gains of donors; see :data:`.DONORS`.

    Args:
        shared: options of all runs.
        arm: the arm.
        donors: folders of the runs whose gains are replayed.
        chosen: number of the donor of each seed.
        seeds: seeds to train.
    """
    by_donor: dict[Path, list[int]] = {}
    for seed in seeds:
        by_donor.setdefault(donors[chosen[seed]], []).append(seed)
    return [
        cell
        for donor, block in by_donor.items()
        for cell in cells_of(
            shared, replace(arm, norm=f"{arm.norm}({donor.as_posix()})", donor=None), block
        )
    ]
