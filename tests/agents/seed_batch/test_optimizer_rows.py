"""Optimizers of stacked weights: their state by seed, and rounding that does not depend on the batch."""

import pytest
import torch
from torch import nn

from rn_rl.agents.seed_batch.optimizer import stacked_optimizer
from rn_rl.engine.ensemble import ModuleStack, to_rows


def weights_after(optimizer, size, steps=2000):
    """The weights of the second of so many networks after updates by random gradients."""
    drawn = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    networks = [nn.Linear(4, 7) for _ in range(5)][:size]
    stack = ModuleStack(networks)
    stacked = stacked_optimizer(stack.weights, optimizer(networks[0].parameters(), lr=1e-3))
    for _ in range(steps):
        gradients = torch.randn(5, 35, generator=drawn)[:size]
        stack.weights.grad = to_rows([gradients])
        stacked.step()
    return stack.weights[1, :35].clone(), stack


@pytest.mark.parametrize(
    "optimizer", [torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop, torch.optim.NAdam]
)
def test_no_weight_is_rounded_as_the_rest_of_a_loop(optimizer):
    """Loops over all weights take several at once and round the rest otherwise: the last seed's."""
    mine, stack = weights_after(optimizer, 2)
    theirs, _ = weights_after(optimizer, 5)
    assert torch.equal(mine, theirs)
    assert stack.weights.shape == (2, 64) and not stack.weights[:, 35:].any()
