"""Graph network of bAbI: what an answer may depend on; baselines; rn+ln is ln."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from rn_rl import CodeLengthProbe
from rn_rl.tasks.babi.baselines import baseline
from rn_rl.tasks.babi.examples import examples
from rn_rl.tasks.babi.network import GatedGraphNetwork
from rn_rl.tasks.babi.stories import NODES, PATH, SIZE, Question, Story, draw_stories
from rn_rl.tasks.babi.task import Setting
from rn_rl.tasks.cancellation import cancellation_expected
from rn_rl.tasks.seeding import seed_torch

STORIES = draw_stories(PATH, 30, np.random.default_rng(0))


def network(norm="none", read_after=(1, 2), seed=0):
    seed_torch(seed)
    with cancellation_expected():
        return GatedGraphNetwork(norm, 4, 4, read_after)


def renamed(story, names):
    return Story(
        tuple((names[a], kind, names[b]) for a, kind, b in story.facts),
        tuple(replace(q, first=names[q.first], second=names[q.second]) for q in story.questions),
    )


@torch.no_grad()
def test_names_of_nodes_do_not_matter():
    net = network(read_after=(5,)).eval()
    names = np.random.default_rng(1).permutation(NODES).tolist()
    mine, theirs = (
        net(examples(stories, PATH)) for stories in (STORIES, [renamed(s, names) for s in STORIES])
    )
    torch.testing.assert_close(mine, theirs)


@torch.no_grad()
def test_types_and_directions_of_edges_matter():
    net = network(read_after=(2,)).eval()
    question = (Question(0, 1, (0, 0)),)
    facts = [((0, 0, 1),), ((0, 1, 1),), ((1, 0, 0),), ((2, 0, 3),), ()]
    logits = net(examples([Story(fact, question) for fact in facts], PATH)).flatten(1)
    distance = torch.cdist(logits, logits) + 10 * torch.eye(len(facts))
    assert distance.min() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("norm", ["none", "ln", "rn"])
def test_an_answer_does_not_depend_on_the_other_questions(norm):
    net = network(norm)
    x = examples(STORIES, PATH)
    net.train()(x)
    net.eval()
    alone = torch.cat([net(x[torch.tensor([i])]) for i in range(len(x))])
    torch.testing.assert_close(net(x), alone)


def trained(norm):
    net = network(norm)
    x = examples(STORIES, PATH)
    optimizer = torch.optim.Adam(net.parameters(), 1e-2)
    for _ in range(12):
        net.train()
        optimizer.zero_grad()
        F.cross_entropy(net(x).flatten(0, 1), x.labels.flatten()).backward()
        optimizer.step()
        net.eval()
    return net(x).detach(), net


def test_rn_before_ln_is_ln():
    (cancelled, net), (plain, _), (kept, _) = (trained(norm) for norm in ("rn+ln", "ln", "ln+rn"))
    assert min(net.gains()[0]) > 2, "the gain is there, and LayerNorm cancels it"
    # up to LayerNorm's epsilon, whose effect a gain changes, and its growth in 12 steps
    assert (cancelled - plain).abs().max() < 0.05 * (kept - plain).abs().max()


def test_the_probe_attaches():
    net, x = network("rn"), examples(STORIES, PATH)
    with CodeLengthProbe(net) as probe:
        for _ in range(3):
            net.train()(x)
            lengths = probe.commit()
    assert {"messages.0", "messages.1"} <= set(lengths)
    assert all(np.isfinite(value) for value in lengths.values())


def test_baselines_stay_below_the_rule_that_counts_facts():
    rng = np.random.default_rng(0)
    train, test = (draw_stories(SIZE, 100, rng) for _ in range(2))
    degree, forest, logistic, chance = (
        baseline(name, train, test, SIZE, 0).mean()
        for name in ("degree", "forest", "logistic", "chance")
    )
    assert chance == 0.5
    assert 0.9 < degree < 1
    assert 0.55 < forest < 0.9
    assert abs(logistic - 0.5) < 0.1


def test_baselines_know_little_of_paths():
    rng = np.random.default_rng(0)
    train, test = (draw_stories(PATH, 100, rng) for _ in range(2))
    assert np.isnan(baseline("degree", train, test, PATH, 0)).all()
    assert baseline("chance", train, test, PATH, 0).mean() == 0.25
    for name in ("logistic", "forest"):
        right = baseline(name, train, test, PATH, 0)
        assert right.shape == (100, 2) and 0.2 < right.mean() < 0.5


def test_the_rule_learns_which_label_means_bigger():
    stories = draw_stories(SIZE, 60, np.random.default_rng(0))
    turned = [
        replace(s, questions=tuple(replace(q, labels=(1 - q.labels[0],)) for q in s.questions))
        for s in stories
    ]
    assert baseline("degree", turned, turned, SIZE, 0).mean() > 0.9


def test_settings():
    assert Setting.of("18-hard-1000") == Setting(SIZE, True, 1000)
    assert Setting.of("19") == Setting(PATH, False, 100)
    assert Setting.of("19-1000").epochs == 10
