"""Seed batches of TRPO: updates equal sb3-contrib's, and each seed has its own trust region."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TRPO
from stable_baselines3.common.buffers import RolloutBufferSamples
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

from rn_rl.agents import SeedBatchTRPO, VecSeedEnvs
from rn_rl.agents.seed_batch.minibatch import RolloutSamples
from rn_rl.agents.seed_batch.trpo import conjugate_gradients
from rn_rl.normalization import REGISTRY
from rn_rl.policies import NormActorCriticPolicy
from tests.factories import envs_of, networks_agree, slow_unless, to_double

SPECS = [*REGISTRY, "ln+rn", "rn(half_life=5)", "ln+nap"]
KINDS = ("none", "rn", "brn", "spectral", "ln+nap", "ln+rn")
SEEDS = (3, 5, 8)
ROWS = 48


def trpo(norm: str, seed: int, env: Any = "CartPole-v1", **kwargs: Any) -> TRPO:
    policy_kwargs = {"norm": norm, "net_arch": [8, 8], **kwargs.pop("more", {})}
    options = {
        "learning_rate": 1e-2,
        "n_steps": 16,
        "batch_size": 16,
        "target_kl": 0.02,
        "cg_max_steps": 5,  # with more, conjugate gradients amplify rounding
        "n_critic_updates": 2,
        "policy_kwargs": policy_kwargs,
        **kwargs,
    }
    return TRPO(NormActorCriticPolicy, env, seed=seed, device="cpu", **options)


def drawn(rng: np.random.Generator, model: Any) -> tuple[torch.Tensor, RolloutSamples]:
    """Random rollouts of all seeds whose log probabilities are near the policies'."""
    shape = (len(SEEDS), ROWS)
    seen = torch.from_numpy(rng.normal(size=(*shape, *model.observation_space.shape)))
    if isinstance(model.action_space, spaces.Discrete):
        actions = torch.from_numpy(rng.integers(0, 2, shape))
    else:
        actions = torch.from_numpy(rng.normal(size=(*shape, *model.action_space.shape)))
    numbers = [torch.from_numpy(rng.normal(size=shape)) for _ in range(4)]
    numbers[1] = -0.7 * actions[0].dim() + 0.1 * numbers[1]
    return seen.float(), RolloutSamples(actions, *numbers)


def agree(norm: str, monkeypatch: pytest.MonkeyPatch, **kwargs: Any) -> list[torch.Tensor]:
    """Assert that three trainings on the same rollouts end in the same networks.

    Returns:
        Whether the line search of each seed found a step, for each training.
    """
    theirs, mine = ([trpo(norm, seed, **kwargs) for seed in SEEDS] for _ in range(2))
    for model in (*theirs, *mine):
        to_double(model.policy)
        model._setup_learn(1000)
    batch = SeedBatchTRPO(mine, VecSeedEnvs([model.env for model in mine]))
    rng = np.random.default_rng(0)
    succeeded = []
    for _ in range(3):
        seen, samples = drawn(rng, theirs[0])
        begins = rng.normal(size=(batch.size, sum(batch.stack.sizes)))
        monkeypatch.setattr(batch.region, "step", with_begin(batch.region, 1e-4 * begins))
        batch.stack.set_training_mode(True)
        batch.set_learning_rate()
        batch.update_policies(seen, samples)
        for _ in range(2):
            for rows in minibatches(16):
                batch.update_values(seen[:, rows], samples.returns[:, rows])
        batch.stack.set_training_mode(False)
        for i, model in enumerate(theirs):
            model.rollout_buffer.get = rollouts(seen[i], [part[i] for part in samples])
            begin = torch.from_numpy(begins[i])[batch.region.columns]
            monkeypatch.setattr(torch, "randn_like", lambda b, begin=begin: begin.clone())
            model.policy.set_training_mode(False)
            model.train()
            model.policy.set_training_mode(False)
            found = model.logger.name_to_value
            for name in ("policy_objective", "kl_divergence_loss", "is_line_search_success"):
                value = float(batch.losses[f"train/{name}"][i])
                assert value == pytest.approx(float(found[f"train/{name}"]), rel=1e-9, abs=1e-12)
            model.logger.name_to_value.clear()
        networks_agree(batch, theirs, lambda m: m.policy, 1e-10)
        succeeded.append(batch.losses["train/is_line_search_success"].bool())
    return succeeded


def minibatches(size: int | None) -> list[slice]:
    return [slice(i, i + (size or ROWS)) for i in range(0, ROWS, size or ROWS)]


def rollouts(seen: torch.Tensor, parts: list[torch.Tensor]) -> Any:
    def get(batch_size: int | None = None) -> Any:
        for rows in minibatches(batch_size):
            yield RolloutBufferSamples(seen[rows], *(part[rows] for part in parts))

    return get


