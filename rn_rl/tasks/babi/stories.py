"""Stories of bAbI tasks 18 and 19 as graphs, and generators for them.

A node is a thing (18) or a room (19), numbered from 0; an edge is a fact. A question names two nodes and
has one label (18) or two (19).
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import permutations

import numpy as np

NODES = 6
SIZE, PATH = 18, 19
"""Numbers of the two tasks in bAbI."""

EDGE_TYPES = {SIZE: 1, PATH: 4}
CLASSES = {SIZE: 2, PATH: 4}
LABELS = {SIZE: 1, PATH: 2}

DIRECTIONS = ((0, 1), (0, -1), (1, 0), (-1, 0))
"""Steps (x, y) to the north, south, east and west: edge types and labels of task 19."""

OPPOSITE = (1, 0, 3, 2)
"""For each direction, the one that leads back."""


@dataclass(frozen=True)
class Question:
    """Two nodes and the labels of the answer.

    For task 18, the label is 1 if ``first`` is bigger than ``second``, else 0. For task 19, the labels
    are the directions of the two steps from ``first`` to ``second``.
    """

    first: int
    second: int
    labels: tuple[int, ...]


@dataclass(frozen=True)
class Story:
    """Facts and the questions about them.

    Attributes:
        facts: ``(source, edge type, target)``. Task 18: the source is bigger than the target. Task 19: a
            step from the source in direction ``edge type`` leads to the target.
        questions: what is asked.
    """

    facts: tuple[tuple[int, int, int], ...]
    questions: tuple[Question, ...]


def degree_difference(story: Story, question: Question) -> int:
    """Count the facts that speak for ``first`` being bigger than ``second``, without any inference.

    For a node, take the number of facts in which it is the bigger thing minus the number in which it is
    the smaller one; the result is that of ``first`` minus that of ``second``.
    """
    degree = [0] * NODES
    for bigger, _, smaller in story.facts:
        degree[bigger] += 1
        degree[smaller] -= 1
    return degree[question.first] - degree[question.second]


def transitive(facts: tuple[tuple[int, int, int], ...]) -> np.ndarray:
    """Compute which node is bigger than which, ``(NODES, NODES)`` of bool, by Warshall's algorithm."""
    bigger = np.zeros((NODES, NODES), dtype=bool)
    for source, _, target in facts:
        bigger[source, target] = True
    for via in range(NODES):
        bigger |= bigger[:, via, None] & bigger[None, via]
    return bigger


def size_story(rng: np.random.Generator, hard: bool = False) -> Story:
    """Draw a story of task 18: 6 things, 4 to 9 facts, 1 to 6 questions that follow from several facts.

    Args:
        rng: source of random numbers.
        hard: ask questions whose :func:`degree_difference` has the wrong sign or is 0 as often as others,
            so that counting facts does not answer more than half of them. A story then has one question.

    Returns:
        A story with labels 0 and 1 equally often; no question repeats a fact.
    """
    pairs = list(permutations(range(NODES), 2))
    misleading = hard and bool(rng.integers(2))
    while True:
        rank = rng.permutation(NODES)
        ordered = [(a, b) for a, b in pairs if rank[a] > rank[b]]
        chosen = rng.choice(len(ordered), size=rng.integers(4, 10), replace=False)
        facts = tuple((ordered[i][0], 0, ordered[i][1]) for i in chosen)
        told = {(a, b) for a, _, b in facts}
        implied = transitive(facts)
        open_pairs = [pair for pair in ordered if implied[pair] and pair not in told]
        if hard:
            story = Story(facts, ())
            open_pairs = [
                (a, b)
                for a, b in open_pairs
                if (degree_difference(story, Question(a, b, (1,))) <= 0) == misleading
            ]
        if open_pairs:
            break
    count = 1 if hard else min(len(open_pairs), int(rng.integers(1, 7)))
    asked = rng.choice(len(open_pairs), size=count, replace=False)
    questions = []
    for i in asked:
        bigger, smaller = open_pairs[i]
        swap = bool(rng.integers(2))
        first, second = (smaller, bigger) if swap else (bigger, smaller)
        questions.append(Question(first, second, (int(not swap),)))
    return Story(facts, tuple(questions))


def path_story(rng: np.random.Generator) -> Story:
    """Draw a story of task 19: 5 of 6 rooms on a grid, 4 facts that join them, one path of 2 steps.

    The 12 pairs of directions that do not lead back are equally likely. The other two rooms stand beside
    any room, in free cells. The two facts of the path point along it, as in the published files.
    """
    first = int(rng.integers(4))
    second = int(rng.choice([d for d in range(4) if d != OPPOSITE[first]]))
    cells = [(0, 0)]
    facts = []
    for source, direction in enumerate((first, second)):
        cells.append(_beside(cells[source], direction))
        facts.append((source, direction, source + 1))
    while len(cells) < 5:
        source, direction = int(rng.integers(len(cells))), int(rng.integers(4))
        cell = _beside(cells[source], direction)
        if cell in cells:
            continue
        target = len(cells)
        cells.append(cell)
        forward = bool(rng.integers(2))
        facts.append(
            (source, direction, target) if forward else (target, OPPOSITE[direction], source)
        )
    names = rng.permutation(NODES)
    told = tuple(
        (int(names[a]), d, int(names[b])) for a, d, b in (facts[i] for i in rng.permutation(4))
    )
    return Story(told, (Question(int(names[0]), int(names[2]), (first, second)),))


def _beside(cell: tuple[int, int], direction: int) -> tuple[int, int]:
    x, y = DIRECTIONS[direction]
    return cell[0] + x, cell[1] + y


def harder(stories: list[Story], label_of_bigger: int, rng: np.random.Generator) -> list[Story]:
    """Choose questions so that counting facts answers half of them, one question for each story.

    Args:
        stories: stories of task 18.
        label_of_bigger: label that says that the first thing is bigger.
        rng: chooses as many of the other questions as there are misleading ones.

    Returns:
        A story for each chosen question; none if no question is misleading.
    """
    misleading: list[tuple[int, Story]] = []
    other: list[tuple[int, Story]] = []
    for place, (story, question) in enumerate((s, q) for s in stories for q in s.questions):
        sign = 1 if question.labels[0] == label_of_bigger else -1
        wrong = sign * degree_difference(story, question) <= 0
        (misleading if wrong else other).append((place, Story(story.facts, (question,))))
    count = min(len(misleading), len(other))
    chosen = [
        pairs[i] for pairs in (misleading, other) for i in rng.permutation(len(pairs))[:count]
    ]
    return [story for _, story in sorted(chosen, key=lambda pair: pair[0])]


def label_of_bigger(stories: list[Story]) -> int:
    """Return the label of task 18 that agrees with :func:`degree_difference` more often.

    Files number their labels as they like.
    """
    agreement = sum(
        int(np.sign(degree_difference(story, question))) * (1 if question.labels[0] else -1)
        for story in stories
        for question in story.questions
    )
    return int(agreement >= 0)


def draw_stories(
    task: int, count: int, rng: np.random.Generator, hard: bool = False
) -> list[Story]:
    """Draw ``count`` stories of a task; ``hard``: see :func:`size_story`."""
    return [path_story(rng) if task == PATH else size_story(rng, hard) for _ in range(count)]
