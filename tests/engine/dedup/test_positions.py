"""What lies at the places of images, and layers that read all of them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from rn_rl.engine.dedup.positions import (
    SIZE_MULTIPLE,
    PositionContent,
    places,
    position_major,
    products,
)
from rn_rl.engine.ensemble import ModuleStack
from rn_rl.engine.trace import TracedFunction

SEEDS, ROWS, COUNT, CONTENTS, CHANNELS = 3, 20, 6, 12, 5


def images() -> np.ndarray:
    """Which content lies where; one seed sees one image."""
    rng = np.random.default_rng(0)
    found = rng.integers(0, CONTENTS, (SEEDS, 7, COUNT)) * rng.integers(0, 2, (SEEDS, 7, COUNT))
    found = found[:, rng.integers(0, 7, ROWS)]
    found[1] = found[1, 0]
    return found


def test_pairs_of_place_and_content():
    given = images()
    found = places(given, CONTENTS)
    for seed, mine in enumerate(given):
        expected = sorted({(p, c) for image in mine for p, c in enumerate(image)})
        contents, ends, pairs, by_pair, firsts = (part[seed] for part in found)
        assert [c for _, c in expected] == contents[: len(expected)].tolist()
        assert [sum(p <= q for p, _ in expected) for q in range(COUNT)] == ends.tolist()
        assert [[expected.index((p, c)) for p, c in enumerate(image)] for image in mine] == (
            pairs.tolist()
        )
        of_pairs = np.split(by_pair, firsts[1 : len(expected)])
        for (p, c), these in zip(expected, of_pairs, strict=True):
            assert these.tolist() == np.flatnonzero(mine[:, p] == c).tolist()
    assert found.contents.shape == found.firsts.shape == (SEEDS, SIZE_MULTIPLE)


def test_many_pairs_are_sorted_too():
    """More than 16 bits can number."""
    given = np.arange(70_000).reshape(1, -1, 2)
    found = places(given, 70_000)
    assert found.images.tolist() == [[*range(35_000)] * 2]


@pytest.mark.parametrize("recorded", [True, False], ids=["recorded", "eager"])
def test_products_are_those_of_images(recorded: bool):
    """Answers and gradients, to rounding."""
    torch.manual_seed(0)
    alone = [nn.Linear(CHANNELS * COUNT, 4).double() for _ in range(SEEDS)]
    stack = ModuleStack(alone)
    x = torch.randn(SEEDS, CONTENTS, CHANNELS, dtype=torch.float64)
    where = places(images(), CONTENTS)

    def answer(layer: nn.Linear, x: Tensor, *given: Tensor) -> Tensor:
        return (
            products(x, position_major(layer.weight, COUNT), PositionContent(*given)) + layer.bias
        )

    def gradients(*tensors: Tensor) -> tuple[Tensor, ...]:
        leaves = [t.detach().requires_grad_() for t in tensors[:3]]
        y = stack.vmap_modules(answer, leaves[:2], leaves[2], *tensors[3:], training=True)
        return y.detach(), *torch.autograd.grad(y.square().sum(), leaves)

    function: Any = TracedFunction(gradients) if recorded else gradients
    found = function(*stack.tensors, x, *map(torch.from_numpy, where))
    for seed, layer in enumerate(alone):
        mine = x[seed].clone().requires_grad_()
        y = layer(mine[images()[seed]].transpose(1, 2).flatten(1))
        expected = y, *torch.autograd.grad(y.square().sum(), [*layer.parameters(), mine])
        for ours, theirs in zip(found, expected, strict=True):
            torch.testing.assert_close(ours[seed], theirs.detach(), rtol=1e-12, atol=1e-12)


def test_columns_by_place_and_back():
    weight = torch.arange(2 * 12.0).view(2, 12)
    features = torch.arange(12.0).view(3, 4)  # channels, places
    moved = position_major(weight, 4)
    torch.testing.assert_close(moved @ features.t().flatten(), weight @ features.flatten())
    assert torch.equal(position_major(moved, 3), weight)
