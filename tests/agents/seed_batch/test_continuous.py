"""Seed batches of SAC, TD3, DDPG and TQC: updates equal SB3's, and a seed is independent of others."""

from __future__ import annotations

import copy
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import TQC, CrossQ
from sb3_contrib.common.torch_layers import BatchRenorm
from stable_baselines3 import DDPG, SAC, TD3
from stable_baselines3.common.buffers import ReplayBufferSamples
from stable_baselines3.common.noise import NormalActionNoise, OrnsteinUhlenbeckActionNoise
from stable_baselines3.common.vec_env import DummyVecEnv

from rn_rl.agents import VecSeedEnvs
from rn_rl.agents.seed_batch.crossq import SeedBatchCrossQ
from rn_rl.agents.seed_batch.minibatch import Transitions
from rn_rl.agents.seed_batch.rng import gaussian
from rn_rl.agents.seed_batch.sac import SeedBatchSAC
from rn_rl.agents.seed_batch.td3 import SeedBatchTD3
from rn_rl.agents.seed_batch.tqc import SeedBatchTQC
from rn_rl.errors import UserError
from rn_rl.normalization import REGISTRY
from rn_rl.normalization.popart import popart_layers
from rn_rl.policies import NormCrossQPolicy, NormSACPolicy, NormTD3Policy, NormTQCPolicy
from tests.factories import envs_of, slow_unless, to_double

SPECS = [*REGISTRY, "ln+rn", "rn(half_life=5)"]
KINDS = ("none", "rn", "brn", "spectral", "ln+rn")
OBEYING = [spec for spec in SPECS if not spec.endswith("-paper")]
SEEDS = (3, 5, 8)
SAMPLED = (SAC, TQC, CrossQ)
BATCH = 16


POLICIES = {SAC: NormSACPolicy, TQC: NormTQCPolicy, CrossQ: NormCrossQPolicy}


def draws(cls: Any, update: int) -> tuple[int, ...]:
    """Order in which SB3 samples actions in an update: 0 at observations, 1 at the next ones."""
    if cls is CrossQ:  # the actor learns in every third
        return (1, 0) if (update + 1) % 3 == 0 else (1,)
    return (0, 1) if cls in SAMPLED else (0,)


def agent(cls: Any, norm: str, seed: int, **kwargs: Any) -> Any:
    widths = [8] if norm.startswith("yoked") else [8, 8]  # the recording has four layers
    options = {
        "learning_rate": 1e-2,
        "batch_size": BATCH,
        "buffer_size": 300,
        "learning_starts": 20,
        # the gradient of a bias before brn is 0, and Adam's default eps would magnify its rounding
        "policy_kwargs": {"norm": norm, "net_arch": widths, "optimizer_kwargs": {"eps": 1e-5}},
        **kwargs,
    }
    if cls is not CrossQ:  # it has no targets
        options["tau"] = 0.3
    policy = POLICIES.get(cls, NormTD3Policy)
    return cls(policy, "Pendulum-v1", seed=seed, device="cpu", **options)


def in_float64(model: Any) -> Any:
    for name in ("actor", "critic", "actor_target", "critic_target"):
        if getattr(model, name, None) is not None:
            to_double(getattr(model, name))
    if isinstance(model, SAMPLED):
        if model.ent_coef_optimizer is None:
            model.ent_coef_tensor = model.ent_coef_tensor.double()
        else:
            model.log_ent_coef.data = model.log_ent_coef.data.double()
    model._setup_learn(1000)
    return model


def drawn(rng: np.random.Generator) -> Transitions:
    """Random minibatches of Pendulum."""
    rows = (len(SEEDS), BATCH)
    return Transitions(
        torch.from_numpy(rng.normal(size=(*rows, 3))),
        torch.from_numpy(rng.normal(size=(*rows, 3))),
        torch.from_numpy(rng.uniform(-1, 1, size=(*rows, 1))),
        torch.from_numpy(3 * rng.normal(size=(*rows, 1))),
        torch.from_numpy(rng.integers(0, 2, (*rows, 1)).astype(float)),
    )


def agree(batch: Any, theirs: list[Any]) -> None:
    for i, model in enumerate(theirs):
        mine = batch.write_back(i)
        expected = model.policy.state_dict()
        for name, value in mine.policy.state_dict().items():
            torch.testing.assert_close(value, expected[name], rtol=0, atol=1e-9, msg=name)
        if isinstance(model, SAMPLED) and model.ent_coef_optimizer is not None:
            torch.testing.assert_close(mine.log_ent_coef, model.log_ent_coef, rtol=0, atol=1e-9)


