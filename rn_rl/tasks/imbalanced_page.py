"""Published errors, figures and finding of imbalanced classification."""

from __future__ import annotations

from typing import Any

import numpy as np

from rn_rl.analysis.drawing import INK, Palette, by_itself, legend, picture, styled, svg
from rn_rl.tasks.imbalanced import TEST_BATCHES, YOKED
from rn_rl.tasks.results import Results
from rn_rl.tasks.task import split_arm
from rn_rl.tasks.wording import joined, versus

PUBLISHED = {
    "none": "4.80±.15 14.48±.28 23.74±.28 32.80±.22 42.01±.45 51.99±.32 60.86±.19 70.81±.40 80.67±.36 "
    "90.12±.25",
    "bn": "2.77±.05 12.54±.30 21.77±.25 30.75±.30 40.67±.45 49.96±.46 59.08±.70 67.25±.54 76.55±1.41 "
    "80.54±2.38",
    "ln": "3.09±.11 8.78±.84 14.22±.65 20.62±1.46 26.87±.97 34.23±2.08 36.87±.64 41.73±2.74 41.20±1.13 "
    "41.26±1.30",
    "wn": "4.96±.11 14.51±.44 23.72±.39 32.99±.28 41.95±.46 52.10±.30 60.97±.18 70.87±.39 80.76±.36 "
    "90.12±.25",
    "rn-paper": "4.91±.39 8.61±.86 14.61±.58 19.49±.45 23.35±1.22 33.84±1.69 41.47±1.91 60.46±2.88 "
    "81.96±.59 90.11±.24",
    "rln-paper": "5.01±.29 9.47±1.21 12.32±.56 22.17±.94 23.76±1.56 32.23±1.66 43.06±3.56 57.30±6.33 "
    "88.36±1.77 89.55±.32",
    "ln+rn-paper": "4.59±.29 8.41±1.16 12.46±.87 17.25±1.47 25.65±1.91 28.71±1.97 33.14±2.49 36.08±2.09 "
    "44.54±1.74 82.29±4.44",
    "sn": "7.00±.18 12.27±1.30 16.12±1.39 24.91±1.61 31.07±1.41 41.87±1.78 52.88±2.09 68.44±1.42 "
    "83.34±1.85 82.41±2.30",
}
"""Error in percent, mean ± standard error of 5 seeds, for n = 0 to 9, of all test images in one batch."""

SHOWN = ("none", "bn", "ln", "rn", "logt", "ln+rn", "ln+logt", "sn", "rn-paper", "ln+rn-paper")
"""Arms in the figure of errors, if they were run."""


def published(setting: str) -> dict[str, dict[str, str]]:
    """Return the paper's errors of a setting, which it measured in one test batch of all images."""
    n = int(setting.removeprefix("n="))
    return {
        arm: {"error_all": row.split()[n].replace("±", " ± ")} for arm, row in PUBLISHED.items()
    }


def figures(results: Results) -> dict[str, str]:
    """Draw errors by n, recall by class, and the gains of the published arms by test batch."""
    found = {"": errors(results), "recall": recall(results), "gain": test_gains(results)}
    return {suffix: text for suffix, text in found.items() if text is not None}


def number_of(setting: str) -> int:
    """Return n of a setting."""
    return int(setting.removeprefix("n="))


@styled
def errors(results: Results) -> str:
    """Plot each arm's error at the largest n in both test batches, and the error over n beside it."""
    last = max(results.settings, key=number_of)
    several = len(results.settings) > 1
    figure = picture(10.0 if several else 6.0, max(4.2, 1.0 + 0.26 * len(results.arms)))
    panels = figure.subplots(1, 1 + several, squeeze=False)[0]
    axes = panels[0]
    arms = [arm for arm in results.arms if results.runs(arm, last)]
    for metric, marker, label, shift in (
        ("error_128", "o", "test batches of 128", -0.15),
        ("error_all", "D", "one test batch of all", 0.15),
    ):
        found = [results.estimate(arm, last, metric) for arm in arms]
        y = np.arange(len(arms)) + shift
        color = Palette(("error_128", "error_all"))[metric]["color"]
        axes.hlines(y, [e.low for e in found], [e.high for e in found], color=color, linewidth=1.5)
        axes.plot([e.value for e in found], y, marker, color=color, markersize=5, label=label)
    axes.set_yticks(np.arange(len(arms)), arms)
    axes.set_ylim(len(arms) - 0.5, -0.5)
    axes.set_xlabel(f"test error at {last}, %, 95% interval")
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1.0), ncols=2, fontsize=9)
    if several:
        over_n(results, panels[1])
    return by_itself(svg(figure, "test error by arm and by number of thinned classes"))


def over_n(results: Results, axes: Any) -> None:
    """Plot the error over n in test batches of 128; dotted: the published arms in one batch of all."""
    arms = [arm for arm in results.arms if arm in SHOWN] or results.arms
    palette = Palette(arms)
    for arm in arms:
        there = [s for s in results.settings if results.runs(arm, s)]
        n = [number_of(s) for s in there]
        found = [results.estimate(arm, s, "error_128") for s in there]
        axes.plot(n, [e.value for e in found], marker="o", markersize=3, label=arm, **palette[arm])
        if "paper" in arm:
            every = [results.estimate(arm, s, "error_all").value for s in there]
            axes.plot(n, every, ":", color=palette[arm]["color"])
    axes.set_xlabel("n, thinned classes")
    axes.set_ylabel("test error, %; dotted: one batch of all")
    axes.set_xticks([number_of(s) for s in results.settings])
    axes.legend(fontsize=9)


