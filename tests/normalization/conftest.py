"""Fixtures that build the normalizer of any row of the registry, and its inputs."""

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl.normalization import REGISTRY, make_normalizers

FEATURES = 8


@pytest.fixture(scope="session")
def spec_of(recording):
    """Shortest spec of a row: its name, except for ``yoked``, which needs a recording."""
    return lambda name: f"yoked({recording})" if name == "yoked" else name


@pytest.fixture(scope="session")
def build(spec_of):
    """Normalizers of a spec; after a layer with fixed weights, if the spec changes those."""

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
    """Normalizers of a spec after a few phases, in evaluation mode."""

    def used(spec, phases=4):
        module = build(spec)
        for t in range(phases):
            module.train()(torch.randn(40, FEATURES) * (1 + t) + t)
            module.eval()
        return module

    return used


@pytest.fixture(scope="session")
def moving():
    """Activations of consecutive phases; mean and spread drift, differently for each feature."""

    def moving(phases, seed=0):
        rng = np.random.default_rng(seed)
        for t in range(phases):
            centre = np.linspace(-0.5, 0.7, FEATURES) * t
            yield rng.normal(size=(48, FEATURES)) * (1 + 0.3 * t) + centre

    return moving


@pytest.fixture(scope="session")
def learn_phase():
    """Train a module on the rows of x in several batches, then commit."""

    def learn_phase(module, x, batches=3):
        module.train()
        for batch in np.array_split(x, batches):
            module(torch.from_numpy(batch))
        module.eval()

    return learn_phase
