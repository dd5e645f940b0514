"""Modules for every row of the registry, also for those that need a layer or a recording."""

import numpy as np
import pytest
import torch
from torch import nn

from rn_rl.normalization import REGISTRY, make_normalizers

FEATURES = 8


@pytest.fixture(scope="session")
def recording(tmp_path_factory):
    """A run folder with gains: 31 phases of 2 layers, none like another."""
    folder = tmp_path_factory.mktemp("recorded")
    gains = 0.5 + np.sqrt(np.arange(1, 63)).reshape(31, 2)
    np.savez(
        folder / "code_length.npz",
        layers=np.array(["head.1", "head.4"]),
        timesteps=np.arange(31) * 64,
        gains=gains,
    )
    return folder


@pytest.fixture(scope="session")
def build(recording):
    """What a spec adds to a layer; with the (always same) layer, where it changes that."""

    def build(spec, features=FEATURES):
        layers = []
        if spec in REGISTRY and REGISTRY[spec].reparametrize is not None:
            with torch.random.fork_rng():
                torch.manual_seed(0)
                layers = [nn.Linear(features, features)]
        if spec == "yoked":
            spec = f"yoked({recording})"
        return nn.Sequential(*layers, *make_normalizers(spec, features, *layers))

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
