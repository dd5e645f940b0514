"""Distinct rows of a minibatch, and the networks for which they may be computed once."""

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from torch import nn

from rn_rl.agents import SeedBatchPPO
from rn_rl.agents.seed_batch.introspection import is_row_wise
from rn_rl.agents.seed_batch.vector_envs import VecSeedEnvs
from rn_rl.engine.dedup.rows import SIZE_MULTIPLE, row_ids, unique_rows
from rn_rl.normalization import make_normalizers
from rn_rl.normalization.saliency import SaliencyNorm
from rn_rl.policies import NormActorCriticPolicy


def test_rows_have_equal_ids_where_they_are_equal():
    rng = np.random.default_rng(0)
    x = rng.integers(0, 2, (3, 40, 2, 2)).astype(np.uint8)
    ids = row_ids(x)
    equal = (x[:, :, None] == x[:, None]).all((3, 4))
    assert np.array_equal(ids[:, :, None] == ids[:, None], equal)
    assert row_ids(x.astype(np.float32)) is None


def test_unique_rows_restore_the_minibatch():
    rng = np.random.default_rng(1)
    ids = np.stack([rng.integers(0, kinds, 256) for kinds in (3, 40, 60)])
    first, inverse, counts, subsample_counts = unique_rows(ids)
    assert first.shape == counts.shape == subsample_counts.shape == (3, 4 * SIZE_MULTIPLE)
    for seed in range(3):
        assert np.array_equal(ids[seed][first[seed]][inverse[seed]], ids[seed])
        assert counts[seed].sum() == 256
        assert np.array_equal(np.bincount(inverse[seed], minlength=4 * SIZE_MULTIPLE), counts[seed])
        assert np.array_equal(
            np.bincount(inverse[seed, ::4], minlength=4 * SIZE_MULTIPLE), subsample_counts[seed]
        )


def test_rows_are_not_deduplicated_if_most_differ():
    assert unique_rows(np.arange(256)[None]) is None


@pytest.mark.parametrize(
    ("norm", "by_row"),
    [
        *((norm, True) for norm in ("none", "ln+rn", "bn", "rsn")),
        *((norm, False) for norm in ("brn", "rn-paper", "ln+rln-paper")),
    ],
)
def test_networks_that_mix_rows_are_not_deduplicated(norm: str, by_row: bool):
    """The property agrees with outputs and gradients of half a batch, alone and within the whole."""
    network = nn.Sequential(*make_normalizers(norm, 6))
    assert is_row_wise(network) == by_row
    for _ in range(3):
        network.train()(torch.randn(32, 6))
        network.eval()
    x, gradient = torch.randn(16, 6, requires_grad=True), torch.randn(8, 6)
    network.train()
    results = []
    for batch in (x, x[:8]):
        y = network(batch)[:8]
        results.append(torch.cat([y.detach(), torch.autograd.grad(y, x, gradient)[0][:8]]))
    assert torch.allclose(*results, atol=1e-6) == by_row


def test_priors_and_torchs_batch_normalization_and_dropout_mix_rows():
    assert is_row_wise(SaliencyNorm(4))
    assert not is_row_wise(SaliencyNorm(4, prior=lambda x: torch.ones(len(x))))
    assert not is_row_wise(nn.Sequential(nn.BatchNorm1d(4)))
    assert not is_row_wise(nn.Sequential(nn.Dropout()))


class Corridor(gym.Env):
    """A corridor with its goal at the right end; observations are one-hot positions, as integers."""

    observation_space = gym.spaces.Box(0, 255, (8,), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place = int(self.np_random.integers(0, 4))
        return self.image(), {}

    def step(self, action):
        self.place = max(self.place + 2 * int(action) - 1, 0)
        return self.image(), float(self.place == 7), self.place == 7, False, {}

    def image(self):
        return np.eye(8, dtype=np.uint8)[self.place]


def trained(monkeypatch, deduplicate: bool) -> tuple[np.ndarray, list[int]]:
    """Weights after four rollouts, and the number of rows that each update computed."""
    sizes = []

    def counting(ids):
        found = unique_rows(ids)
        sizes.append(ids.shape[1] if found is None else found[0].shape[1])
        return found

    monkeypatch.setattr(
        "rn_rl.engine.dedup.plan.unique_rows", counting if deduplicate else lambda _: None
    )
    models, envs = [], []
    for seed in (1, 2):
        kwargs = {"norm": "ln+rn", "net_arch": [8]}
        options = {"n_steps": 64, "batch_size": 64, "n_epochs": 2, "device": "cpu"}
        model = PPO(NormActorCriticPolicy, Corridor(), seed=seed, policy_kwargs=kwargs, **options)
        model.policy.double()
        model.policy.features_extractor.register_forward_pre_hook(lambda _, x: (x[0].double(),))
        env = model.get_env()
        env.seed(seed)
        models.append(model)
        envs.append(env)
    batch = SeedBatchPPO(models, VecSeedEnvs(envs))
    batch.learn(256)
    return batch.stack.weights.numpy(), sizes


def test_a_training_is_the_same_with_and_without_deduplication(monkeypatch):
    deduplicated, sizes = trained(monkeypatch, deduplicate=True)
    plain, _ = trained(monkeypatch, deduplicate=False)
    assert sizes == [SIZE_MULTIPLE] * 8
    np.testing.assert_allclose(deduplicated, plain, rtol=0, atol=1e-9)
