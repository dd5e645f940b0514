"""Tensors of bAbI graphs: one example for each question."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from rn_rl.tasks.babi.stories import EDGE_TYPES, NODES, Story

ANNOTATIONS = 2
"""Features of a node that the network is given: whether it is the first, or second, thing asked about."""


@dataclass(frozen=True)
class Examples:
    """Questions with the graphs of their stories.

    Attributes:
        edges: ``(questions, 2, NODES, types * NODES)``, 1 where column ``type * NODES + u`` sends a
            message to row v: along edges from u to v (index 0), against edges from v to u (index 1).
        annotations: ``(questions, NODES, ANNOTATIONS)``, 0 or 1.
        labels: ``(questions, labels)`` of int64.
    """

    edges: Tensor
    annotations: Tensor
    labels: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Tensor) -> Examples:
        return Examples(self.edges[index], self.annotations[index], self.labels[index])


def examples(stories: Iterable[Story], task: int) -> Examples:
    """Build the tensors of all questions of some stories, in their order."""
    types = EDGE_TYPES[task]
    all_edges, all_annotations, all_labels = [], [], []
    for story in stories:
        edges = torch.zeros(2, NODES, types * NODES)
        for source, kind, target in story.facts:
            edges[0, target, kind * NODES + source] = 1
            edges[1, source, kind * NODES + target] = 1
        for question in story.questions:
            annotation = torch.zeros(NODES, ANNOTATIONS)
            annotation[question.first, 0] = annotation[question.second, 1] = 1
            all_edges.append(edges)
            all_annotations.append(annotation)
            all_labels.append(torch.tensor(question.labels))
    return Examples(torch.stack(all_edges), torch.stack(all_annotations), torch.stack(all_labels))
