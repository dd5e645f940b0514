"""Imbalanced digits: what all arms share, what depends on the test batch, and why."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl import CodeLengthProbe
from rn_rl.normalization import PublishedRegularityNorm, class_shares, saliency_prior
from rn_rl.tasks import imbalanced
from rn_rl.tasks.digits import load_digits
from rn_rl.tasks.imbalanced import (
    Imbalanced,
    Protocol,
    as_inputs,
    build,
    error_of,
    predict,
    recall_of,
    thin,
    train,
)
from rn_rl.tasks.imbalanced_page import depends_on_batch, finding
from rn_rl.tasks.page import header, rows_of
from rn_rl.tasks.published_gain import CutGain, applied_gains, replayed
from rn_rl.tasks.results import Results
from rn_rl.tasks.run import Job, side_by_side
from rn_rl.tasks.store import Run

SPECS = [arm for arm in Imbalanced.arms if "cut" not in arm and "yoked" not in arm]


def one(arm, seed=0, setting="n=9", commit_every=1):
    task = Imbalanced()
    return task.train_one(arm, setting, seed, data=None, toy=True, commit_every=commit_every)


def toy_labels():
    labels = load_digits(None, imbalanced.SMALL_TRAIN).test_y
    return labels[:: -(-len(labels) // imbalanced.TOY_TESTED)]


@pytest.mark.parametrize("arm", ["bn", "ln+rn", "wn", "rn-paper", "rn-paper-cut"])
def test_all_arms_of_a_seed_begin_with_the_same_weights(arm):
    plain, _ = build("none", 20, (6, 5), 3)
    net, _ = build(arm, 20, (6, 5), 3)
    linear = [[m for m in each if isinstance(m, nn.Linear)] for each in (plain, net)]
    for ours, theirs in zip(*linear, strict=True):
        # weight normalization computes the weight from its norm and direction
        assert torch.allclose(ours.weight, theirs.weight, atol=1e-7)
        assert arm == "wn" or torch.equal(ours.weight, theirs.weight)
        assert torch.equal(ours.bias, theirs.bias)


def test_thinning_is_the_same_for_all_arms_and_nested_in_n():
    labels = np.arange(4000) % 10
    p = Protocol((4,), 32, 1, keep=0.1)
    keep, classes = thin(labels, 5, p, seed=2)
    again, _ = thin(labels, 5, p, seed=2)
    assert np.array_equal(keep, again)
    more, others = thin(labels, 7, p, seed=2)
    assert set(classes) < set(others) and set(more) < set(keep)
    counts = np.bincount(labels[keep], minlength=10)
    assert (counts[np.setdiff1d(np.arange(10), classes)] == 400).all()
    assert ((counts[classes] > 20) & (counts[classes] < 60)).all()
    assert not np.array_equal(keep, thin(labels, 5, p, seed=3)[0])


def test_the_same_seed_gives_the_same_bits_and_another_seed_others():
    first, again, other = one("ln+rn"), one("ln+rn"), one("ln+rn", seed=1)
    assert first == again and first != other


@pytest.mark.parametrize("arm", [arm for arm in SPECS if "paper" not in arm])
def test_the_test_error_does_not_depend_on_the_test_batch(arm):
    found = one(arm).metrics
    assert found["error_1"] == found["error_128"] == found["error_all"]


@pytest.mark.parametrize("arm", ["rn-paper", "ln+rn-paper", "rn-paper-cut"])
def test_the_published_gain_depends_on_the_test_batch(arm):
    alone, some, every = np.array(one(arm).curves["test_gain"])
    assert (alone > some).all() and (some > every).all()


@pytest.mark.parametrize("spec", ["rn-paper", "ln+rn-paper"])
def test_a_test_batch_larger_than_the_training_turns_the_published_gain_negative(spec):
    """160 images train, 800 are one test batch; the gain of ``rn`` is the same in every batch."""
    digits = load_digits(None)
    order = np.random.default_rng(0).permutation(len(digits.y))
    x, y = as_inputs(digits.x[order[:160]]), torch.from_numpy(digits.y[order[:160]])
    test = as_inputs(digits.test_x[np.random.default_rng(1).permutation(1000)[:800]])
    gains = {}
    for arm in (spec, spec.replace("rn-paper", "rn")):
        net, norms = build(arm, 784, (32, 32), 0)
        with applied_gains(norms) as trained:
            train(net, x, y, Protocol((32, 32), 16, 1, 1.0), 0, 1)
        gains[arm] = [trained[0][-1]]
        for images in (16, 800):
            with applied_gains(norms) as found:
                predict(net, test, images)
            gains[arm].append(np.mean(found[0]))
    last, some, every = gains.pop(spec)
    assert last > 1.5 and some > 1.5 and every < 0
    # fifty times the images, fifty times the sum of their densities
    assert some - every == pytest.approx(math.log(50), abs=0.05)
    ((last, some, every),) = gains.values()
    assert some == pytest.approx(every, rel=1e-4) and every > 2


def test_the_published_gain_at_test_is_the_log_of_training_over_test_elements():
    """Exactly so where the activations have the same distribution throughout."""
    torch.manual_seed(0)
    norm = PublishedRegularityNorm(32)
    for _ in range(10):
        norm(torch.randn(16, 32))
    norm.eval()
    for images in (16, 160, 800):
        x = torch.randn(images, 32)
        gain = float((norm(x) / x).mean())
        # the first batches have the density of their own mean and deviation, a little higher
        assert gain == pytest.approx(math.log(160 / images), abs=0.05)


def test_without_its_gradient_the_published_gain_is_the_same_and_its_gradient_is_not():
    torch.manual_seed(0)
    paper, cut = PublishedRegularityNorm(6), CutGain(6)
    for _ in range(3):
        x = torch.randn(8, 6, requires_grad=True)
        same = x.detach().clone().requires_grad_()
        y, z = paper(x), cut(same)
        assert torch.equal(y, z)
        (y.sin().sum() + z.sin().sum()).backward()
    assert torch.equal(paper.running_state, cut.running_state)
    gain = (z / same).detach()[0, 0]
    assert torch.allclose(same.grad, gain * (gain * same.detach()).cos(), atol=1e-5)
    assert not torch.allclose(x.grad, same.grad, atol=1e-2)
    assert torch.equal(paper.eval()(x), cut.eval()(x))


def test_a_yoked_arm_applies_the_gains_of_a_run_with_another_seed_step_by_step():
    digits = load_digits(None, imbalanced.SMALL_TRAIN)
    p = Protocol((16, 16), 16, 1, 0.02, images=400)
    donor = imbalanced.donor_gains("rn-paper-yoked", digits.y, digits.x, 7, p, seed=5)
    net, norms = build("rn-paper-yoked", 784, p.hidden, 0, donor)
    keep, _ = thin(digits.y, 7, p, 0)
    x, y = as_inputs(digits.x[keep]), torch.from_numpy(digits.y[keep])
    with applied_gains(norms) as applied:
        train(net, x, y, p, 0, 1)
    for ours, theirs in zip(applied, donor, strict=True):
        steps = min(len(ours), len(theirs))
        assert steps > 5 and np.allclose(ours[:steps], theirs[:steps], rtol=1e-4)
        assert len(set(np.round(theirs, 3))) > 5
    assert replayed([2.0, 3.0]).eval()(torch.ones(1, 1)) == 2


def test_saliency_has_the_share_of_the_class_in_the_minibatch_and_none_at_test():
    digits = load_digits(None)
    x, y = as_inputs(digits.x[::100]), torch.tensor([0] * 30 + [1] * 10)
    net, _ = build("sn", 784, (8, 8), 0)
    with saliency_prior(net, class_shares(y)), torch.no_grad():
        first = net[1](net[0](x)) / net[0](x)
    assert torch.allclose(first[:, 0], 1 - torch.tensor([0.75] * 30 + [0.25] * 10).log(), atol=1e-5)
    assert torch.allclose(net[1](x[:, :8]), x[:, :8])
    assert one("sn").curves["loss"] != one("rn").curves["loss"]


def test_recall_is_by_class_and_makes_the_error():
    found = one("ln")
    recall, counts = np.array(found.curves["recall"]), np.bincount(toy_labels())
    errors = [found.metrics[f"error_{size}"] for size in (1, 128, "all")]
    assert np.allclose(100 - (recall * counts).sum(1) / counts.sum(), errors)
    assert len(found.curves["classes"]) == 9


def test_a_diverged_run_is_a_result():
    found = one("gain(c=1e30)")
    assert found.metrics["diverged"] == 1 and found.metrics["error_all"] == pytest.approx(
        100 * (toy_labels() != 0).mean()  # argmax of NaN
    )
    assert found.curves["recall"] == [[0] * 10] * 3 and found.metrics["thinned_recall"] == 0


def test_logits_that_are_not_finite_find_no_class():
    nan, inf = math.nan, math.inf
    logits = torch.tensor([[nan, nan], [1.0, 0], [0, nan], [0, 1], [inf, 0]])
    y = torch.tensor([0, 0, 0, 1, 0])
    assert recall_of(logits, y)[:2] == [25, 100]
    assert error_of(logits, y) == 20, "NaN counts as class 0 here, as in the results on record"
    assert error_of(torch.full((10, 10), nan), torch.arange(10)) == 90


def test_stored_runs_that_diverged_are_credited_with_no_recall_either():
    """Earlier versions stored a recall of class 0 of 100%, which is a ninth of the thinned recall."""
    recall = [[100.0] + [0.0] * 9] * 3
    metrics = {"diverged": 1.0, "error_128": 90.0, "thinned_recall": 100 / 9}
    old = Run("rn-paper", "n=9", 1, 1, "", 0.0, metrics, {"recall": recall, "classes": [*range(9)]})
    whole = Run("rn-paper", "n=0", 1, 1, "", 0.0, metrics | {"thinned_recall": math.nan}, {
        "recall": recall, "classes": []})  # fmt: skip
    good = replace(old, arm="none", metrics=metrics | {"diverged": 0.0})
    results = Results(Imbalanced(), [old, whole, good], ("rn-paper", "none"), ("n=0", "n=9"))
    (found,), (at_zero,), (kept,) = (
        results.runs(*key) for key in (("rn-paper", "n=9"), ("rn-paper", "n=0"), ("none", "n=9"))
    )
    assert found.metrics == metrics | {"thinned_recall": 0}
    assert found.curves["recall"] == [[0] * 10] * 3 == at_zero.curves["recall"]
    assert math.isnan(at_zero.metrics["thinned_recall"])
    assert kept.metrics["thinned_recall"] == 100 / 9 and kept.curves["recall"] == recall
    assert old.metrics["thinned_recall"] == 100 / 9, "the stored line is left as it is"


def test_a_yoked_run_says_that_its_donor_diverged(monkeypatch):
    assert one("rn-paper-yoked").metrics["donor_diverged"] == 0
    assert "donor_diverged" not in one("rn-paper").metrics
    donor = imbalanced.donor_gains

    def lost(*given):
        gains = donor(*given)
        gains[0][-1] = math.nan
        return gains

    monkeypatch.setattr(imbalanced, "donor_gains", lost)
    arms = ("rn-paper-yoked", "ln+rn-paper")
    jobs = [Job("imbalanced", arm, "n=9", 0, None, True, 1, "toy") for arm in arms]
    runs = list(side_by_side(iter(jobs), 1))
    assert runs[0].metrics["donor_diverged"] == 1
    results = Results(Imbalanced(), runs, arms, ("n=9",), toy=True)
    place = header(results).index("donor diverged, share")
    assert [row[place] for row in rows_of(results, "n=9")] == ["1.00", "-"]
    older = replace(runs[0], seed=1, metrics=runs[1].metrics)  # stored before this was a number
    results = Results(Imbalanced(), [*runs, older], arms, ("n=9",), toy=True)
    assert rows_of(results, "n=9")[0][place] == "-", "unknown for one of both"
    others = Results(Imbalanced(), runs[1:], arms, ("n=9",), toy=True)
    assert "donor diverged, share" not in header(others), "no arm replays gains"


def test_the_figure_of_gains_has_the_arms_whose_gain_is_of_the_test_batch():
    """Not the yoked ones, whose measured gains differ by rounding, or are NaN."""
    gains = {
        "rn": [[3.0, 3.0], [3.1, 3.1]],
        "rn-paper": [[5.0, 5.0], [0.1, 0.1]],
        "ln+rn-paper-cut": [[5.0, math.nan], [0.1, math.nan]],
        "rn-paper-yoked": [[3.0, 3.0], [3.0001, 3.0001]],
        "ln+rn-paper-yoked": [[math.nan] * 2] * 2,
        "rln-paper": [[math.nan] * 2] * 2,
    }
    runs = [Run(arm, "n=9", 0, 1, "", 0.0, {}, {"test_gain": g}) for arm, g in gains.items()]
    results = Results(Imbalanced(), runs, gains, ("n=9",))
    assert [arm for arm in gains if depends_on_batch(results, arm)] == [
        "rn-paper",
        "ln+rn-paper-cut",
    ]


def test_the_published_rows_say_that_they_are_of_mnist():
    metrics = {
        "error_1": 1.0,
        "error_128": 1.0,
        "error_all": 1.0,
        "thinned_recall": 1.0,
        "diverged": 0.0,
    }
    run = Run("none", "n=9", 0, 1, "", 0.0, metrics, {})
    rows = rows_of(Results(Imbalanced(), [run], ("none",), ("n=9",)), "n=9")
    assert [row[0] for row in rows] == ["none", "none, published, MNIST"]
    assert "90.12 ± .25" in rows[1]


def test_the_probe_attaches():
    net, _ = build("ln+rn", 784, (16, 16), 0)
    with CodeLengthProbe(net) as probe:
        net(torch.randn(8, 784))
        assert {"0", "4", "8"} <= probe.commit().keys()


@pytest.mark.parametrize("arms", [("none", "hs", "ln"), ("hs", "wn")])
def test_arms_without_rn_have_a_finding_too(arms):
    jobs = [Job("imbalanced", arm, "n=9", 0, None, True, 1, "toy") for arm in arms]
    runs = list(side_by_side(iter(jobs), 1))
    text = finding(Results(Imbalanced(), runs, arms, ("n=9",), toy=True))
    assert text.startswith(f"At n=9 {arms[0]} errs on ") and text.endswith(".")
    assert all(
        f"{arm} minus {arms[0]}" in text or f"{arm} equals {arms[0]}" in text for arm in arms[1:]
    )
