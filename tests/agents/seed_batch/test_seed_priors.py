"""Saliency priors in seed batches: updates equal those of single agents, and trainings resume exactly."""

import copy
import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from rn_rl.agents import (
    RNDQN,
    RNPPO,
    SeedBatchA2C,
    SeedBatchDQN,
    SeedBatchPPO,
    VecSeedEnvs,
    priors,
)
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.cli import main
from rn_rl.errors import UserError
from rn_rl.experiment.runs.folder import Run
from rn_rl.policies import NormActorCriticPolicy
from tests.factories import envs_of, networks_agree, replay_samples, to_double, transitions

SEEDS = (3, 5, 8)
SPECS = [
    "sn(prior=td)",
    "ln+sn(half_life=5,prior=reward)",
    "ln+sn(prior=action,shuffled=true)",
    "sn(prior=td,shuffled=true)+sn(prior=reward,shuffled=true)",
]


def rndqn(norm, seed, **kwargs):
    given = {
        "learning_rate": 1e-2,
        "batch_size": 16,
        "buffer_size": 300,
        "learning_starts": 20,
        "tau": 0.3,
        "target_update_interval": 8,
        "max_grad_norm": 0.05,
        "age_half_life": None,
        "policy_kwargs": {"net_arch": [8, 8]},
        **kwargs,
    }
    return RNDQN("MlpPolicy", "CartPole-v1", norm, seed=seed, device="cpu", **given)


def rnppo(norm, seed, env="CartPole-v1", **kwargs):
    given = {
        "learning_rate": 1e-2,
        "n_steps": 16,
        "batch_size": 32,  # a rollout, so that the order of rows has no effect
        "n_epochs": 3,
        "ent_coef": 0.01,
        "clip_range_vf": 0.1,
        "policy_kwargs": {"net_arch": [8, 8]},
        **kwargs,
    }
    return RNPPO("MlpPolicy", env, norm, seed=seed, device="cpu", **given)


class Orders:
    """The permutations that a batch draws, one after the other for a single agent."""

    def __init__(self, shape):
        self.streams = Streams(SEEDS, "priors", shape)
        self.drawn, self.seed = [], 0

    def draw(self):
        self.drawn = [list(of_seed) for of_seed in self.streams.draw().argsort(-1)]

    def __call__(self, size):
        order = torch.from_numpy(self.drawn[self.seed].pop(0).copy())
        assert sorted(order.tolist()) == list(range(size))
        return order


@pytest.mark.parametrize("loss", ["huber", "mse"])
@pytest.mark.parametrize("spec", SPECS)
def test_updates_of_dqn_are_those_of_single_agents(spec, loss, monkeypatch):
    theirs, mine = ([rndqn(spec, seed, loss=loss) for seed in SEEDS] for _ in range(2))
    for model in (*theirs, *mine):
        to_double(model.q_net)
        to_double(model.q_net_target)
        model._setup_learn(1000)
    batch = SeedBatchDQN(mine, envs_of(mine))
    batch.total_timesteps = 1000
    orders = Orders((spec.count("true"), 16))
    monkeypatch.setattr(priors, "permutation", orders)
    rng = np.random.default_rng(0)
    for _ in range(3):
        drawn = transitions(rng, (len(SEEDS), 16), 4)
        orders.draw()
        for i, model in enumerate(theirs):
            one = replay_samples(drawn, i)
            model.replay_buffer.sample = lambda *args, one=one, **kwargs: one
            orders.seed = i
            model.policy.set_training_mode(False)
            model.train(1, 16)
            model.policy.set_training_mode(False)
            model._n_calls = 7
            model._on_step()  # the eighth: a target update
        batch.stack.set_training_mode(True)
        batch.set_learning_rate()
        batch.update(drawn)
        batch.stack.set_training_mode(False)
        batch.update_targets()
        networks_agree(batch, theirs, lambda m: m.q_net, 1e-10)
        networks_agree(batch, theirs, lambda m: m.q_net_target, 1e-10)


