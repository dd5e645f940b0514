"""Every test begins with the same random numbers; specs of the whole registry, the recorded run's too; an
environment that presses Ctrl-C."""

import os
import random
import signal
import sys
from pathlib import Path

import gymnasium as gym
import hypothesis
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv

from rn_rl.normalization import REGISTRY

ROOT = Path(__file__).parents[1]

torch.set_num_threads(1)  # there is a worker for each core
# the same examples in every run; `make fuzz` looks for others
hypothesis.settings.register_profile("seeded", derandomize=True, database=None)
hypothesis.settings.load_profile("seeded")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    """Whatever ran before in this process, and before the fixtures."""
    seed_all()


def pytest_collectstart(collector):
    """Layers in parameters are made when their module is imported."""
    if isinstance(collector, pytest.Module):
        seed_all()


def seed_all():
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session", autouse=True)
def configuration(tmp_path_factory):
    """The user's configuration folder, with the key of signatures, and SB3's logs are temporary."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CONFIG_HOME", str(tmp_path_factory.mktemp("configuration")))
        patch.setenv("SB3_LOGDIR", str(tmp_path_factory.mktemp("logs")))
        yield


@pytest.fixture(autouse=True)
def import_path(monkeypatch):
    """The commands append the current folder to the path of imports; the next test has another."""
    monkeypatch.setattr(sys, "path", [*sys.path])


@pytest.fixture(autouse=True)
def registered_names():
    """Normalizers that a test registers, as code of the docs does, are unknown to the next test."""
    before = dict(REGISTRY)
    yield
    REGISTRY.clear()
    REGISTRY.update(before)


@pytest.fixture(scope="session", autouse=True)
def clean_checkout():
    """Nothing is written into the checkout."""
    caches = {".pytest_cache", ".hypothesis", "__pycache__"}
    before = {*os.listdir(ROOT)}
    yield
    left = {*os.listdir(ROOT)} - before - caches
    assert not left, f"a test left {sorted(left)} in {ROOT}"


@pytest.fixture(scope="session")
def recording(tmp_path_factory):
    """A run folder with gains: 31 phases of 4 layers, none like another."""
    folder = tmp_path_factory.mktemp("recorded")
    gains = 0.5 + np.sqrt(np.arange(1, 125)).reshape(31, 4)
    np.savez(
        folder / "code_length.npz",
        layers=np.array(["pi.1", "pi.4", "vf.1", "vf.4"]),
        timesteps=np.arange(31) * 64,
        gains=gains,
    )
    return folder


@pytest.fixture
def spec(request, recording):
    """For ``parametrize(..., indirect=True)``: a row by its name, such that it acts in few phases."""
    return {"yoked": f"yoked({recording})", "hs": "hs(rate=0.1)"}.get(request.param, request.param)


class InterruptingCartPole(CartPoleEnv):
    """Presses Ctrl-C at a step, once in the life of the process."""

    at = 0
    steps = 0

    def step(self, action):
        InterruptingCartPole.steps += 1
        if InterruptingCartPole.steps == InterruptingCartPole.at:
            os.kill(os.getpid(), signal.SIGINT)
        return super().step(action)


gym.register("InterruptingCartPole-v1", entry_point=InterruptingCartPole, max_episode_steps=500)


@pytest.fixture
def interrupting():
    """The class behind ``InterruptingCartPole-v1``: set ``steps`` to 0, and ``at`` to the step."""
    return InterruptingCartPole