def updates_agree(cls: Any, batch_cls: Any, spec: str, monkeypatch: Any, **kwargs: Any) -> Any:
    """Take five updates of one minibatch each, in two phases, and compare."""
    theirs, mine = (
        [in_float64(agent(cls, spec, seed, **kwargs)) for seed in SEEDS] for _ in range(2)
    )
    batch = batch_cls(mine, envs_of(mine, "Pendulum-v1"))
    batch.total_timesteps = 1000
    streams = batch.update_noise if cls in SAMPLED else batch.smoothing
    rng = np.random.default_rng(0)
    for done, updates in ((0, 2), (2, 3)):
        minibatches = [drawn(rng) for _ in range(updates)]
        uniform = [rng.random(streams.draw().shape) for _ in range(updates)]
        for i, model in enumerate(theirs):
            samples = iter(
                [
                    ReplayBufferSamples(
                        m.observations[i],
                        m.actions[i],
                        m.next_observations[i],
                        m.dones[i],
                        m.rewards[i],
                    )
                    for m in minibatches
                ]
            )
            noise = iter(
                [
                    torch.from_numpy(gaussian(one[i])[k] if cls in SAMPLED else gaussian(one[i]))
                    for update, one in enumerate(uniform, done)
                    for k in draws(cls, update)
                ]
            )
            with monkeypatch.context() as patch:
                patch.setattr(
                    torch.distributions.Normal,
                    "rsample",
                    lambda self, shape=(), noise=noise: self.loc + self.scale * next(noise),
                )
                patch.setattr(
                    torch.Tensor,
                    "normal_",
                    lambda self, mean, std, noise=noise: self.copy_(std * next(noise)),
                )
                model.replay_buffer.sample = lambda *args, samples=samples, **kwargs: next(samples)
                model.policy.set_training_mode(False)
                for layer in popart_layers(model.critic):
                    layer.observe_targets(sum(m.rewards[i] for m in minibatches))
                model.train(updates, BATCH)
                model.policy.set_training_mode(False)
        batch.critic.observe_targets(sum(m.rewards for m in minibatches)[..., 0].T)
        batch.set_training_mode(True)
        batch.set_learning_rate()
        batch._gradient_step = 0
        given = iter(uniform)
        streams.draw = lambda given=given: next(given)
        for minibatch in minibatches:
            batch.update(minibatch)
        del streams.draw
        batch.set_training_mode(False)
        agree(batch, theirs)
    return batch


def test_updates_of_scaled_values_are_those_of_sb3(monkeypatch: pytest.MonkeyPatch):
    kwargs = {"norm": "ln+rn", "net_arch": [8], "value_norm": "popart"}
    updates_agree(SAC, SeedBatchSAC, "ln+rn", monkeypatch, policy_kwargs=kwargs)


@pytest.mark.parametrize(("cls", "batch"), [(SAC, SeedBatchSAC), (TD3, SeedBatchTD3)])
@pytest.mark.parametrize("net", ["simba", "simbav2", "bronet"])
def test_updates_of_networks_are_those_of_sb3(
    net: str, cls: Any, batch: Any, monkeypatch: pytest.MonkeyPatch
):
    """Decay of matrices, projections and the statistics of observations included."""
    decay = {} if net == "simbav2" else {"weight_decay": 0.5}
    norm = "rn" if net == "simbav2" else "ln+rn"
    kwargs = {"norm": norm, "net": net, "net_arch": [8], "obs_norm": "rsnorm", **decay}
    updates_agree(cls, batch, norm, monkeypatch, policy_kwargs=kwargs)


@pytest.mark.parametrize("spec", slow_unless(KINDS.__contains__, OBEYING), indirect=True)
def test_updates_of_sac_are_those_of_sb3(spec: str, monkeypatch: pytest.MonkeyPatch):
    batch = updates_agree(SAC, SeedBatchSAC, spec, monkeypatch, target_update_interval=2)
    assert batch.losses.keys() == {
        "train/actor_loss", "train/critic_loss", "train/ent_coef", "train/ent_coef_loss"
    }  # fmt: skip


@pytest.mark.parametrize(("cls", "batch_cls"), [(SAC, SeedBatchSAC), (TQC, SeedBatchTQC)])
def test_published_normalizers_of_sac_are_refused(cls: Any, batch_cls: Any):
    """Their state moves in each forward, and a batch has another order of forwards than SB3."""
    models = [agent(cls, "ln+rn-paper", seed) for seed in SEEDS]
    with pytest.raises(UserError, match=r"ln\+rn-paper changes its state inside an update"):
        batch_cls(models, envs_of(models, "Pendulum-v1"))


def test_updates_of_sac_with_a_fixed_entropy_coefficient(monkeypatch: pytest.MonkeyPatch):
    updates_agree(SAC, SeedBatchSAC, "ln+rn", monkeypatch, ent_coef=0.3)