@styled
def recall(results: Results) -> str | None:
    """Show the recall of each class as a picture: thinned classes left, of the largest n below 10."""
    settings = [s for s in results.settings if number_of(s) > 0]
    if not settings:
        return None
    arms = results.arms
    figure = picture(2.2 + 2.2 * len(settings), 1.2 + 0.22 * len(arms))
    panels = figure.subplots(1, len(settings), sharey=True, squeeze=False)[0]
    image: Any = None
    for axes, setting in zip(panels, settings, strict=True):
        n = number_of(setting)
        rows = [by_share(results, arm, setting) for arm in arms]
        image = axes.pcolormesh(np.array(rows), vmin=0, vmax=100, cmap="viridis")
        axes.axvline(n, color=INK, linewidth=1.2)
        axes.set_title(f"{setting}: {n} thinned | {10 - n} whole", fontsize=9)
        axes.set_xticks([])
        axes.grid(False)
    panels[0].set_yticks(np.arange(len(arms)) + 0.5, arms)
    panels[0].set_ylim(len(arms), 0)
    figure.colorbar(image, ax=panels, label="recall, %, test batches of 128", shrink=0.8)
    return by_itself(svg(figure, "recall by class"))


def by_share(results: Results, arm: str, setting: str) -> np.ndarray:
    """Return the mean recall, ``(10,)``, of classes ordered within each seed: thinned, then whole."""
    rows = []
    for run in results.runs(arm, setting):
        thinned = [int(c) for c in run.curves["classes"]]
        order = thinned + [c for c in range(10) if c not in thinned]
        rows.append(np.asarray(run.curves["recall"])[TEST_BATCHES.index(128)][order])
    return np.mean(rows, axis=0) if rows else np.full(10, np.nan)


@styled
def test_gains(results: Results) -> str | None:
    """Plot the mean gain of the first hidden layer by test batch, for arms that depend on the batch."""
    arms = [arm for arm in results.arms if depends_on_batch(results, arm)]
    if not arms:
        return None
    palette = Palette(arms)
    figure = picture(9.0, 3.6)
    panels = figure.subplots(1, len(TEST_BATCHES) + 1, sharey=True)
    for place, axes in enumerate(panels):
        for arm in arms:
            there = [s for s in results.settings if results.runs(arm, s)]
            means = [finite_mean(first_gain(results, arm, s, place - 1)) for s in there]
            n = [number_of(s) for s in there]
            axes.plot(n, means, marker="o", markersize=3, label=arm, **palette[arm])
        axes.axhline(0, color=INK, linewidth=0.8)
        size = TEST_BATCHES[place - 1]
        axes.set_title("training" if place == 0 else f"test batch {size or 'of all'}", fontsize=10)
        axes.set_xlabel("n")
    panels[0].set_ylabel("gain of layer 1, nats")
    legend(figure, *panels)
    return by_itself(svg(figure, "gain by test batch"))


def depends_on_batch(results: Results, arm: str) -> bool:
    """Return True for an arm whose gain is of the test batch, as published, if a run has finite ones.

    By its name: measured gains of an arm that does not depend on the batch differ by rounding.
    """
    if "paper" not in arm or split_arm(arm)[0].endswith(YOKED):
        return False
    return any(
        np.isfinite(np.asarray(run.curves["test_gain"], float)).any()
        for setting in results.settings
        for run in results.runs(arm, setting)
    )


def first_gain(results: Results, arm: str, setting: str, place: int) -> np.ndarray:
    """Return the gain of the first layer by seed, ``(seeds,)``; place -1: in training."""
    if place < 0:
        return results.curve(arm, setting, "train_gain")[:, 0]
    return results.curve(arm, setting, "test_gain")[:, place, 0]


def finite_mean(values: np.ndarray) -> float:
    """Return the mean of the finite values, those of runs that did not diverge; NaN without any."""
    values = values[np.isfinite(values)]
    return float(values.mean()) if len(values) else float("nan")


def finding(results: Results) -> str:
    """Return one sentence about the setting with most thinned classes."""
    setting = max(results.settings, key=number_of)
    told = []
    paper = next((arm for arm in ("rn-paper", "ln+rn-paper") if results.runs(arm, setting)), None)
    if paper is not None:
        some, every = (results.estimate(paper, setting, f"error_{b}") for b in ("128", "all"))
        lost = results.values(paper, setting, "diverged") > 0
        told.append(
            f"at {setting} {paper} errs on {some}% of the test images in batches of 128 and on {every}% "
            "in one batch"
        )
        if not lost.all():
            gains = [first_gain(results, paper, setting, at)[~lost].mean() for at in (-1, 1, 2)]
            told[-1] += (
                f", since its gain in the first layer is {gains[1]:.2f} and {gains[2]:.2f} there "
                f"({gains[0]:.2f} in training)"
            )
        if lost.any():
            told.append(f"{lost.sum()} of {len(lost)} runs of {paper} diverged")
    for arm, other in (("rn", "none"), ("rn", "ln"), ("rn", "logt")):
        if results.runs(arm, setting):
            told.append(versus(results, arm, other, setting, results.task.metrics[0]))
    if not any(told):
        present = [arm for arm in results.arms if results.runs(arm, setting)]
        other = next((name for name in ("none", "ln", "logt") if name in present), present[0])
        some = results.estimate(other, setting, "error_128")
        told.append(f"at {setting} {other} errs on {some}% of the test images")
        metric = results.task.metrics[0]
        told += [versus(results, arm, other, setting, metric) for arm in present if arm != other]
    text = joined(told)
    return f"{text[0].upper()}{text[1:]}."
