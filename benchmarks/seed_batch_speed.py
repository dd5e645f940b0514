"""Speed of a seed batch against SB3 with one seed, in interleaved rounds."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecEnv

from benchmarks.against import SpeedOutput, compare_checkouts
from benchmarks.harness import Line, interleave
from benchmarks.seed_batch_speed_table import emit_speeds, read_speeds
from rn_rl.agents import SeedBatch, SeedBatchDQN
from rn_rl.agents.seed_batch.continuous import ContinuousSeedBatch
from rn_rl.agents.seed_batch.off_policy import OffPolicySeedBatch
from rn_rl.errors import UserError, unknown
from rn_rl.experiment.runs.spec import RunSpec
from rn_rl.experiment.settings.algorithms import algorithm
from rn_rl.experiment.settings.hyperparameters import import_name
from rn_rl.experiment.training.config import TrainConfig
from rn_rl.experiment.training.envpool import env_seeds, fast_envs, no_envpool
from rn_rl.experiment.training.resolve import resolve
from rn_rl.experiment.training.seed_batch import BATCHES, make_model_silently

SEED_CASES = {
    "cartpole": ("dqn", "CartPole-v1", 50),
    "lunarlander": ("dqn", "LunarLander-v3", 50),
    "redbluedoors": ("ppo", "MiniGrid-RedBlueDoors-6x6-v0", 8),
    "redbluedoors-lstm": ("ppo_lstm", "MiniGrid-RedBlueDoors-6x6-v0", 8),
}
"""Algorithm, environment and number of seeds of the cases that run by default."""

ZOO_CASES = {
    "cartpole-qrdqn": ("qrdqn", "CartPole-v1", 10),
    "cartpole-a2c": ("a2c", "CartPole-v1", 10),
    "cartpole-ppo": ("ppo", "CartPole-v1", 10),
    "cartpole-trpo": ("trpo", "CartPole-v1", 10),
    "pendulum-sac": ("sac", "Pendulum-v1", 10),
    "pendulum-td3": ("td3", "Pendulum-v1", 10),
    "pendulum-tqc": ("tqc", "Pendulum-v1", 10),
    "pendulum-crossq": ("crossq", "Pendulum-v1", 10),
}
"""Further cases by name; the paper has none of these algorithms, so they need ``--config zoo``."""

ALL_CASES = {**SEED_CASES, **ZOO_CASES}

UNIT = 200
"""Fewest timesteps of a seed in one measurement, rounded up to whole rollouts."""


@dataclass
class SeedSpeedConfig(SpeedOutput):
    """Timesteps per second of a seed batch, summed over seeds, against SB3 with one seed."""

    cases: tuple[str, ...] = tuple(SEED_CASES)
    """cartpole, lunarlander (DQN), redbluedoors (PPO), redbluedoors-lstm (RecurrentPPO); with --config
    zoo also cartpole-qrdqn, cartpole-a2c, cartpole-ppo, cartpole-trpo, pendulum-sac, pendulum-td3,
    pendulum-tqc, pendulum-crossq."""
    norms: tuple[str, ...] = ("none", "rn")
    """Normalizers of the batch; SB3 runs without one."""
    config: str = "paper"
    """Set of hyperparameters, paper or zoo; the Zoo's networks are larger."""
    seeds: int | None = None
    """Seeds in a batch; default: 50 for DQN, 8 for PPO."""
    rounds: int = 25
    """Number of interleaved rounds; a ratio is the median of the rounds' ratios."""
    seconds: float = 1
    """Approximate duration of one measurement."""
    jobs: int = 1
    """Processes, one core each, that share the seeds; SB3 gets as many threads."""
    threads: int = 1
    """Threads that step the environments of the batch."""
    compile: bool = False
    """Compile the updates."""
    profile: bool = False
    """Also print where the time goes."""
    device: str = "cpu"
    """Device of the batch's networks; SB3 stays on the CPU."""
    table: Path | None = None
    """Measure nothing, and show the lines that --json printed into this file."""
    readme: Path | None = None
    """Also write the table into this document, between the marks of --block."""
    block: str | None = None
    """Name of the marks in the document; default: seeds, of a GPU seeds-gpu."""


class Timed:
    """Repeated measurement of timesteps per second.

    Args:
        run: trains for a number of timesteps of each seed.
        seeds: number of seeds that ``run`` trains.
        unit: fewest timesteps that can be run; a measurement is a multiple of it.
        seconds: approximate duration of a measurement.
    """

    def __init__(self, run: Callable[[int], None], seeds: int, unit: int, seconds: float) -> None:
        self.run, self.seeds = run, seeds
        self.steps = unit
        while True:  # double the timesteps until they fill the time
            begin = time.perf_counter()
            self.run(self.steps)
            if time.perf_counter() - begin > seconds / 2:
                break
            self.steps *= 2

    def measure(self) -> float:
        """Measure once: timesteps per second, summed over seeds."""
        begin = time.perf_counter()
        self.run(self.steps)
        return self.seeds * self.steps / (time.perf_counter() - begin)


