"""Seed batches of MaskablePPO: updates equal sb3-contrib's, and no forbidden action is taken."""

import copy

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import MaskablePPO
from sb3_contrib.common.maskable.buffers import MaskableRolloutBufferSamples
from sb3_contrib.common.maskable.distributions import MaskableCategoricalDistribution
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

from rn_rl.agents import SeedBatchMaskablePPO, VecSeedEnvs
from rn_rl.agents.seed_batch.distributions import allow, sample
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.cli import main
from rn_rl.experiment.evaluation.episodes import play_seed_batch
from rn_rl.experiment.runs.folder import Run
from rn_rl.policies import NormMaskableActorCriticPolicy
from tests.factories import envs_of, networks_agree, rollout_samples, slow_unless, to_double

SEEDS = (3, 5, 8)
SPECS = ["none", "rn", "brn", "ln+rn", "rn(half_life=5)", "uan", "spectral"]


class Corridor(gym.Env):
    """Steps of 20; a random half of four actions is allowed, of which the first is right."""

    observation_space = gym.spaces.Box(-1, 1, (4,), np.float32)
    action_space = gym.spaces.Discrete(4)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._draw(), {}

    def _draw(self):
        self.allowed = np.isin(np.arange(4), self.np_random.permutation(4)[:2])
        return self.np_random.uniform(-1, 1, 4).astype(np.float32)

    def action_masks(self):
        return self.allowed

    def step(self, action):
        assert self.allowed[action], "a forbidden action"
        reward = float(action == self.allowed.argmax())
        self.t += 1
        return self._draw(), reward, self.t == 20, False, {}


def ppo(norm, seed, env="CartPole-v1", **kwargs):
    given = {
        "learning_rate": 1e-2,
        "n_steps": 32,
        "batch_size": 16,
        "n_epochs": 1,
        "ent_coef": 0.01,
        "clip_range_vf": 0.1,
        "max_grad_norm": 0.05,
        "policy_kwargs": {"norm": norm, "net_arch": [8, 8]},
        **kwargs,
    }
    return MaskablePPO(NormMaskableActorCriticPolicy, env, seed=seed, device="cpu", **given)


def corridor(num_envs=2):
    return DummyVecEnv([lambda: Monitor(Corridor())] * num_envs)


def corridors(num_envs=2):
    made = []
    for seed in SEEDS:
        env = corridor(num_envs)
        env.seed(seed)
        made.append(env)
    return VecSeedEnvs(made)


@pytest.mark.parametrize(
    "spec", slow_unless(("none", "brn", "ln+rn").__contains__, SPECS), indirect=True
)
def test_updates_are_those_of_sb3_contrib(spec):
    theirs, mine = ([ppo(spec, seed) for seed in SEEDS] for _ in range(2))
    for model in (*theirs, *mine):
        to_double(model.policy)
        model._setup_learn(1000)
    batch = SeedBatchMaskablePPO(mine, envs_of(mine))
    batch.total_timesteps = 1000
    rng = np.random.default_rng(0)
    for _ in range(3):
        rows = (len(SEEDS), 16)
        seen = torch.from_numpy(rng.normal(size=(*rows, 4)).astype(np.float32))
        samples = rollout_samples(rng, rows)
        masks = torch.from_numpy(rng.random((*rows, 2)) < 0.5)
        masks.scatter_(2, samples.actions[..., None], True)
        for i, model in enumerate(theirs):
            one = MaskableRolloutBufferSamples(
                seen[i], *(part[i] for part in samples), masks[i].float()
            )
            model.rollout_buffer.get = lambda batch_size, one=one: [one]
            model.policy.set_training_mode(False)
            model.train()
            model.policy.set_training_mode(False)
        batch.stack.set_training_mode(True)
        batch.set_learning_rate()
        batch.update(seen, samples, sequences=[masks])
        batch.stack.set_training_mode(False)
        networks_agree(batch, theirs, lambda m: m.policy, 1e-10)


