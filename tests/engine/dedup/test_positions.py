"""Pairs of position and content in images, and the dense layer that is computed by pairs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rn_rl.engine.dedup.positions import (
    SIZE_MULTIPLE,
    PositionContent,
    position_content,
    position_linear,
    position_major,
)
from rn_rl.engine.ensemble import ModuleStack
from rn_rl.engine.trace import TracedFunction

SEEDS, ROWS, COUNT, CONTENTS, CHANNELS = 3, 20, 6, 12, 5


def images() -> np.ndarray:
    """Index of the content at each position; one seed has a single image."""
    rng = np.random.default_rng(0)
    found = rng.integers(0, CONTENTS, (SEEDS, 7, COUNT)) * rng.integers(0, 2, (SEEDS, 7, COUNT))
    found = found[:, rng.integers(0, 7, ROWS)]
    found[1] = found[1, 0]
    return found


def test_pairs_of_position_and_content():
    indices = images()
    found = position_content(indices, CONTENTS)
    for seed, image_rows in enumerate(indices):
        expected = sorted({(p, c) for image in image_rows for p, c in enumerate(image)})
        contents, ends, pairs, by_pair, firsts = (part[seed] for part in found)
        assert [c for _, c in expected] == contents[: len(expected)].tolist()
        assert [sum(p <= q for p, _ in expected) for q in range(COUNT)] == ends.tolist()
        assert [[expected.index((p, c)) for p, c in enumerate(image)] for image in image_rows] == (
            pairs.tolist()
        )
        of_pairs = np.split(by_pair, firsts[1 : len(expected)])
        for (p, c), rows in zip(expected, of_pairs, strict=True):
            assert rows.tolist() == np.flatnonzero(image_rows[:, p] == c).tolist()
    assert found.contents.shape == found.offsets.shape == (SEEDS, SIZE_MULTIPLE)


def test_more_pairs_than_16_bits_can_count():
    indices = np.arange(70_000).reshape(1, -1, 2)
    found = position_content(indices, 70_000)
    assert found.images.tolist() == [[*range(35_000)] * 2]


@pytest.mark.parametrize("traced", [True, False], ids=["traced", "eager"])
def test_a_dense_layer_by_pairs_equals_that_of_images(traced: bool):
    """Outputs and gradients, up to rounding."""
    torch.manual_seed(0)
    alone = [nn.Linear(CHANNELS * COUNT, 4).double() for _ in range(SEEDS)]
    stack = ModuleStack(alone)
    x = torch.randn(SEEDS, CONTENTS, CHANNELS, dtype=torch.float64)
    where = position_content(images(), CONTENTS)

    def forward(layer: nn.Linear, x: Tensor, *where: Tensor) -> Tensor:
        return (
            position_linear(x, position_major(layer.weight, COUNT), PositionContent(*where))
            + layer.bias
        )

    def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = [t.detach().requires_grad_() for t in tensors[:3]]
        y = stack.vmap_modules(forward, leaves[:2], leaves[2], *tensors[3:], training=True)
        return y.detach(), *torch.autograd.grad(y.square().sum(), leaves)

    function: Any = TracedFunction(gradients) if traced else gradients
    found = function(*stack.tensors, x, *map(torch.from_numpy, where))
    for seed, layer in enumerate(alone):
        x_of_seed = x[seed].clone().requires_grad_()
        y = layer(x_of_seed[images()[seed]].transpose(1, 2).flatten(1))
        expected = y, *torch.autograd.grad(y.square().sum(), [*layer.parameters(), x_of_seed])
        for actual, reference in zip(found, expected, strict=True):
            torch.testing.assert_close(actual[seed], reference.detach(), rtol=1e-12, atol=1e-12)


def test_position_major_is_inverted_by_the_number_of_channels():
    weight = torch.arange(2 * 12.0).view(2, 12)
    features = torch.arange(12.0).view(3, 4)  # channels, places
    moved = position_major(weight, 4)
    torch.testing.assert_close(moved @ features.t().flatten(), weight @ features.flatten())
    assert torch.equal(position_major(moved, 3), weight)