def prepare(case: str, norm: str, config: SeedSpeedConfig) -> tuple[RunSpec, VecEnv]:
    """Return the resolved settings of a case, and the environment of one run."""
    algo, env_id, _ = ALL_CASES[case]
    spec = resolve(
        TrainConfig(
            algo=algo,
            env=env_id,
            norm=norm,
            config=config.config,
            device=config.device,
            threads=config.threads,
            # what is measured is training, of which the Zoo's TD3 has none in 10,000 timesteps
            set=("learning_starts=200",)
            if config.config == "zoo" and algorithm(algo).replay
            else (),
        )
    )
    trial = spec.make_env()
    reason = no_envpool(spec, trial)
    if reason:
        raise UserError(f"--cases {case}: {reason}")
    return spec, trial


def all_seeds(case: str, config: SeedSpeedConfig) -> range:
    """Return the seeds of a batch."""
    return range(config.seeds or ALL_CASES[case][2])


def build(
    case: str, norm: str, config: SeedSpeedConfig, seeds: Sequence[int] | None = None
) -> tuple[SeedBatch[Any], BaseAlgorithm]:
    """Return a seed batch, and an SB3 agent with the same settings."""
    spec, trial = prepare(case, norm, config)
    seeds = all_seeds(case, config) if seeds is None else seeds
    models = []
    for seed in seeds:
        models.append(make_model_silently(replace(spec, seed=seed), trial))
    envs = fast_envs(spec, env_seeds(seeds, spec.n_envs, 0), trial)
    batch = BATCHES[spec.algo](models, envs, compile=config.compile)
    stock = replace(spec, seed=seeds[-1], device="cpu")
    return batch, make_model_silently(stock, stock_env(stock))


def stock_env(spec: RunSpec) -> VecEnv:
    """Return environments as SB3's ``make_vec_env`` makes them, without the wrappers of our runs."""
    wrapper = spec.hyperparameters.get("env_wrapper")
    return make_vec_env(
        spec.env,
        spec.n_envs,
        seed=0,
        env_kwargs=spec.hyperparameters.get("env_kwargs"),
        wrapper_class=import_name(wrapper) if wrapper else None,
    )


def go_on(batch: SeedBatch[Any]) -> Callable[[int], None]:
    """Return a function that trains a batch for more timesteps, with schedules at their end."""
    return lambda steps: batch.learn(batch.num_timesteps + steps)


@contextlib.contextmanager
def shared(case: str, norm: str, config: SeedSpeedConfig) -> Iterator[Callable[[int], None]]:
    """Like :func:`go_on`, with the seeds of the batch shared among processes."""
    seeds = all_seeds(case, config)
    context = multiprocessing.get_context("spawn")
    pipes, processes = [], []
    for part in range(config.jobs):
        mine, theirs = context.Pipe()
        arguments = (case, norm, config, seeds[part :: config.jobs], theirs)
        processes.append(context.Process(target=_part, args=arguments, daemon=True))
        processes[-1].start()
        pipes.append(mine)

    def run(steps: int) -> None:
        for pipe in pipes:
            pipe.send(steps)
        for pipe in pipes:
            pipe.recv()

    try:
        yield run
    finally:
        for pipe, process in zip(pipes, processes, strict=True):
            pipe.close()
            process.join()


def _part(
    case: str, norm: str, config: SeedSpeedConfig, seeds: Sequence[int], pipe: Connection
) -> None:
    torch.set_num_threads(1)
    run = go_on(build(case, norm, config, seeds)[0])
    with contextlib.suppress(EOFError):
        while True:
            run(pipe.recv())
            pipe.send(None)


