"""Modules for every row of the registry, also for those that need a layer or a recording."""

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl.normalization import REGISTRY, make_normalizers

FEATURES = 8


@pytest.fixture(scope="session")
def spec_of(recording):
    """The shortest spec for the name of a row: the name, but for the one that needs an argument."""
    return lambda name: f"yoked({recording})" if name == "yoked" else name


@pytest.fixture(scope="session")
def build(spec_of):
    """What a spec adds to a layer; with the (always same) layer, where it changes that."""

    def build(spec, features=FEATURES):
        layers = []
        if spec in REGISTRY and REGISTRY[spec].reparametrize is not None:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                layers = [nn.Linear(features, features)]
        return nn.Sequential(*layers, *make_normalizers(spec_of(spec), features, *layers))

    return build


@pytest.fixture(scope="session")
def used(build):
    """The same with a few phases behind it, in evaluation mode."""

    def used(spec, phases=4):
        module = build(spec)
        for t in range(phases):
            module.train()(torch.randn(40, FEATURES) * (1 + t) + t)
            module.eval()
        return module

    return used


@pytest.fixture(scope="session")
def moving():
    """Activations of one phase after the other; mean and spread drift, differently per feature."""

    def moving(phases, seed=0):
        rng = np.random.default_rng(seed)
        for t in range(phases):
            centre = np.linspace(-0.5, 0.7, FEATURES) * t
            yield rng.normal(size=(48, FEATURES)) * (1 + 0.3 * t) + centre

    return moving


@pytest.fixture(scope="session")
def learn_phase():
    """Training forwards on the rows of x, batch by batch, and then the commit."""

    def learn_phase(module, x, batches=3):
        module.train()
        for batch in np.array_split(x, batches):
            module(torch.from_numpy(batch))
        module.eval()

    return learn_phase
