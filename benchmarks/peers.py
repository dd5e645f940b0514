"""Speed of a seed batch against training that is written in JAX, in interleaved rounds on one core."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.harness import Line, Output, ResultTable, emit, interleave, read_lines
from benchmarks.seed_batch_speed import SeedSpeedConfig, Timed, build, go_on, on_cores
from rn_rl.errors import UserError, unknown

PEER_CASES = {
    "dqn": ("cartpole", "paper"),
    "dqn-wide": ("cartpole", "zoo"),
    "ppo": ("cartpole-ppo", "zoo"),
}
"""Case of ``benchmarks seeds`` and its set of hyperparameters."""

PROGRAM = Path(__file__).with_name("jax_peer.py")
ONE_THREAD = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"


@dataclass
class PeersConfig(Output):
    """Timesteps per second of a seed batch and of the same training in JAX, on one core.

    Both train DQN or PPO on CartPole with the same networks, minibatches and numbers of updates. JAX has
    its environment in the compiled function; a seed batch steps envpool's, so any other environment
    works. What has no environment in JAX cannot be compared: LunarLander, MiniGrid, MuJoCo.
    """

    cases: tuple[str, ...] = tuple(PEER_CASES)
    """dqn (64-64, of the paper), dqn-wide (256-256, of the Zoo), ppo (of the Zoo)."""
    seeds: tuple[int, ...] = (1, 10, 50, 200)
    """Numbers of seeds."""
    rounds: int = 15
    """Number of interleaved rounds; a ratio is the median of the rounds' ratios."""
    seconds: float = 1
    """Approximate duration of one measurement."""
    jax: Path = Path(".venv-jax/bin/python")
    """Python with JAX; 'make .venv-jax/ready' makes it."""
    table: Path | None = None
    """Measure nothing, and show the lines that --json printed into this file."""


def settings(model: Any, seeds: int) -> dict[str, Any]:
    """Return the hyperparameters of an agent for :mod:`benchmarks.jax_peer`."""
    policy = model.policy
    shared = {
        "seeds": seeds,
        "gamma": model.gamma,
        "rate": float(model.lr_schedule(1.0)),
        "max_grad_norm": model.max_grad_norm,
        "batch_size": model.batch_size,
    }
    if hasattr(model, "n_epochs"):
        return {
            **shared,
            "algo": "ppo",
            "net_arch": [layer.out_features for layer in linear(policy.mlp_extractor.policy_net)],
            "n_envs": model.n_envs,
            "n_steps": model.n_steps,
            "n_epochs": model.n_epochs,
            "gae_lambda": model.gae_lambda,
            "clip_range": float(model.clip_range(1.0)),
            "vf_coef": model.vf_coef,
        }
    return {
        **shared,
        "algo": "dqn",
        "net_arch": [layer.out_features for layer in linear(policy.q_net.q_net)[:-1]],
        "buffer_size": model.buffer_size,
        "train_freq": model.train_freq.frequency,
        "gradient_steps": model.gradient_steps,
        "tau": model.tau,
        "exploration_steps": 5_000,
        "final_eps": model.exploration_final_eps,
    }


def linear(layers: Any) -> list[torch.nn.Linear]:
    """Return the linear layers of a network."""
    return [layer for layer in layers.modules() if isinstance(layer, torch.nn.Linear)]


@contextlib.contextmanager
def jax_training(python: Path, given: dict[str, Any], unit: int) -> Iterator[Callable[[int], None]]:
    """Start :mod:`benchmarks.jax_peer`, and return a function that trains for timesteps of each seed.

    Args:
        python: interpreter with JAX.
        given: result of :func:`settings`.
        unit: timesteps of a cycle.
    """
    process = subprocess.Popen(
        [str(python), str(PROGRAM), json.dumps(given)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "XLA_FLAGS": ONE_THREAD, "PYTHONPATH": ""},
    )
    orders, answers = process.stdin, process.stdout
    assert orders is not None and answers is not None

    def run(steps: int) -> None:
        orders.write(f"{steps // unit}\n")
        orders.flush()
        if not answers.readline():
            raise UserError(f"--jax {python}: training in JAX ended, see above")

    try:
        yield run
    finally:
        with contextlib.suppress(BrokenPipeError):
            orders.close()
        answers.close()
        process.wait()


def run_peers(config: PeersConfig) -> None:
    """Measure and print.

    Raises:
        UserError: an option is out of range, or there is no JAX.
    """
    if config.table is not None:
        show(config, read_lines(config.table))
        return
    for case in config.cases:
        if case not in PEER_CASES:
            raise unknown("case", case, PEER_CASES)
    if config.rounds < 1 or min(config.seeds, default=0) < 1:
        raise UserError(
            f"--rounds {config.rounds} --seeds {config.seeds}: expected at least 1 each"
        )
    check_jax(config.jax)
    torch.set_num_threads(1)
    lines = [
        line
        for case in config.cases
        for seeds in config.seeds
        for line in measure(case, seeds, config)
    ]
    show(config, lines)


def show(config: PeersConfig, lines: list[Line]) -> None:
    """Print what was measured, and write it into the document of ``--readme``."""
    rows = [
        [
            line["case"],
            str(line["seeds"]),
            f"{line['value']:,.0f}",
            f"{line['peer']:,.0f}",
            f"{line['ratio']:.2f}",
        ]
        for line in lines
    ]
    columns = ["case", "seeds", "seed batch, steps/s", "JAX, steps/s", "ratio"]
    title = "seed batch against JAX on one core: medians of interleaved rounds"
    emit(config, lines, ResultTable(title, columns, rows), block="peers")


def check_jax(python: Path) -> None:
    """Raise :class:`UserError` unless an interpreter can import JAX."""
    try:
        found = subprocess.run([str(python), "-c", "import jax"], capture_output=True, check=False)
        works = found.returncode == 0
    except OSError:
        works = False
    if not works:
        raise UserError(
            f"--jax {python}: expected a Python that imports jax; 'make .venv-jax/ready' makes one"
        )


def measure(case: str, seeds: int, config: PeersConfig) -> list[Line]:
    """Measure one case with one number of seeds."""
    name, which = PEER_CASES[case]
    with on_cores(1):
        batch, _ = build(name, "none", SeedSpeedConfig(config=which, seeds=seeds))
        unit = batch.rollout_length * batch.envs.num_envs
        with jax_training(config.jax, settings(batch.model, seeds), unit) as peer:
            peer(unit)  # compiles
            timed = {
                "seed batch": Timed(go_on(batch), seeds, unit, config.seconds),
                "jax": Timed(peer, seeds, unit, config.seconds),
            }
            speeds = interleave({n: each.measure for n, each in timed.items()}, config.rounds)
        batch.envs.close()
    return [
        {
            "benchmark": "peers",
            "case": case,
            "seeds": seeds,
            "value": float(np.median(speeds["seed batch"])),
            "peer": float(np.median(speeds["jax"])),
            "unit": "steps/s",
            "ratio": float(np.median(speeds["seed batch"] / speeds["jax"])),
            "ratio_to": "jax",
        }
    ]