def random_play(case: str, config: SeedSpeedConfig) -> tuple[Callable[[int], None], int]:
    """Return a function that only steps the environments of a batch, and their number of seeds."""
    spec, trial = prepare(case, "none", config)
    envs = fast_envs(spec, env_seeds(all_seeds(case, config), spec.n_envs, 0), trial)
    rng = np.random.default_rng(0)
    space: Any = envs.action_space
    continuous = isinstance(space, spaces.Box)
    size = space.shape[0] if continuous else space.n

    def run(steps: int) -> None:
        envs.reset()
        shape = (envs.num_seeds, envs.num_envs)
        for _ in range(steps // envs.num_envs):
            envs.step(rng.random((*shape, size)) if continuous else rng.integers(0, size, shape))

    return run, envs.num_seeds


def profile(batch: SeedBatch[Any], steps: int) -> dict[str, float]:
    """Return the shares of the time of environments, acting, gradients, optimizer and the rest."""
    parts: dict[str, tuple[Any, str]] = {"environments": (batch.envs, "step")}
    if isinstance(batch, ContinuousSeedBatch):
        parts["critics"], parts["actors"] = (
            (batch, "_critic_gradients"),
            (batch, "_actor_gradients"),
        )
    else:
        parts["gradients"] = (batch, "_gradients")
    parts["optimizer"] = (batch, "step_optimizer")
    if isinstance(batch, OffPolicySeedBatch):
        parts["replay memory"] = (batch.memory, "sample")
    if isinstance(batch, SeedBatchDQN):
        parts["acting"] = (batch, "_q_values")
        parts["target networks"] = (batch, "update_targets")
    else:
        parts["acting"] = (batch, "act")
    parts["commits"] = (batch.stack, "_commit")
    spent = dict.fromkeys(parts, 0.0)

    def timed(name: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            begin = time.perf_counter()
            out = function(*args, **kwargs)
            spent[name] += time.perf_counter() - begin
            return out

        return call

    before = {name: getattr(owner, method) for name, (owner, method) in parts.items()}
    for name, (owner, method) in parts.items():
        object.__setattr__(owner, method, timed(name, before[name]))
    begin = time.perf_counter()
    batch.learn(batch.num_timesteps + steps)
    whole = time.perf_counter() - begin
    for name, (owner, method) in parts.items():
        object.__setattr__(owner, method, before[name])
    spent["everything else"] = whole - sum(spent.values())
    return {name: seconds / whole for name, seconds in spent.items()}


def run_seed_speed(config: SeedSpeedConfig) -> None:
    """Measure and print.

    Raises:
        UserError: an option is out of range, or excludes another one.
    """
    for case in config.cases:
        if case not in ALL_CASES:
            raise unknown("case", case, ALL_CASES)
    if config.rounds < 1 or (config.seeds is not None and config.seeds < 1):
        raise UserError(
            f"--rounds {config.rounds} --seeds {config.seeds}: expected at least 1 each"
        )
    if config.jobs < 1 or (config.jobs > 1 and (config.profile or config.readme)):
        raise UserError(
            f"--jobs {config.jobs}: expected at least 1, and 1 with --profile or --readme"
        )
    if config.table is not None:
        emit_speeds(config, read_speeds(config.table), block=config.block)
        return
    if config.against is not None:
        if config.profile:
            raise UserError("--against --profile: expected one of them")
        compare_checkouts("seeds", config)
        return
    torch.set_num_threads(config.jobs)
    lines: list[Line] = []
    shares: dict[str, dict[str, float]] = {}
    for case in config.cases:
        with contextlib.ExitStack() as stack:
            if config.device == "cpu":
                stack.enter_context(on_cores(max(config.jobs, config.threads)))
            timed: dict[str, Timed] = {}
            for norm in config.norms:
                batch, single = build(case, norm, config)
                unit = batch.rollout_length * batch.envs.num_envs
                unit *= -(-UNIT // unit)
                run = go_on(batch)
                if config.jobs > 1:
                    run = stack.enter_context(shared(case, norm, config))
                timed[norm] = Timed(run, batch.size, unit, config.seconds)
                if config.profile:
                    shares[f"{case}/{norm}"] = profile(batch, timed[norm].steps)
                if norm == config.norms[0]:
                    if not options(config):  # options do not change these two
                        play, size = random_play(case, config)
                        timed["environments alone"] = Timed(play, size, unit, config.seconds)
                    timed["sb3/none"] = Timed(_learn(single), 1, unit, config.seconds)
            speeds = interleave({name: each.measure for name, each in timed.items()}, config.rounds)
            sizes = {name: each.seeds for name, each in timed.items()}
            told = {"device": device_name(config), "options": options(config)}
            lines.extend({**line, **told} for line in seed_speed_lines(case, sizes, speeds))
    emit_speeds(config, lines, shares, config.block)


@contextlib.contextmanager
def on_cores(count: int) -> Iterator[None]:
    """Limit this process and its children to ``count`` cores, where the system supports it."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, sorted(before)[-count:])
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _learn(model: BaseAlgorithm) -> Callable[[int], None]:
    def run(steps: int) -> None:
        model.learn(steps, reset_num_timesteps=False)

    return run


def options(config: SeedSpeedConfig) -> str:
    """Return the options that differ from the default run of a batch, as text."""
    given = {
        f"--config {config.config}": config.config != SeedSpeedConfig.config,
        "--compile": config.compile,
        f"--jobs {config.jobs}": config.jobs > 1,
    }
    return " ".join(option for option, differs in given.items() if differs)


def device_name(config: SeedSpeedConfig) -> str:
    """Return the name of the device of the batch's networks."""
    return "cpu" if config.device == "cpu" else str(torch.cuda.get_device_name(config.device))


def seed_speed_lines(case: str, sizes: dict[str, int], speeds: dict[str, np.ndarray]) -> list[Line]:
    """Return one line for each measurement and reference."""
    algo, env_id, _ = ALL_CASES[case]
    more = {"ppo_lstm": "/lstm", **{each: f"/{each}" for each, *_ in ZOO_CASES.values()}}
    named = env_id + more.get(algo, "")
    return [
        {
            "benchmark": "seeds",
            "case": f"{named}/{name}",
            "seeds": sizes[name],
            "value": float(np.median(values)),
            "unit": "steps/s",
            "ratio": float(np.median(values / speeds[reference])),
            "ratio_to": reference,
        }
        for name, values in speeds.items()
        for reference in ("sb3/none", "none")
        if reference in speeds and name != reference
    ]