@pytest.mark.parametrize("spec", slow_unless(KINDS.__contains__, SPECS), indirect=True)
def test_updates_of_td3_are_those_of_sb3(spec: str, monkeypatch: pytest.MonkeyPatch):
    updates_agree(TD3, SeedBatchTD3, spec, monkeypatch)


def test_updates_of_ddpg_are_those_of_sb3(monkeypatch: pytest.MonkeyPatch):
    updates_agree(DDPG, SeedBatchTD3, "ln+rn", monkeypatch)


@pytest.mark.parametrize("spec", slow_unless(KINDS.__contains__, OBEYING), indirect=True)
def test_updates_of_tqc_are_those_of_sb3_contrib(spec: str, monkeypatch: pytest.MonkeyPatch):
    updates_agree(TQC, SeedBatchTQC, spec, monkeypatch)


@pytest.mark.parametrize("spec", slow_unless(KINDS.__contains__, SPECS), indirect=True)
def test_updates_of_crossq_are_those_of_sb3_contrib(spec: str, monkeypatch: pytest.MonkeyPatch):
    """With its own batch renormalization, of which the warm-up ends after three updates."""
    init = BatchRenorm.__init__
    monkeypatch.setattr(
        BatchRenorm,
        "__init__",
        lambda *args, **kwargs: init(*args, **{**kwargs, "warmup_steps": 2}),
    )
    batch = updates_agree(CrossQ, SeedBatchCrossQ, spec, monkeypatch)
    named = zip(batch.critic.names, batch.critic.tensors, strict=True)
    steps = [tensor for name, tensor in named if name.endswith("steps")]
    assert steps and all((step == 5).all() for step in steps)


CASES = [
    (SAC, SeedBatchSAC),
    (TD3, SeedBatchTD3),
    (TQC, SeedBatchTQC),
    (CrossQ, SeedBatchCrossQ),
]
NOISE = {"action_noise": NormalActionNoise(np.zeros(1), np.full(1, 0.1))}


def trained(cls: Any, batch_cls: Any, seeds: tuple[int, ...], steps: int) -> Any:
    models = [in_float64(agent(cls, "rn", seed, **NOISE)) for seed in seeds]
    batch = batch_cls(models, envs_of(models, "Pendulum-v1"))
    batch.learn(steps)
    return batch


@pytest.mark.parametrize(("cls", "batch_cls"), CASES)
def test_a_seed_is_independent_of_the_others(cls: Any, batch_cls: Any):
    alone = trained(cls, batch_cls, (5,), 150)
    among = trained(cls, batch_cls, (3, 5, 8), 150)
    for part, other in zip(alone.parts.values(), among.parts.values(), strict=True):
        mine, theirs = part.stack.weights[0], other.stack.weights[1]
        assert torch.equal(mine, theirs)
        assert not torch.allclose(theirs, other.stack.weights[0], atol=0.1)
    assert np.array_equal(alone.last_observations[0], among.last_observations[1])


@pytest.mark.parametrize(("cls", "batch_cls"), CASES)
def test_a_batch_continues_from_its_state(cls: Any, batch_cls: Any):
    models = [agent(cls, "ln+rn", seed, **NOISE) for seed in SEEDS]
    first = batch_cls(models, envs_of(models, "Pendulum-v1"))
    stored: list[Any] = []

    def keep() -> None:
        if first.num_timesteps == 60:
            stored.extend(copy.deepcopy(first.state(i)) for i in range(len(SEEDS)))
            stored.append(copy.deepcopy(first.envs))

    first.learn(120, on_rollout_start=keep)
    others = [agent(cls, "ln+rn", seed + 100, **NOISE) for seed in SEEDS]
    second = batch_cls(others, stored.pop())
    second.seeds = list(SEEDS)
    second.restore(stored)
    second.learn(120)
    for mine, theirs in zip(first.parts.values(), second.parts.values(), strict=True):
        for name, a, b in zip(
            mine.stack.names, mine.stack.tensors, theirs.stack.tensors, strict=True
        ):
            assert torch.equal(a, b), name
    for mine, theirs in zip(first.targets.values(), second.targets.values(), strict=True):
        assert torch.equal(mine.weights, theirs.weights)
    if cls in SAMPLED:
        assert torch.equal(first.log_ent_coef, second.log_ent_coef)


@pytest.mark.parametrize(("cls", "batch_cls"), CASES)
def test_agents_of_a_batch_act_as_the_batch_does(cls: Any, batch_cls: Any):
    models = [agent(cls, "rn", seed) for seed in SEEDS]
    batch = batch_cls(models, envs_of(models, "Pendulum-v1"))
    batch.learn(60)
    observations = np.random.default_rng(0).normal(size=(len(SEEDS), 6, 3)).astype(np.float32)
    chosen = batch.predict(observations)
    noise = np.random.default_rng(0).random((len(SEEDS), 6, 1))
    sampled = batch.predict(observations, False, noise)
    assert np.array_equal(sampled, chosen) == (cls is TD3) and np.abs(sampled).max() <= 2
    for i, seen in enumerate(observations):
        mine = batch.write_back(i)
        expected = mine.predict(seen, deterministic=True)[0]
        np.testing.assert_allclose(chosen[i], expected, rtol=0, atol=1e-6)
        assert mine.num_timesteps == 60 and mine._n_updates == batch.num_updates == 40