def test_log_probabilities_of_a_rollout_are_those_of_sb3_contrib():
    models = [ppo("ln+rn", seed, corridor()) for seed in SEEDS]
    batch = SeedBatchMaskablePPO(models, corridors())
    batch.learn(64)  # one rollout, which is learned from
    critics, rollout = batch.actor_critics, batch.rollout
    batch.last_observations = batch.envs.reset()
    for t in range(32):
        batch.step(t)
    assert critics.masks.sum(-1).tolist() == np.full((32, 3, 2), 2).tolist()
    for i in range(len(SEEDS)):
        agent = batch.write_back(i)
        agent.policy.set_training_mode(False)
        seen, actions = (
            torch.from_numpy(each[:, i].reshape(64, -1))
            for each in (rollout.observations, rollout.actions)
        )
        with torch.no_grad():
            values, log_probs, _ = agent.policy.evaluate_actions(
                seen, actions[:, 0], critics.masks[:, i].reshape(64, 4)
            )
        for mine, theirs in ((rollout.values, values[:, 0]), (rollout.log_probs, log_probs)):
            np.testing.assert_allclose(mine[:, i].ravel(), theirs.numpy(), atol=1e-5)


def test_the_ratio_is_1_at_the_first_minibatch():
    models = [ppo("ln+rn", seed, corridor()) for seed in SEEDS]
    for model in models:
        to_double(model.policy)
    batch = SeedBatchMaskablePPO(models, corridors())
    found, update = [], batch.update

    def keep(*args):
        update(*args)
        found.append(batch.losses["train/approx_kl"])

    batch.update = keep
    batch.learn(64)
    torch.testing.assert_close(found[0], torch.zeros(3, dtype=found[0].dtype), rtol=0, atol=5e-13)
    assert min(map(float, found[1])) > 1e-6


@pytest.mark.parametrize("point", [0.0, np.nextafter(1, 0)])
def test_a_forbidden_action_is_not_chosen_at_the_ends_of_the_unit_interval(point):
    """Where probabilities in float32 sum to less than 1, and where the first of them is 0."""
    logits = torch.randn(1000, 4, generator=torch.Generator().manual_seed(0))
    distribution = MaskableCategoricalDistribution(4).proba_distribution(logits)
    masks = torch.tensor([False, True, True, False]).expand(1000, 4)
    allow(distribution, [masks])
    chosen = sample(distribution, torch.full((1000, 1), point, dtype=torch.float64))
    assert masks.gather(1, chosen[:, None]).all()


@pytest.mark.parametrize("deterministic", [True, False])
def test_only_allowed_actions_are_taken_and_the_right_ones_are_learned(deterministic):
    models = [ppo("none", seed, corridor(), n_epochs=4, max_grad_norm=0.5) for seed in SEEDS]
    batch = SeedBatchMaskablePPO(models, corridors())
    batch.learn(512)
    noise = None if deterministic else Streams(SEEDS, "evaluation", (2, 1))
    returns, lengths = play_seed_batch(batch, corridors(), noise)  # raises at a forbidden action
    assert (lengths == 20).all() and (returns >= 5).all()


def test_a_batch_continues_from_its_state():
    first = SeedBatchMaskablePPO([ppo("ln+rn", seed, corridor()) for seed in SEEDS], corridors())
    stored = []

    def keep():
        if first.num_timesteps == 128:
            stored.extend(copy.deepcopy(first.state(i)) for i in range(len(SEEDS)))
            stored.append(copy.deepcopy(first.envs))

    first.learn(256, on_rollout_start=keep)
    models = [ppo("ln+rn", seed + 100, corridor()) for seed in SEEDS]
    second = SeedBatchMaskablePPO(models, stored.pop())
    second.seeds = list(SEEDS)
    second.restore(stored)
    second.learn(256)
    for mine, theirs in zip(first.stack.tensors, second.stack.tensors, strict=True):
        assert torch.equal(mine, theirs)


def test_seeds_from_the_command_line_train_together(tmp_path, capsys):
    words = "train --algo ppo_mask --env CartPole-v1 --norm rn --seeds 2 --engine batch --n-envs 2"
    short = "--timesteps 128 --eval-freq 64 --eval-episodes 2 --set n_steps=32 batch_size=32"
    assert main([*words.split(), *short.split(), "--quiet", "--out", str(tmp_path)]) == 0
    folders = sorted(path.parent for path in tmp_path.rglob("run.yaml"))
    assert len(folders) == 2
    for folder in folders:
        assert Run(folder).read_spec().algo == "ppo_mask"
    assert main(["evaluate", str(folders[0]), "--episodes", "2"]) == 0