def with_begin(region: Any, begin: np.ndarray) -> Any:
    step = type(region).step

    def from_here(observations: Any, samples: Any, advantages: Any, _: Any) -> Any:
        return step(region, observations, samples, advantages, torch.from_numpy(begin))

    return from_here


@pytest.mark.parametrize("spec", slow_unless(KINDS.__contains__, SPECS), indirect=True)
def test_updates_are_those_of_sb3_contrib(spec: str, monkeypatch: pytest.MonkeyPatch):
    assert any(found.any() for found in agree(spec, monkeypatch))


@pytest.mark.parametrize("normalize", [False, True])
def test_updates_with_continuous_actions_are_those_of_sb3_contrib(
    normalize: bool, monkeypatch: pytest.MonkeyPatch
):
    kwargs = {"normalize_advantage": normalize, "env": "Pendulum-v1"}
    assert any(found.any() for found in agree("ln+rn", monkeypatch, **kwargs))


@pytest.mark.parametrize("steps", [1, 3])
def test_seeds_end_their_line_searches_at_different_steps(
    steps: int, monkeypatch: pytest.MonkeyPatch
):
    # the first step of some seeds is too long, a shorter one is not
    found = torch.stack(agree("rn", monkeypatch, line_search_max_iter=steps, target_kl=16.0))
    assert found.any() and found.all() == (steps == 3)


def test_a_decay_of_weights_is_the_values_alone(monkeypatch: pytest.MonkeyPatch):
    decay = {"optimizer_class": torch.optim.AdamW, "optimizer_kwargs": {"weight_decay": 0.1}}
    agree("ln", monkeypatch, more=decay)


def test_shared_features_are_the_policys(monkeypatch: pytest.MonkeyPatch):
    features = {"features_extractor_class": Shared, "share_features_extractor": True}
    agree("rn", monkeypatch, more=features)


class Shared(BaseFeaturesExtractor):
    """One layer that policy and values share."""

    def __init__(self, observation_space: spaces.Space) -> None:
        super().__init__(observation_space, features_dim=6)
        self.layer = nn.Linear(4, 6)

    def forward(self, observations: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.layer(observations))


def test_policies_stay_within_their_trust_regions():
    models = [trpo("ln+rn", seed, n_steps=128, target_kl=0.003) for seed in SEEDS]
    batch = SeedBatchTRPO(models, envs_of(models))
    divergences = []

    def keep() -> None:
        if batch.losses:
            divergences.append(batch.losses["train/kl_divergence_loss"])

    batch.learn(1024, on_rollout_start=keep)
    assert batch.num_updates == 8
    found = torch.stack(divergences)
    assert (found < 0.003).all() and (found > 0).float().mean() > 0.8


def test_a_part_of_the_rollout_is_enough_for_the_policy():
    models = [trpo("none", seed, sub_sampling_factor=4) for seed in SEEDS]
    batch = SeedBatchTRPO(models, envs_of(models))
    seen = []
    step = batch.region.step

    def count(observations: Any, *rest: Any) -> Any:
        seen.append(observations.shape)
        return step(observations, *rest)

    batch.region.step = count  # type: ignore[method-assign]
    batch.learn(32)
    assert seen == [(3, 4, 4)] * 2


def test_conjugate_gradients_solve_the_system_of_each_seed():
    rng = np.random.default_rng(0)
    roots = torch.from_numpy(rng.normal(size=(3, 6, 6)))
    matrices = roots @ roots.mT + torch.eye(6, dtype=torch.float64)
    b = torch.from_numpy(rng.normal(size=(3, 6)))
    b[1] = 0  # ends before the first step

    def product(x: torch.Tensor) -> torch.Tensor:
        return (matrices @ x[..., None])[..., 0]

    found = conjugate_gradients(product, b, torch.zeros_like(b), steps=20)
    torch.testing.assert_close(found, torch.linalg.solve(matrices, b), rtol=1e-4, atol=1e-5)
    assert (found[1] == 0).all()


def test_a_seed_that_diverges_leaves_the_others_alone():
    weights = {}
    for poisoned in (False, True):
        models = [trpo("ln+rn", seed, n_steps=64, more={"value_norm": "popart"}) for seed in SEEDS]
        batch = SeedBatchTRPO(models, envs_of(models))
        step = batch.envs.step

        def poison(actions: Any, step: Any = step, batch: Any = batch) -> Any:
            result = step(actions)
            if batch.num_timesteps == 100:
                result.rewards = result.rewards.copy()
                result.rewards[1] = np.nan
            return result

        if poisoned:
            batch.envs.step = poison  # type: ignore[method-assign]
        batch.learn(256)
        weights[poisoned] = batch.stack.weights
    assert weights[True][1].isnan().any() and weights[False].isfinite().all()
    for seed in (0, 2):
        assert torch.equal(weights[True][seed], weights[False][seed])
