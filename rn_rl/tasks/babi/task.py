"""Task ``babi``: questions about sizes (18) and paths (19), answered by a gated graph network."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import torch
from torch.nn import functional as F  # noqa: N812

from rn_rl.errors import UserError
from rn_rl.tasks.babi.baselines import BASELINES, baseline
from rn_rl.tasks.babi.examples import Examples, examples
from rn_rl.tasks.babi.files import describe, find_files, read_stories
from rn_rl.tasks.babi.network import GatedGraphNetwork
from rn_rl.tasks.babi.stories import (
    CLASSES,
    EDGE_TYPES,
    PATH,
    SIZE,
    Story,
    draw_stories,
    harder,
    label_of_bigger,
)
from rn_rl.tasks.cancellation import cancellation_expected
from rn_rl.tasks.seeding import batches, generator, seed_torch
from rn_rl.tasks.task import Metric, Result, Task, phases, split_arm

if TYPE_CHECKING:
    from rn_rl.tasks.results import Results

STEPS = 5
"""Steps of the network for task 18, and the most of any task."""

READ_AFTER = {SIZE: (STEPS,), PATH: (1, 2)}
"""Steps after which the labels are read, as published."""

TEST_STORIES = 500
BATCH = 10
LEARNING_RATE = 1e-3


@dataclass(frozen=True)
class Setting:
    """Fields of the name of a setting, such as ``18-hard`` or ``19-1000``."""

    task: int
    hard: bool
    stories: int

    @classmethod
    def of(cls, name: str, toy: bool = False) -> Setting:
        """Parse ``TASK[-hard][-STORIES]``; 100 stories by default, 10 in a toy."""
        task, *rest = name.split("-")
        stories = int(rest[-1]) if rest and rest[-1].isdecimal() else 100
        return cls(int(task), "hard" in rest, 10 if toy else stories)

    @property
    def epochs(self) -> int:
        """Epochs of training: 25 for sizes, 50 for paths, a fifth of that for 1,000 stories."""
        epochs = 25 if self.task == SIZE else 50
        return epochs if self.stories <= 100 else epochs // 5


class Babi(Task):
    """bAbI tasks 18 and 19 by a gated graph network, with answers by simple means beside it."""

    name = "babi"
    title = "Questions about sizes and paths (bAbI 18 and 19)"
    arms = ("none", "ln", "rn", "ln+rn", "logt", "rn+ln", *BASELINES)
    settings = ("18", "18-hard", "19")
    known_settings = ("18", "18-hard", "19", "18-1000", "18-hard-1000", "19-1000")
    extra_arms: ClassVar = BASELINES
    toy_arms = ("none", "ln", "rn", "degree")
    metrics = (
        Metric("accuracy", "accuracy per label", "%", lower_is_better=False),
        Metric("whole", "whole answer", "%", lower_is_better=False),
        Metric("mean", "mean over epochs", "%", lower_is_better=False),
    )

    def protocol(self, data: Path | None, toy: bool) -> str:
        source = "generated stories" if data is None else describe(data)
        tests = f"{TEST_STORIES} other" if data is None else f"at most {TEST_STORIES} test"
        epochs = (
            "1 epoch of 10 stories"
            if toy
            else "25 epochs of task 18, 50 of 19 (a fifth for 1,000 stories)"
        )
        return (
            f"gated graph network, states of 10, {STEPS} steps (task 19: labels read after 1 and 2), "
            f"{source}, {epochs}, Adam {LEARNING_RATE}, batches of {BATCH} questions, "
            f"questions of {tests} stories"
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
        chosen = Setting.of(setting, toy)
        train_stories, test_stories = load(chosen, seed, data, toy)
        if arm in BASELINES:
            right = baseline(arm, train_stories, test_stories, chosen.task, seed)
            share, whole = (100 * float(values.mean()) for values in (right, right.prod(1)))
            return Result({"accuracy": share, "whole": whole, "mean": share})
        train = examples(train_stories, chosen.task)
        test = examples(test_stories, chosen.task)
        seed_torch(seed)
        types, classes = EDGE_TYPES[chosen.task], CLASSES[chosen.task]
        with cancellation_expected():
            net = GatedGraphNetwork(arm, types, classes, READ_AFTER[chosen.task])
        optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
        order = generator(seed, "order")
        curve = []
        with phases(net, commit_every):
            for _ in range(1 if toy else chosen.epochs):
                net.train()
                for index in batches(order, len(train), BATCH):
                    batch = train[index]
                    optimizer.zero_grad()
                    F.cross_entropy(net(batch).flatten(0, 1), batch.labels.flatten()).backward()
                    optimizer.step()
                accuracy, whole = evaluate(net, test)
                curve.append(accuracy)
        return Result(
            {"accuracy": accuracy, "whole": whole, "mean": float(np.mean(curve))},
            {"accuracy": curve, "gain": net.gains()},
        )

    def check_arm(self, name: str) -> str:
        spelled = super().check_arm(name)
        text, steps = split_arm(spelled)
        if text in BASELINES and steps is not None:
            raise UserError(f"arm {name!r}: {text} has no phases to commit; expected {text}")
        return spelled

    def figures(self, results: Results) -> dict[str, str]:
        # needs matplotlib, which training does not
        from rn_rl.tasks.babi.figures import curves

        return {"": curves(results)}

    def finding(self, results: Results) -> str:
        from rn_rl.tasks.wording import means, versus

        parts = []
        for setting in results.settings:
            networks = [arm for arm in results.arms if arm not in BASELINES]
            mean = {arm: results.estimate(arm, setting, "accuracy").value for arm in results.arms}
            counted = networks and not math.isnan(mean.get("degree", math.nan))
            if counted:
                best = max(networks, key=lambda arm: mean[arm])
                parts.append(
                    f"Task {setting}: counting facts answers {mean['degree']:.1f}%, the best network "
                    f"({best}) {mean[best]:.1f}%"
                )
            told = [
                versus(results, arm, other, setting, self.metrics[0])
                for arm, other in (("rn", "ln"), ("rn", "logt"), ("rn+ln", "ln"))
            ]
            if any(told):
                parts.append(f"On {setting}, {', '.join(text for text in told if text)}")
            elif not counted:
                parts.append(f"On {setting}, {means(results, setting, self.metrics[0])}")
        return f"{'. '.join(parts)}."


@torch.no_grad()
def evaluate(net: GatedGraphNetwork, test: Examples) -> tuple[float, float]:
    """Measure the shares of right labels and of wholly right answers in %; ends a phase by ``eval()``."""
    net.eval()
    right = (net(test).argmax(-1) == test.labels).double()
    return 100 * right.mean().item(), 100 * right.prod(1).mean().item()


def load(
    setting: Setting, seed: int, data: Path | None, toy: bool
) -> tuple[list[Story], list[Story]]:
    """Return the stories of a setting and seed, for training and for testing.

    Raises:
        UserError: the files cannot be read, or have no harder questions.
    """
    if data is None:
        tests = 20 if toy else TEST_STORIES
        return (
            draw_stories(setting.task, setting.stories, generator(seed, "train"), setting.hard),
            draw_stories(setting.task, tests, generator(seed, "test"), setting.hard),
        )
    files = find_files(data, setting.task, seed)
    train, test = (read_stories(path, setting.task) for path in files)
    if setting.hard:
        bigger, rng = label_of_bigger(train), generator(seed, "hard")
        train, test = (harder(stories, bigger, rng) for stories in (train, test))
        if not train or not test:
            raise UserError(
                f"setting 18-hard: {files[0]} or {files[1]} has no question that counting facts answers "
                "wrongly; expected some"
            )
    return train[: setting.stories], test[: 20 if toy else TEST_STORIES]