def fill(batch, models, rng):
    """Give a batch and single agents one rollout, and return its advantages and returns."""
    rollout = batch.rollout
    for name in ("rewards", "values", "log_probs"):  # in float64, as the networks
        setattr(rollout, name, getattr(rollout, name).astype(float))
    shape = rollout.rewards.shape
    if rollout.observations.dtype == np.uint8:  # four different images
        rollout.observations[..., 0, 0, 0] = rng.integers(1, 5, shape)
    else:
        rollout.observations[:] = rng.normal(size=rollout.observations.shape)
    rollout.actions[:] = rng.integers(0, 2, shape)
    rollout.rewards[:] = rng.normal(size=shape)
    rollout.values[:] = rng.normal(size=shape)
    rollout.log_probs[:] = -0.7 + 0.3 * rng.normal(size=shape)
    advantages = rng.normal(size=shape)
    returns = advantages + rollout.values
    for i, model in enumerate(models):
        buffer = model.rollout_buffer
        buffer.reset()
        for name in ("observations", "rewards", "values", "log_probs"):
            setattr(buffer, name, getattr(rollout, name)[:, i].copy())
        buffer.actions[:] = rollout.actions[:, i][..., None]
        buffer.advantages, buffer.returns = advantages[:, i], returns[:, i]
        buffer.full = True
    return advantages, returns


@pytest.mark.parametrize("spec", SPECS)
def test_updates_of_ppo_are_those_of_single_agents(spec, monkeypatch):
    envs = [make_vec_env("CartPole-v1", 2, seed=0) for _ in range(2 * len(SEEDS))]
    theirs, mine = (
        [rnppo(spec, s, env) for s, env in zip(SEEDS, some, strict=True)]
        for some in (envs[:3], envs[3:])
    )
    for model in (*theirs, *mine):
        to_double(model.policy)
        model._setup_learn(1000)
    batch = SeedBatchPPO(mine, envs_of(mine, num_envs=2))
    batch.total_timesteps = 1000
    orders = Orders((spec.count("true"), 32))
    steps_first = np.arange(32).reshape(16, 2)  # rows of a batch, by step and environment
    monkeypatch.setattr(priors, "permutation", lambda size: reordered(orders(size), steps_first))
    rng = np.random.default_rng(0)
    for _ in range(3):
        found = fill(batch, theirs, rng)
        batch.advantages = lambda found=found: found
        orders.draw()
        for i, model in enumerate(theirs):
            orders.seed = i
            model.policy.set_training_mode(False)
            model.train()
            model.policy.set_training_mode(False)
        batch.set_training_mode(False)
        batch.train()
        batch.set_training_mode(False)
        networks_agree(batch, theirs, lambda m: m.policy, 1e-9)


class Images(gym.Env):
    """An environment that has spaces only; it is never stepped."""

    observation_space = gym.spaces.Box(0, 255, (3, 6, 6), np.uint8)
    action_space = gym.spaces.Discrete(2)

    def reset(self, **_):
        return np.zeros((3, 6, 6), np.uint8), {}


def test_priors_of_deduplicated_images_are_those_of_single_agents():
    """Equal patches pass through the convolutions once; equal rows have other priors, so each passes."""
    kwargs = {"n_steps": 32, "policy_kwargs": {"features": "minigrid", "net_arch": [8]}}
    theirs, mine = (
        [rnppo("ln+sn(prior=td)", seed, Images(), **kwargs) for seed in SEEDS] for _ in range(2)
    )
    for model in (*theirs, *mine):
        to_double(model.policy)
        model._setup_learn(1000)
    batch = SeedBatchPPO(mine, VecSeedEnvs([DummyVecEnv([Images]) for _ in SEEDS]))
    batch.total_timesteps = 1000
    rng = np.random.default_rng(0)
    for _ in range(2):
        found = fill(batch, theirs, rng)
        batch.advantages = lambda found=found: found
        images = np.moveaxis(batch.rollout.observations, 1, 0).reshape(3, 32, 3, 6, 6)
        dedup = batch.actor_critics.dedup
        assert not dedup.dedup_rows and dedup.analyze_rollout(images)[1] is not None
        for model in theirs:
            model.policy.set_training_mode(False)
            model.train()
            model.policy.set_training_mode(False)
        batch.set_training_mode(False)
        batch.train()
        batch.set_training_mode(False)
        networks_agree(batch, theirs, lambda m: m.policy, 1e-9)


