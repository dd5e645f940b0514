"""Generators of bAbI 18 and 19: labels proved by solvers that share no code with them, and mixtures."""

from __future__ import annotations

from collections import Counter, deque
from dataclasses import replace

import numpy as np
import pytest

from rn_rl.tasks.babi.stories import (
    NODES,
    PATH,
    SIZE,
    Question,
    Story,
    degree_difference,
    draw_stories,
    harder,
    label_of_bigger,
)

STORIES = {
    "18": draw_stories(SIZE, 400, np.random.default_rng(1)),
    "18-hard": draw_stories(SIZE, 400, np.random.default_rng(2), hard=True),
    "19": draw_stories(PATH, 1200, np.random.default_rng(3)),
}


def reachable(story: Story, start: int) -> set[int]:
    """Return what is smaller than a thing, by walking along the facts."""
    found, queue = set(), deque([start])
    while queue:
        node = queue.popleft()
        for bigger, _, smaller in story.facts:
            if bigger == node and smaller not in found:
                found.add(smaller)
                queue.append(smaller)
    return found


@pytest.mark.parametrize("setting", ["18", "18-hard"])
def test_labels_of_sizes_follow_from_the_facts(setting):
    for story in STORIES[setting]:
        told = {(a, b) for a, _, b in story.facts}
        for thing in range(NODES):
            assert thing not in reachable(story, thing), "no thing is bigger than itself"
        for question in story.questions:
            a, b, (label,) = question.first, question.second, question.labels
            assert (b in reachable(story, a)) == (label == 1)
            assert (a in reachable(story, b)) == (label == 0)
            assert (a, b) not in told and (b, a) not in told


def walk(story: Story) -> dict[int, tuple[int, int]]:
    """Place the rooms on a grid by walking from the first one; facts are walked both ways."""
    step = {0: (0, 1), 1: (0, -1), 2: (1, 0), 3: (-1, 0)}
    places = {story.facts[0][0]: (0, 0)}
    for _ in story.facts:
        for source, direction, target in story.facts:
            dx, dy = step[direction]
            if source in places:
                x, y = places[source]
                assert places.setdefault(target, (x + dx, y + dy)) == (x + dx, y + dy)
            elif target in places:
                x, y = places[target]
                places[source] = (x - dx, y - dy)
    return places


def test_labels_of_paths_lead_from_one_room_to_the_other():
    step = {0: (0, 1), 1: (0, -1), 2: (1, 0), 3: (-1, 0)}
    for story in STORIES["19"]:
        places = walk(story)
        assert len(places) == 5 and len(set(places.values())) == 5
        (question,) = story.questions
        at = places[question.first]
        for label in question.labels:
            at = (at[0] + step[label][0], at[1] + step[label][1])
            assert at in places.values(), "the path goes through rooms"
        assert at == places[question.second]


def test_mixture_of_sizes_is_the_published_one():
    stories = STORIES["18"]
    facts = Counter(len(story.facts) for story in stories)
    assert set(facts) == set(range(4, 10))
    asked = Counter(len(story.questions) for story in stories)
    assert set(asked) == set(range(1, 7))
    labels = np.array([q.labels[0] for story in stories for q in story.questions])
    assert abs(labels.mean() - 0.5) < 4 * 0.5 / np.sqrt(len(labels))


def test_all_pairs_of_directions_are_equally_likely():
    pairs = Counter(story.questions[0].labels for story in STORIES["19"])
    assert len(pairs) == 12
    expected = len(STORIES["19"]) / 12
    assert (
        sum((n - expected) ** 2 / expected for n in pairs.values()) < 31.3
    )  # p = 0.001, 11 degrees


def test_counting_facts_answers_few_of_the_harder_questions():
    share = {}
    for setting in ("18", "18-hard"):
        right = [
            np.sign(degree_difference(story, q)) == (1 if q.labels[0] else -1)
            for story in STORIES[setting]
            for q in story.questions
        ]
        share[setting] = np.mean(right)
    assert share["18"] > 0.85
    assert abs(share["18-hard"] - 0.5) < 0.1


def test_harder_questions_of_given_stories_are_half_misleading():
    for label in (0, 1):
        stories = STORIES["18"]
        if label == 0:  # files number their labels as they like
            stories = [
                replace(
                    s, questions=tuple(replace(q, labels=(1 - q.labels[0],)) for q in s.questions)
                )
                for s in stories
            ]
        assert label_of_bigger(stories) == label
        chosen = harder(stories, label, np.random.default_rng(0))
        differences = np.array([degree_difference(s, s.questions[0]) for s in chosen])
        signs = np.array([1 if s.questions[0].labels[0] == label else -1 for s in chosen])
        assert len(chosen) > 20 and np.mean(signs * differences <= 0) == 0.5
        assert all(len(s.questions) == 1 for s in chosen)
    assert harder([Story(((0, 0, 1),), (Question(0, 1, (1,)),))], 1, np.random.default_rng(0)) == []


def test_same_seed_same_stories():
    first, second = (draw_stories(SIZE, 5, np.random.default_rng(7)) for _ in range(2))
    assert first == second
    assert first != draw_stories(SIZE, 5, np.random.default_rng(8))
