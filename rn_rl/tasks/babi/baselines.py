"""Answers without a graph network: chance, counting facts, logistic regression, a forest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from rn_rl.errors import UserError
from rn_rl.tasks.babi.examples import Examples, examples
from rn_rl.tasks.babi.stories import CLASSES, SIZE, Story, degree_difference, label_of_bigger

BASELINES = {
    "chance": "answers at random",
    "degree": "task 18: the thing that more facts call bigger and fewer call smaller",
    "logistic": "logistic regression on facts and question as one vector",
    "forest": "random forest of 200 trees on facts and question as one vector",
}
"""Answers by simple means, with their meaning."""


def baseline(
    name: str, train: Sequence[Story], test: Sequence[Story], task: int, seed: int
) -> np.ndarray:
    """Answer the questions of some stories by simple means.

    ``chance`` is right in 1 of as many questions as there are classes. ``degree`` answers by the sign of
    :func:`~rn_rl.tasks.babi.stories.degree_difference`; which sign means which label is taken from the
    training questions, because files number their labels as they like. ``logistic`` and ``forest`` are
    scikit-learn's, one model for each label.

    Args:
        name: one of :data:`BASELINES`.
        train: stories to learn from.
        test: stories to answer.
        task: 18 or 19.
        seed: random state of the forest.

    Returns:
        ``(questions, labels)``: expected share of right answers, 1/2 for a tie of ``degree``; NaN where
        the task has nothing to count.

    Raises:
        UserError: scikit-learn is not installed.
    """
    learn, answer = examples(train, task), examples(test, task)
    labels = answer.labels.numpy()
    if name == "chance":
        return np.full(labels.shape, 1 / CLASSES[task])
    if name == "degree":
        if task != SIZE:
            return np.full(labels.shape, np.nan)
        sign = 1 if label_of_bigger(list(train)) else -1
        says = sign * _degree_signs(test) * (2 * labels[:, 0] - 1)
        return ((says + 1) / 2)[:, None]
    right = []
    for label in range(labels.shape[1]):
        classes = learn.labels[:, label].numpy()
        if len(np.unique(classes)) == 1:
            predicted = np.full(len(answer), classes[0])  # the models refuse a single class
        else:
            predicted = _model(name, seed).fit(_vectors(learn), classes).predict(_vectors(answer))
        right.append(predicted == labels[:, label])
    return np.stack(right, 1).astype(float)


def _model(name: str, seed: int) -> Any:
    try:
        from sklearn.ensemble import RandomForestClassifier
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise UserError(
            f"arm {name!r} needs scikit-learn, which is not installed: pip install 'rn-rl[tasks]'"
        ) from None
    if name == "logistic":
        return LogisticRegression(max_iter=1000)
    return RandomForestClassifier(200, random_state=seed)


def _degree_signs(stories: Sequence[Story]) -> np.ndarray:
    differences = [degree_difference(s, question) for s in stories for question in s.questions]
    return np.sign(np.array(differences, dtype=float))


def _vectors(x: Examples) -> np.ndarray:
    # the edges against the direction repeat those along it
    return np.concatenate([x.edges[:, 0].flatten(1), x.annotations.flatten(1)], axis=1)