def test_warm_up_actions_are_uniform_and_noise_is_added():
    noise = {"action_noise": NormalActionNoise(np.full(1, 5.0), np.zeros(1))}
    batches = []
    for kwargs in ({}, noise):
        models = [agent(TD3, "none", seed, **kwargs) for seed in SEEDS]
        batches.append(SeedBatchTD3(models, envs_of(models, "Pendulum-v1")))
    seen = np.zeros((len(SEEDS), 1, 3), np.float32)
    plain = np.stack([batches[0].act(seen) for _ in range(2000)])
    assert plain.dtype == np.float32 and np.abs(plain).max() <= 1
    assert abs(plain.mean()) < 0.05 and abs(plain.std() - 3**-0.5) < 0.02
    assert batches[1].act(seen).min() == 1  # clipped
    np.testing.assert_allclose(batches[0].env_actions(plain[0]), 2 * plain[0], rtol=0, atol=1e-6)


def test_a_seed_that_diverged_is_silenced():
    models = [agent(SAC, "none", seed) for seed in SEEDS]
    batch = SeedBatchSAC(models, envs_of(models, "Pendulum-v1"))
    batch.learn(40)
    batch.critic.weights[1] = float("nan")
    assert np.isnan(batch.largest_weights()[1]) and np.isfinite(batch.largest_weights()[0])
    batch.learn(45)
    names = [name for name, tensor in batch.named_parameters(1) if tensor.isnan().any()]
    assert any(name.startswith("critic.qf0") for name in names)
    batch.silence(1)
    batch.learn(60)
    assert all(np.isfinite(batch.largest_weights())) and torch.isfinite(batch.log_ent_coef).all()


@pytest.mark.parametrize(("cls", "batch_cls"), CASES)
def test_actions_of_a_seed_that_diverged_are_finite(cls: Any, batch_cls: Any):
    models = [agent(cls, "none", seed) for seed in SEEDS]
    batch = batch_cls(models, envs_of(models, "Pendulum-v1"))
    batch.actor.weights[1] = float("nan")
    seen = np.ones((len(SEEDS), 4, 3), np.float32)
    noise = np.random.default_rng(0).random((len(SEEDS), 4, 1))
    for actions in (batch.predict(seen), batch.predict(seen, False, noise)):
        assert (actions[1] == 0).all() and (actions[[0, 2]] != 0).all()


class Matrix(gym.Env[Any, Any]):
    """Actions of two axes."""

    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Box(-2, 2, (2, 3))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> Any:
        assert action.shape == (2, 3)
        return np.zeros(3, np.float32), 0.0, False, False, {}


def test_noise_of_actions_with_several_axes_is_added_to_each():
    sigma = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 0.3]])
    mean = np.array([[5.0, 0.0, 0.0], [0.0, -5.0, 0.0]])
    kwargs = {"learning_starts": 0, "buffer_size": 50, "policy_kwargs": {"net_arch": [4]}}
    kwargs["action_noise"] = NormalActionNoise(mean, sigma)
    models = [TD3(NormTD3Policy, Matrix(), seed=seed, **kwargs) for seed in SEEDS]
    batch = SeedBatchTD3(models, VecSeedEnvs([DummyVecEnv([Matrix]) for _ in SEEDS]))
    seen = np.zeros((len(SEEDS), 1, 3), np.float32)
    plain = batch.sampled(seen, seen)
    drawn = np.stack([batch.act(seen) for _ in range(500)])
    assert (drawn[..., 0] == 1).all() and (drawn[..., 4] == -1).all()  # clipped
    assert (drawn[..., [1, 2, 3]] == plain[..., [1, 2, 3]]).all()
    assert abs(drawn[..., 5].std(0) - 0.3).max() < 0.05
    batch.learn(20)


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"use_sde": True}, "use_sde is set"),
        (
            {"action_noise": OrnsteinUhlenbeckActionNoise(np.zeros(1), np.ones(1))},
            "action_noise is OrnsteinUhlenbeckActionNoise",
        ),
        ({"n_steps": 3}, "n_steps is 3"),
    ],
)
def test_unsupported_settings_are_one_line(kwargs: dict[str, Any], said: str):
    models = [agent(SAC, "none", seed, **kwargs) for seed in SEEDS]
    with pytest.raises(UserError, match=said):
        SeedBatchSAC(models, envs_of(models, "Pendulum-v1"))
