"""The seed batch of CONTRIBUTING.md: its updates are those of sb3-contrib's QR-DQN."""

import re
from pathlib import Path

import numpy as np
import pytest
from sb3_contrib import QRDQN

from tests.factories import envs_of, networks_agree, replay_samples, to_double, transitions

SEEDS = (3, 5)
PAGE = Path(__file__).parents[3] / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def batch_class():
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.DOTALL | re.MULTILINE)
    [example] = [block for block in blocks if "class SeedBatchQRDQN" in block]
    names = {"__name__": "worked_example"}
    exec(compile(example, str(PAGE), "exec"), names)
    return names["SeedBatchQRDQN"]


def qrdqn(seed):
    model = QRDQN(
        "MlpPolicy",
        "CartPole-v1",
        seed=seed,
        device="cpu",
        learning_rate=1e-2,
        batch_size=16,
        buffer_size=300,
        tau=0.3,
        target_update_interval=8,
        max_grad_norm=0.05,
        policy_kwargs={"net_arch": [8, 8], "n_quantiles": 5},
    )
    to_double(model.quantile_net)
    to_double(model.quantile_net_target)
    model._setup_learn(1000)
    return model


def test_updates_are_those_of_sb3_contrib(batch_class):
    theirs, mine = ([qrdqn(seed) for seed in SEEDS] for _ in range(2))
    batch = batch_class(mine, envs_of(mine))
    batch.total_timesteps = 1000
    rng = np.random.default_rng(0)
    for _ in range(2):
        drawn = transitions(rng, (len(SEEDS), 16), 4)
        for i, model in enumerate(theirs):
            model.replay_buffer.sample = lambda *args, i=i, **kwargs: replay_samples(drawn, i)  # noqa: B023
            model.train(2, 16)
            model._n_calls = 7
            model._on_step()  # the eighth: a target update
        batch.set_learning_rate()
        batch.update(drawn)
        batch.update(drawn)
        batch.update_targets()
        networks_agree(batch, theirs, lambda model: model.quantile_net, 1e-10)
        networks_agree(batch, theirs, lambda model: model.quantile_net_target, 1e-10)
    seen = rng.normal(size=(len(SEEDS), 6, 4)).astype(np.float32)
    for actions, given, model in zip(batch.predict(seen), seen, theirs, strict=True):
        assert np.array_equal(actions, model.predict(given, deterministic=True)[0])
