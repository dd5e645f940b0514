"""Task ``handwriting``: predict pen strokes point by point."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rn_rl.errors import UserError
from rn_rl.tasks.handwriting.files import read_lines
from rn_rl.tasks.handwriting.network import HandwritingNetwork
from rn_rl.tasks.handwriting.strokes import scaled, write_lines
from rn_rl.tasks.seeding import batches, generator, seed_torch
from rn_rl.tasks.task import Metric, Result, Task, phases

if TYPE_CHECKING:
    from rn_rl.tasks.results import Results

POINTS = 120
TRAIN, TEST = 400, 200
"""Lines for training and testing."""

EPOCHS, BATCH = 25, 25
LEARNING_RATE = 5e-3
LARGEST_NORM = 5.0
"""Norm to which gradients are clipped."""

TEMPERATURES = (0.1, 0.5, 1.0)
DRAWN = 3
"""Lines that are sampled at each temperature, for the figure."""


class Handwriting(Task):
    """Strokes of a pen, predicted by an LSTM with a mixture density."""

    name = "handwriting"
    title = "Handwriting, point by point"
    arms = ("none", "ln", "rn", "ln+rn", "logt")
    settings = ("strokes",)
    metrics = (
        Metric("nats", "test nats per point", "nats"),
        Metric("pen", "pen-up error", "%"),
    )

    def protocol(self, data: Path | None, toy: bool) -> str:
        load(0, data, toy)
        points, count, tests = sizes(toy)
        if data is None:
            source = f"lines of random words, {count} sequences for training"
        else:
            found = read_lines(data, points)
            place = "of other files" if found.files.max() else "of the same file"
            source = (
                f"strokes ({found.source}), at most {count} of them for training, and a fifth, at most "
                f"{tests}, {place} for testing"
            )
        return (
            f"LSTM of 64, 10 Gaussians, {points} points of {source}, {1 if toy else EPOCHS} epochs, "
            f"batches of {BATCH}, Adam {LEARNING_RATE}, gradients clipped to {LARGEST_NORM}"
        )

    def train_one(
        self,
        arm: str,
        setting: str,
        seed: int,
        *,
        data: Path | None,
        toy: bool,
        commit_every: int | None,
    ) -> Result:
        train, test = load(seed, data, toy)
        seed_torch(seed)
        net = HandwritingNetwork(arm, train.shape[1])
        optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
        order = generator(seed, "order")
        nats, pens = [], []
        with phases(net, commit_every):
            for _ in range(1 if toy else EPOCHS):
                net.train()
                for index in batches(order, len(train), BATCH):
                    optimizer.zero_grad()
                    net(train[index]).negative_log_likelihood(train[index]).mean().backward()
                    torch.nn.utils.clip_grad_norm_(net.parameters(), LARGEST_NORM)
                    optimizer.step()
                of_epoch = evaluate(net, test)
                nats.append(of_epoch[0])
                pens.append(of_epoch[1])
        return Result(
            {"nats": nats[-1], "pen": pens[-1]},
            {
                "nats": nats,
                "pen": pens,
                "gain": net.cell.norm.gains(),
                "written": written(net, seed),
                "true": test[:DRAWN].double().round(decimals=3).tolist(),
            },
        )

    def figures(self, results: Results) -> dict[str, str]:
        # needs matplotlib, which training does not
        from rn_rl.tasks.handwriting.figures import curves, lines

        return {"": curves(results), "lines": lines(results, TEMPERATURES)}

    def finding(self, results: Results) -> str:
        from rn_rl.tasks.wording import joined, means, versus

        setting, metric = results.settings[0], self.metrics[0]
        pairs = [("ln", "none"), ("rn", "ln"), ("rn", "logt"), ("rn", "none"), ("ln+rn", "ln")]
        told = joined([versus(results, arm, other, setting, metric) for arm, other in pairs])
        return f"Test nats per point: {told or means(results, setting, metric)}."


@torch.no_grad()
def evaluate(net: HandwritingNetwork, test: Tensor) -> tuple[float, float]:
    """Measure nats per point and the share of wrong guesses of the pen in %; ``eval()`` ends a phase."""
    net.eval()
    mixture = net(test)
    wrong = (mixture.pen > 0) != (test[..., 2] > 0.5)
    return mixture.negative_log_likelihood(test).mean().item(), 100 * wrong.double().mean().item()


@torch.no_grad()
def written(net: HandwritingNetwork, seed: int) -> list[list[list[list[float]]]]:
    """Write lines at each temperature: nested lists ``(temperatures, lines, points, 3)``."""
    net.eval()
    drawn = []
    for temperature in TEMPERATURES:
        source = torch.Generator().manual_seed(seed)
        lines = net.sample(DRAWN, temperature, source).nan_to_num(0, 0, 0)
        drawn.append(lines.double().round(decimals=3).tolist())
    return drawn


def sizes(toy: bool) -> tuple[int, int, int]:
    """Return the points of a sequence, and the most sequences for training and for testing."""
    return (6, 8, 4) if toy else (POINTS, TRAIN, TEST)


def load(seed: int, data: Path | None, toy: bool) -> tuple[Tensor, Tensor]:
    """Return sequences for training and testing, offsets in units of their deviation in training.

    Raises:
        UserError: files cannot be read, or hold fewer than 10 sequences.
    """
    points, count, tests = sizes(toy)
    rng = generator(seed, "lines")
    if data is None:
        lines = write_lines(count + tests, points, rng)
        test, train = lines[:tests], lines[tests:]
    else:
        found = read_lines(data, points)
        if len(found.files) < 10:
            raise UserError(f"--data {data}: {len(found.files)} sequences, expected at least 10")
        tests = min(tests, len(found.files) // 5)
        of_test, of_train = split(found.files, tests, rng)
        test, train = found.sequences[of_test[:tests]], found.sequences[of_train[:count]]
    scale = float(np.std(train[:, :, :2])) or 1.0
    of_training, of_testing = (torch.from_numpy(scaled(part, scale)) for part in (train, test))
    return of_training, of_testing


def split(files: np.ndarray, tests: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw sequences for testing and for training, of different files if there are several.

    Args:
        files: number of the file of each sequence, from 0 without gaps.
        tests: draw files for testing until they have so many sequences; one file is left for training.
        rng: source of random numbers.

    Returns:
        Indices of both parts, each in random order.
    """
    order = rng.permutation(len(files))
    if files.max() == 0:
        return order[:tests], order[tests:]
    drawn = rng.permutation(files.max() + 1)
    enough = np.cumsum(np.bincount(files)[drawn]) >= tests
    count = min(int(enough.argmax()) + 1, len(drawn) - 1)
    tested = np.isin(files[order], drawn[:count])
    return order[tested], order[~tested]
