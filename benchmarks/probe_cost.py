"""Time of a DQN update with a probe, as a ratio to that without one, in interleaved rounds."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import DQN
from stable_baselines3.common.logger import Logger
from torch import nn

from benchmarks.harness import Line, Output, ResultTable, emit, interleave
from rn_rl.agents.probe import TARGET_MEASURES
from rn_rl.errors import UserError
from rn_rl.policies import NormDQNPolicy
from rn_rl.probe import CodeLengthProbe, ProbeLog

BATCH = 64


@dataclass
class ProbeCostConfig(Output):
    """Time updates with probes of the online and the target network: CPU time, one thread.

    They have the measures of :class:`rn_rl.agents.ProbeCallback`, but for ``step`` and ``churn``.

    A phase is one update, the least that a phase can be, so a probe costs at most this.
    """

    every: tuple[int, ...] = (1, 10, 20)
    """Phases of which one is observed."""
    norms: tuple[str, ...] = ("none", "rn")
    """Normalizers of DQN on CartPole."""
    rounds: int = 15
    """Rounds; a ratio is the median of the rounds' ratios."""
    updates: int = 320
    """Updates of each case in a round. A probe sums rows of 16 phases at once, so few would miss that."""


def run_probe_cost(config: ProbeCostConfig) -> None:
    """Measure and print.

    Raises:
        UserError: an option is out of range.
    """
    if min(config.rounds, config.updates, *config.every) < 1:
        raise UserError("--rounds, --updates and --every: expected at least 1")
    torch.set_num_threads(1)
    lines: list[Line] = []
    rows = []
    cases: dict[str, Callable[[], Case]] = {
        f"dqn {norm}": partial(dqn_case, norm) for norm in config.norms
    }
    cases["784-128-128-10"] = supervised_case
    for name, make in cases.items():
        labels = {"plain": None, **{f"every={n}": n for n in config.every}}
        timed = {
            label: timed_updates(make(), every, config.updates) for label, every in labels.items()
        }
        found = interleave(timed, config.rounds)
        base = found.pop("plain")
        for label, seconds in found.items():
            ratio = float(np.median(seconds / base))
            update = 1000 * float(np.median(base)) / config.updates
            rows.append([name, label, f"{update:.2f}", f"{ratio - 1:+.1%}"])
            case = f"{name}/{label}"
            lines.append({"benchmark": "probe", "case": case, "value": ratio, "unit": "ratio"})
    columns = ["case", "probe", "update, ms", "added"]
    title = f"time that a probe adds to an update, median of {config.rounds} rounds"
    emit(config, lines, ResultTable(title, columns, rows), block="probe")


Case = tuple[list[tuple[nn.Module, str]], Callable[[], None]]
"""Networks with the mode in which each is observed, and a function that takes one gradient step."""


def timed_updates(case: Case, every: int | None, updates: int) -> Callable[[], float]:
    """Return a function that measures the CPU seconds of so many updates.

    Args:
        case: networks and update.
        every: phases of which one is observed; None for no probe.
        updates: number of updates.
    """
    networks, update = case
    chosen = ("code", "moments", "dead", "rank")
    measures = {"train": chosen, "eval": [name for name in chosen if name in TARGET_MEASURES]}
    probes = [
        CodeLengthProbe(network, every=every, modes=(mode,), measures=measures[mode])
        for network, mode in networks
        if every is not None
    ]

    def measure() -> float:
        log = ProbeLog()
        begin = time.process_time()
        for done in range(updates):
            update()
            if any([probe.end_phase() for probe in probes]):
                log.append(done, *(probe.readings() for probe in probes))
        log.arrays()  # computes what waits for that
        return time.process_time() - begin

    measure()
    return measure


def dqn_case(norm: str) -> Case:
    """SB3's DQN on CartPole with its replay buffer filled by random numbers."""
    kwargs: dict[str, Any] = {"norm": norm}
    env = gym.make("CartPole-v1")
    model = DQN(NormDQNPolicy, env, policy_kwargs=kwargs, buffer_size=1000, seed=0, device="cpu")
    model.set_logger(Logger(None, []))
    rng = np.random.default_rng(0)
    assert model.replay_buffer is not None
    for _ in range(1000):
        first, second = rng.normal(size=(2, 1, 4)).astype(np.float32)
        action, reward, done = rng.integers(0, 2, (1, 1)), np.ones(1), np.zeros(1)
        model.replay_buffer.add(first, second, action, reward, done, [{}])
    networks: list[tuple[nn.Module, str]] = [(model.q_net, "train"), (model.q_net_target, "eval")]
    return networks, partial(model.train, gradient_steps=1, batch_size=BATCH)


def supervised_case() -> Case:
    """Adam on a network of 784-128-128-10 units."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 128), nn.ReLU(), nn.Linear(128, 10)
    )
    optimizer = torch.optim.Adam(net.parameters())
    x, y = torch.randn(BATCH, 784), torch.randint(10, (BATCH,))

    def update() -> None:
        loss = nn.functional.cross_entropy(net(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return [(net, "train")], update