def reordered(order, steps_first):
    """A permutation of a batch's rows as one of SB3's rows, which come environment by environment."""
    ours = steps_first.T.ravel()  # row of a batch for each row of SB3
    place = np.argsort(ours)
    return torch.from_numpy(place[order.numpy()[ours]])


def test_the_ratio_is_1_at_the_first_minibatch_of_a_batch():
    models = [rnppo("ln+sn(prior=td,shuffled=true)", s, batch_size=8) for s in SEEDS]
    for model in models:
        to_double(model.policy)
    batch = SeedBatchPPO(models, envs_of(models))
    found, update = [], batch.update

    def keep(*args):
        update(*args)
        found.append(batch.losses["train/approx_kl"])

    batch.update = keep
    batch.learn(32)
    for kls in (found[0], found[6]):  # a rollout has 6 minibatches; KL = (ratio - 1)^2 / 2
        torch.testing.assert_close(kls, torch.zeros_like(kls), rtol=0, atol=0.5 * 1e-6**2)
    assert min(float(kls.min()) for kls in (found[1], found[7])) > 1e-6


@pytest.mark.parametrize("algo", ["dqn", "ppo"])
def test_a_batch_with_a_shuffled_prior_continues_from_its_state(algo):
    spec = "ln+sn(prior=td,shuffled=true)"
    build, cls = {"dqn": (rndqn, SeedBatchDQN), "ppo": (rnppo, SeedBatchPPO)}[algo]
    kwargs = {"batch_size": 8} if algo == "ppo" else {}
    models = [build(spec, s, **kwargs) for s in SEEDS]
    first = cls(models, envs_of(models))
    stored = []

    def keep():
        if first.num_timesteps == 64:
            stored.extend(copy.deepcopy(first.state(i)) for i in range(len(SEEDS)))
            stored.append(copy.deepcopy(first.envs))

    first.learn(128, on_rollout_start=keep)
    second = cls([build(spec, s + 100, **kwargs) for s in SEEDS], stored.pop())
    second.seeds = list(SEEDS)
    second.restore(json.loads(json.dumps([plain for _, plain in stored])) and stored)
    second.learn(128)
    for mine, theirs in zip(first.stack.tensors, second.stack.tensors, strict=True):
        assert torch.equal(mine, theirs)


def test_a_seed_is_independent_of_the_others():
    runs = []
    for seeds in ((5,), (3, 5)):
        models = [rndqn("ln+sn(prior=td,shuffled=true)", seed) for seed in seeds]
        for model in models:
            to_double(model.q_net)
            to_double(model.q_net_target)
        batch = SeedBatchDQN(models, envs_of(models))
        batch.learn(200)
        runs.append(batch.stack.weights[-1].detach())
    torch.testing.assert_close(*runs, rtol=0, atol=1e-9)


def test_batches_that_do_not_compute_priors_refuse_them():
    kwargs = {"norm": "ln+sn(prior=td)", "net_arch": [8]}
    models = [
        A2C(NormActorCriticPolicy, "CartPole-v1", seed=s, policy_kwargs=kwargs) for s in SEEDS
    ]
    with pytest.raises(UserError, match="prior=td, which SeedBatchA2C does not compute"):
        SeedBatchA2C(models, envs_of(models))


@pytest.mark.parametrize("algo", ["dqn", "ppo"])
def test_seeds_from_the_command_line_train_together(algo, tmp_path):
    line = f"train --algo {algo} --env CartPole-v1 --norm ln+sn(prior=td) --timesteps 200 --seeds 2"
    few = (
        ["n_steps=32", "batch_size=16"]
        if algo == "ppo"
        else ["learning_starts=100", "train_freq=8"]
    )
    given = ["--n-envs", "1", "--eval-freq", "0", "--quiet", "--engine", "batch"]
    assert main([*line.split(), *given, "--out", str(tmp_path), "--set", *few]) == 0
    folders = sorted(tmp_path.glob("*/*/CartPole-v1_*"))
    assert [len(Run(folder).read_spec().together) for folder in folders] == [2, 2]
