"""Seed batches of A2C, QR-DQN and TRPO: updates equal SB3's, and trainings continue from their state."""

from __future__ import annotations

import copy
import json
from typing import Any

import numpy as np
import pytest
import torch
from sb3_contrib import QRDQN
from stable_baselines3 import A2C
from stable_baselines3.common.buffers import RolloutBufferSamples
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike

from rn_rl.agents.seed_batch.a2c import SeedBatchA2C
from rn_rl.agents.seed_batch.optimizer import ELEMENTWISE
from rn_rl.agents.seed_batch.qrdqn import SeedBatchQRDQN
from rn_rl.agents.seed_batch.trpo import SeedBatchTRPO
from rn_rl.normalization import REGISTRY
from rn_rl.normalization.popart import popart_layers
from rn_rl.policies import NormActorCriticPolicy, NormQRDQNPolicy
from tests.agents.seed_batch.test_trpo import trpo
from tests.factories import (
    envs_of,
    networks_agree,
    replay_samples,
    rollout_samples,
    slow_unless,
    to_double,
    transitions,
)

SPECS = [*REGISTRY, "ln+rn", "rn(half_life=5)"]
KINDS = ("none", "rn", "brn", "spectral", "ln+rn")
SEEDS = (3, 5, 8)


def qrdqn(norm: str, seed: int, **kwargs: Any) -> QRDQN:
    options = {
        "learning_rate": 1e-2,
        "batch_size": 16,
        "buffer_size": 300,
        "learning_starts": 20,
        "tau": 0.3,
        "target_update_interval": 8,
        "max_grad_norm": 0.05,
        "policy_kwargs": {"norm": norm, "net_arch": [8, 8], "n_quantiles": 5},
        **kwargs,
    }
    return QRDQN(NormQRDQNPolicy, "CartPole-v1", seed=seed, device="cpu", **options)


def a2c(norm: str, seed: int, **kwargs: Any) -> A2C:
    options = {
        "learning_rate": 1e-2,
        "n_steps": 16,
        "ent_coef": 0.01,
        "max_grad_norm": 0.05,
        "policy_kwargs": {"norm": norm, "net_arch": [8, 8]},
        **kwargs,
    }
    return A2C(NormActorCriticPolicy, "CartPole-v1", seed=seed, device="cpu", **options)


def give_targets(batch: Any, models: list[Any], targets: torch.Tensor) -> None:
    """Give targets ``(seeds, rows)`` to output layers that scale values, if there are any."""
    batch.stack.observe_targets(7 * targets.T)
    for model, own in zip(models, targets, strict=True):
        model.policy.set_training_mode(False)
        for layer in popart_layers(model.policy):
            if not layer.frozen:
                layer.observe_targets(7 * own)


def updates_of_qrdqn_agree(spec: str, **kwargs: Any) -> None:
    theirs, mine = ([qrdqn(spec, seed, **kwargs) for seed in SEEDS] for _ in range(2))
    for model in (*theirs, *mine):
        to_double(model.quantile_net)
        to_double(model.quantile_net_target)
        model._setup_learn(1000)
    batch = SeedBatchQRDQN(mine, envs_of(mine))
    batch.total_timesteps = 1000
    rng = np.random.default_rng(0)
    for _ in range(3):
        drawn = transitions(rng, (len(SEEDS), 16), 4)
        give_targets(batch, theirs, drawn.rewards[..., 0])
        for i, model in enumerate(theirs):
            one = replay_samples(drawn, i)
            model.replay_buffer.sample = lambda *args, one=one, **kwargs: one
            model.policy.set_training_mode(False)
            model.train(2, 16)
            model.policy.set_training_mode(False)
        batch.set_training_mode(True)
        batch.set_learning_rate()
        batch.update(drawn)
        batch.update(drawn)
        batch.set_training_mode(False)
        networks_agree(batch, theirs, lambda m: m.quantile_net_target, 1e-10)
        batch.update_targets()
        for model in theirs:
            model._n_calls = 7
            model._on_step()  # the eighth: a target update
        networks_agree(batch, theirs, lambda m: m.quantile_net, 1e-10)
        networks_agree(batch, theirs, lambda m: m.quantile_net_target, 1e-10)


