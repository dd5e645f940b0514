"""The seed batch of CONTRIBUTING.md: its updates are those of double Q-learning in plain PyTorch."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN

from tests.factories import envs_of, networks_agree, to_double, transitions

SEEDS = (3, 5)
PAGE = Path(__file__).parents[3] / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def batch_class():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    [example] = [block for block in blocks if "class SeedBatchDoubleDQN" in block]
    names = {"__name__": "worked_example"}
    exec(compile(example, str(PAGE), "exec"), names)
    return names["SeedBatchDoubleDQN"]


def dqn(seed):
    options = {"learning_rate": 1e-2, "batch_size": 16, "buffer_size": 300, "max_grad_norm": 0.05}
    model = DQN("MlpPolicy", "CartPole-v1", seed=seed, device="cpu", **options)
    to_double(model.q_net)
    to_double(model.q_net_target)
    model._setup_learn(1000)
    with torch.no_grad():  # else both networks choose the same actions
        for parameter in model.q_net_target.parameters():
            parameter.mul_(-1)
    return model


def update(model, drawn):
    """One step of double Q-learning with the Huber loss, clipped gradients and Adam."""
    observations, following, actions, rewards, dones = drawn
    with torch.no_grad():
        best = model.q_net(following).argmax(1, keepdim=True)
        future = model.q_net_target(following).gather(1, best)
        targets = rewards + (1 - dones) * model.gamma * future
    q = model.q_net(observations).gather(1, actions)
    loss = torch.nn.functional.smooth_l1_loss(q, targets)
    model.policy.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.q_net.parameters(), model.max_grad_norm)
    model.policy.optimizer.step()


def test_updates_are_those_of_double_q_learning(batch_class):
    theirs, mine = ([dqn(seed) for seed in SEEDS] for _ in range(2))
    batch = batch_class(mine, envs_of(mine))
    batch.total_timesteps = 1000
    rng = np.random.default_rng(0)
    for _ in range(3):
        drawn = transitions(rng, (len(SEEDS), 16), 4)
        batch.update(drawn)
        for i, model in enumerate(theirs):
            update(model, [part[i] for part in drawn])
    networks_agree(batch, theirs, lambda model: model.q_net, 1e-10)