def updates_of_a2c_agree(spec: str, **kwargs: Any) -> None:
    theirs, mine = ([a2c(spec, seed, **kwargs) for seed in SEEDS] for _ in range(2))
    for model in (*theirs, *mine):
        to_double(model.policy)
        model._setup_learn(1000)
    batch = SeedBatchA2C(mine, envs_of(mine))
    rng = np.random.default_rng(0)
    for _ in range(3):
        rows = (len(SEEDS), 16)
        seen = torch.from_numpy(rng.normal(size=(*rows, 4)).astype(np.float32))
        samples = rollout_samples(rng, rows)
        give_targets(batch, theirs, samples.returns)
        for i, model in enumerate(theirs):
            one = RolloutBufferSamples(seen[i], *(part[i] for part in samples))
            model.rollout_buffer.get = lambda batch_size, one=one: [one]
            model.policy.set_training_mode(False)
            model.train()
            model.policy.set_training_mode(False)
        batch.stack.set_training_mode(True)
        batch.set_learning_rate()
        batch.update(seen, samples)
        batch.stack.set_training_mode(False)
        networks_agree(batch, theirs, lambda m: m.policy, 1e-10)
    assert batch.losses.keys() == {f"train/{n}_loss" for n in ("policy", "value", "entropy")}


@pytest.mark.parametrize("spec", slow_unless(KINDS.__contains__, SPECS), indirect=True)
def test_updates_of_qrdqn_are_those_of_sb3_contrib(spec: str):
    updates_of_qrdqn_agree(spec)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("spec", slow_unless(KINDS.__contains__, SPECS), indirect=True)
def test_updates_of_a2c_are_those_of_sb3(spec: str, normalize: bool):
    updates_of_a2c_agree(spec, normalize_advantage=normalize)


@pytest.mark.parametrize("agree", [updates_of_qrdqn_agree, updates_of_a2c_agree])
@pytest.mark.parametrize("net", ["simba", "simbav2", "bronet"])
def test_updates_of_networks_are_those_of_sb3(net: str, agree: Any):
    """Decay of matrices, projections and the statistics of observations included."""
    decay = {} if net == "simbav2" else {"weight_decay": 0.5}
    norm = "rn" if net == "simbav2" else "ln+rn"
    kwargs = {"norm": norm, "net": net, "net_arch": [8], "obs_norm": "rsnorm", **decay}
    agree(norm, policy_kwargs=kwargs)


@pytest.mark.parametrize("agree", [updates_of_qrdqn_agree, updates_of_a2c_agree])
def test_updates_of_scaled_values_are_those_of_sb3(agree: Any):
    agree("ln+rn", policy_kwargs={"norm": "ln+rn", "net_arch": [8], "value_norm": "popart"})


CASES = [(qrdqn, SeedBatchQRDQN), (a2c, SeedBatchA2C), (trpo, SeedBatchTRPO)]


@pytest.mark.parametrize(("build", "cls"), CASES)
def test_a_batch_continues_from_its_state(build: Any, cls: Any):
    models = [build("ln+rn", seed) for seed in SEEDS]
    first = cls(models, envs_of(models))
    stored: list[Any] = []

    def keep() -> None:
        if first.num_timesteps == 128:
            stored.extend(copy.deepcopy(first.state(i)) for i in range(len(SEEDS)))
            stored.append(copy.deepcopy(first.envs))

    first.learn(256, on_rollout_start=keep)
    second = cls([build("ln+rn", seed + 100) for seed in SEEDS], stored.pop())
    second.seeds = list(SEEDS)
    second.restore(stored)
    second.learn(256)
    for name, mine, theirs in zip(
        first.stack.names, first.stack.tensors, second.stack.tensors, strict=True
    ):
        assert torch.equal(mine, theirs), name
    assert first.num_updates == second.num_updates > 0


@pytest.mark.parametrize(("build", "cls"), CASES)
def test_agents_of_a_batch_act_as_the_batch_does(build: Any, cls: Any):
    models = [build("rn", seed) for seed in SEEDS]
    batch = cls(models, envs_of(models))
    batch.learn(128)
    observations = np.random.default_rng(0).normal(size=(len(SEEDS), 6, 4)).astype(np.float32)
    chosen = batch.predict(observations)
    for i, seen in enumerate(observations):
        agent = batch.write_back(i)
        assert np.array_equal(agent.predict(seen, deterministic=True)[0], chosen[i])
        assert agent.num_timesteps == 128 and agent._n_updates == batch.num_updates


def test_the_rollouts_of_a2c_are_learned_from_once():
    models = [a2c("none", seed) for seed in SEEDS]
    batch = SeedBatchA2C(models, envs_of(models))
    batch.learn(160)
    assert batch.num_updates == 160 / 16


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_batches_take_each_optimizer_that_is_elementwise(name: str):
    optimizer = getattr(torch.optim, name, RMSpropTFLike)
    policy_kwargs = {"norm": "ln", "net_arch": [8], "optimizer_class": optimizer}
    models = [a2c("ln", seed, policy_kwargs=policy_kwargs, use_rms_prop=False) for seed in SEEDS]
    batch = SeedBatchA2C(models, envs_of(models))
    batch.learn(32)
    single = batch.write_back(0).policy.optimizer
    assert type(batch.optimizer) is type(single) is optimizer
    assert single.state_dict()["state"] or name == "SGD"


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_the_optimizers_whole_state_goes_into_agents_and_smaller_batches(name: str, tmp_path: Any):
    """SB3 continues from the zip. RMSpropTFLike counts its steps by an int, others by a tensor."""
    optimizer = getattr(torch.optim, name, RMSpropTFLike)
    kwargs = {"norm": "ln", "net_arch": [8], "optimizer_class": optimizer}
    options = {"policy_kwargs": kwargs, "use_rms_prop": False}
    batch = SeedBatchA2C(models := [a2c("ln", s, **options) for s in SEEDS], envs_of(models))
    single = a2c("ln", 3, **options)
    batch.learn(32)
    single.learn(32)
    batch.write_back(1).save(tmp_path / "agent")
    loaded = A2C.load(tmp_path / "agent", env=single.get_env())
    expected = single.policy.optimizer.state_dict()["state"]
    found = loaded.policy.optimizer.state_dict()["state"]
    scalars = {"step", "mu_product"}
    for number, state in expected.items():
        assert found[number].keys() == state.keys()
        for key in scalars & state.keys():
            assert found[number][key] == state[key] and type(found[number][key]) is type(state[key])
    loaded.learn(16, reset_num_timesteps=False)
    kept = copy.deepcopy([batch.state(seed) for seed in (0, 1, 2)])
    again = SeedBatchA2C(models := [a2c("ln", s, **options) for s in SEEDS], envs_of(models))
    again.restore(json.loads(json.dumps([plain for _, plain in kept])) and kept)
    batch.envs.keep([0, 2])
    for other in (again, batch.only([0, 2])):
        state = other.optimizer.state_dict()["state"].get(0, {})
        assert all(state[key] == expected[0][key] for key in scalars & state.keys())
        other.begin_episodes()
        other.learn(48)


def test_decay_of_matrices_alone_is_that_of_each_optimizer():
    """AdamW multiplies the weights, NAdam too where it is told to, and RMSprop adds to the gradients."""
    for optimizer, options in (
        (torch.optim.AdamW, {}),
        (torch.optim.NAdam, {"decoupled_weight_decay": True}),
        (torch.optim.NAdam, {}),
        (torch.optim.RMSprop, {}),
    ):
        kwargs = {"norm": "ln", "net_arch": [8], "weight_decay": 0.5}
        kwargs |= {"optimizer_class": optimizer, "optimizer_kwargs": options}
        updates_of_a2c_agree("ln", policy_kwargs=kwargs, use_rms_prop=False)
