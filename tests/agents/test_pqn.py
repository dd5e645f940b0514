"""PQN: the update by hand, SB3's interface, and the seed batch."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv

from rn_rl.agents import PQN, SeedBatchPQN
from rn_rl.errors import UserError
from rn_rl.normalization import phase_norms
from tests.factories import envs_of

FEW = {"n_steps": 8, "batch_size": 16, "n_epochs": 2, "device": "cpu"}


def agent(seed: int = 0, num_envs: int = 4, norm: str = "ln", **options: Any) -> PQN:
    env = make_vec_env("CartPole-v1", num_envs, seed=seed)
    kwargs = {"net_arch": [8, 8], **options.pop("policy_kwargs", {})}
    return PQN("MlpPolicy", env, norm=norm, seed=seed, policy_kwargs=kwargs, **{**FEW, **options})


def double(model: PQN) -> None:
    """Compute in float64; SB3 makes observations float32."""
    network = model.policy.q_net.double()
    network.features_extractor.register_forward_pre_hook(lambda _, given: (given[0].double(),))


def lambda_targets(rewards, dones, best, gamma, lam):
    """The recursion of the authors' code: ``best[t]`` is ``max_a Q(s_t)``, with one row more."""
    targets = np.zeros_like(rewards)
    following = rewards[-1] + gamma * (1 - dones[-1]) * best[-1]
    targets[-1] = following
    for t in reversed(range(len(rewards) - 1)):
        bootstrap = rewards[t] + gamma * (1 - dones[t]) * best[t + 1]
        mixed = bootstrap + gamma * lam * (following - best[t + 1])
        following = (1 - dones[t]) * mixed + dones[t] * rewards[t]
        targets[t] = following
    return targets


def test_the_update_in_float64():
    """With targets that float32 holds exactly, the step is that of the formula to 1e-10."""
    model = agent(n_epochs=1, batch_size=32, max_grad_norm=0.3)
    double(model)
    model.learn(32)
    network = model.policy.q_net
    before = {k: v.clone() for k, v in network.state_dict().items()}
    buffer = model.rollout_buffer
    buffer.returns = np.round(np.asarray(buffer.returns) * 64) / 64
    model.policy.optimizer = torch.optim.RAdam(network.parameters(), lr=1e-2)
    model.lr_schedule = lambda _: 1e-2
    model.train()

    leaves = [v.clone().requires_grad_() for v in before.values()]
    named = dict(zip(before, leaves, strict=True))
    obs, actions = torch.as_tensor(buffer.observations), torch.as_tensor(buffer.actions).long()
    q = torch.func.functional_call(network, named, (obs,)).gather(1, actions.reshape(-1, 1))[:, 0]
    returns = torch.as_tensor(buffer.returns).double().reshape(-1)
    loss = 0.5 * (q - returns).square().mean()
    gradients = torch.autograd.grad(loss, leaves)
    total = torch.stack([g.square().sum() for g in gradients]).sum().sqrt()
    scale = min(1.0, 0.3 / (float(total) + 1e-6))
    # RAdam's first step has no adaptive term: w <- w - lr * m / (1 - beta1), m = (1 - beta1) * g
    for (name, value), gradient in zip(network.state_dict().items(), gradients, strict=True):
        expected = before[name] - 1e-2 * scale * gradient
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-10, msg=name)


def test_targets_are_those_of_the_authors():
    rng = np.random.default_rng(0)
    model = agent(gamma=0.9, q_lambda=0.4)
    buffer = model.rollout_buffer
    rewards, values, last = rng.normal(size=(8, 4)), rng.normal(size=(8, 4)), rng.normal(size=4)
    dones = (rng.random((8, 4)) < 0.3).astype(float)
    buffer.rewards[:], buffer.values[:] = rewards, values
    buffer.episode_starts[1:] = dones[:-1]
    buffer.compute_returns_and_advantage(torch.from_numpy(last), dones[-1])
    expected = lambda_targets(rewards, dones, np.concatenate([values, last[None]]), 0.9, 0.4)
    np.testing.assert_allclose(buffer.returns, expected, rtol=1e-5, atol=1e-5)


def test_there_is_no_target_network_and_a_norm_commits_once_a_rollout(tmp_path):
    model = agent(norm="ln+rn")
    assert not hasattr(model.policy, "q_net_target")
    assert isinstance(model.policy.optimizer, torch.optim.RAdam)
    model.learn(128)
    norms = phase_norms(model.policy)
    assert len(norms) == 2 and all(n.running_state[4].item() == 3 for n in norms.values())
    assert model.exploration_rate == pytest.approx(0.05)
    model.save(tmp_path / "agent")
    loaded = PQN.load(tmp_path / "agent")
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    np.testing.assert_array_equal(
        loaded.predict(x, deterministic=True)[0], model.predict(x, deterministic=True)[0]
    )
    assert loaded.exploration_rate == model.exploration_rate
    greedy = model.predict(x, deterministic=True)[0]
    model.exploration_rate = 1.0
    assert (model.predict(x)[0] != greedy).mean() > 0.2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"q_lambda": 1.5}, "q_lambda=1.5: expected a number from 0 to 1"),
        ({"reward_scale": 0}, "reward_scale=0: expected a factor above 0"),
        ({"policy_kwargs": {"acting_observes": True}}, "acting_observes=True with PQN: it learns"),
        ({"reward_scale": 2, "policy_kwargs": {"value_norm": "popart"}}, "both scale the values"),
    ],
)
def test_what_cannot_be_is_one_line(options, message):
    with pytest.raises(UserError, match=message):
        agent(**options)


def test_a_minibatch_of_more_rows_than_a_rollout_is_refused_when_learning_begins(tmp_path):
    model = agent(batch_size=32)
    model.save(tmp_path / "agent")
    alone = PQN.load(tmp_path / "agent", env=make_vec_env("CartPole-v1", 1))
    x = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    greedy = model.predict(x, deterministic=True)[0]
    np.testing.assert_array_equal(alone.predict(x, deterministic=True)[0], greedy)
    message = r"batch_size=32: expected 1 to 8, the rows of a rollout \(8 steps of 1 env"
    with pytest.raises(UserError, match=message):
        alone.learn(8)
    with pytest.raises(UserError, match="batch_size=33: expected 1 to 32, the rows of a rollout"):
        agent(batch_size=33).learn(32)
    with pytest.raises(UserError, match="batch_size=33: expected 1 to 32, the rows of a rollout"):
        batch_of((0, 1), batch_size=33)


def batch_of(seeds, num_envs=4, norm="ln", **options):
    models = [agent(seed, num_envs, norm, **options) for seed in seeds]
    return SeedBatchPQN(models, envs_of(models, num_envs=num_envs)), models


@pytest.mark.parametrize("norm", ["ln", "ln+rn", "ln+nap"])
def test_a_seed_batch_updates_as_the_single_agents_do(norm):
    """The same minibatches: weights after three rollouts' updates agree."""
    batch, models = batch_of((1, 2, 3), norm=norm, learning_rate=1e-2)
    for model in models:
        double(model)
    batch = SeedBatchPQN(models, envs_of(models, num_envs=4))
    rng = np.random.default_rng(0)
    for _ in range(3):
        batch.stack.set_training_mode(True)
        for model in models:
            model.policy.set_training_mode(True)
        for _ in range(4):
            obs = torch.from_numpy(rng.normal(size=(3, 16, 4)))
            actions = torch.from_numpy(rng.integers(0, 2, (3, 16)))
            targets = torch.from_numpy(10 * rng.normal(size=(3, 16)))
            batch.update(obs, actions, targets)
            for i, model in enumerate(models):
                rows = type(
                    "Rows",
                    (),
                    {"observations": obs[i], "actions": actions[i], "returns": targets[i]},
                )
                model.policy.optimizer.zero_grad()
                model.loss(rows).backward()
                torch.nn.utils.clip_grad_norm_(model.policy.parameters(), model.max_grad_norm)
                model.policy.optimizer.step()
        batch.stack.set_training_mode(False)
        for model in models:
            model.policy.set_training_mode(False)
    for i, model in enumerate(models):
        single = {k: v.clone() for k, v in model.policy.q_net.state_dict().items()}
        for name, value in batch.stack.unstack(i).items():
            torch.testing.assert_close(value, single[name], rtol=1e-9, atol=1e-9, msg=name)


def test_a_seed_does_not_depend_on_the_others_and_resumes_exactly():
    alone, _ = batch_of((5,))
    alone.learn(96)
    together, _ = batch_of((4, 5))
    together.learn(64)
    stored = [together.state(seed) for seed in range(2)]
    stored = [({k: np.array(v) for k, v in arrays.items()}, plain) for arrays, plain in stored]
    assert together.num_timesteps == 64
    expected = alone.write_back(0).policy.q_net.state_dict()
    steps, _ = batch_of((5,))
    steps.learn(96)
    for name, value in steps.write_back(0).policy.q_net.state_dict().items():
        assert torch.equal(value, expected[name])
    again, _ = batch_of((4, 5))
    again.restore(stored)
    for name, value in again.stack.unstack(1).items():
        assert torch.equal(value, together.stack.unstack(1)[name])
    assert again.exploration_rate == together.exploration_rate


def test_a_time_limit_is_bootstrapped_and_an_end_is_not():
    class Ends(gym.Env):
        observation_space = spaces.Box(-1, 1, (2,), np.float32)
        action_space = spaces.Discrete(2)

        def reset(self, **kwargs):
            return np.zeros(2, np.float32), {}

        def step(self, action):
            return np.ones(2, np.float32), 1.0, self.terminates, not self.terminates, {}

    for terminates in (True, False):
        Ends.terminates = terminates
        model = PQN(
            "MlpPolicy",
            DummyVecEnv([Ends]),
            seed=0,
            gamma=0.5,
            policy_kwargs={"net_arch": [4]},
            **{**FEW, "batch_size": 8},
        )
        value = model.policy.predict_values(torch.ones(1, 2)).item()
        model.learn(8)
        expected = 1 + (0 if terminates else 0.5 * value)
        np.testing.assert_allclose(model.rollout_buffer.returns.reshape(-1), expected, rtol=1e-5)


@pytest.mark.slow
def test_cartpole_is_solved_by_nine_of_ten_seeds():
    """The authors' settings (zoo_configs/pqn.yml); solved: mean return of 475 of the greedy policy."""
    from rn_rl.experiment.settings.algorithms import algorithm
    from rn_rl.experiment.settings.hyperparameters import to_algorithm_arguments, tuned

    found = tuned(algorithm("pqn"), "CartPole-v1")
    arguments = to_algorithm_arguments(found, spaces.Discrete(2))
    arguments.pop("policy")
    num_envs = int(found["n_envs"])
    models = [
        PQN(
            "MlpPolicy",
            make_vec_env("CartPole-v1", num_envs, seed=s),
            seed=s,
            device="cpu",
            **{**arguments, "policy_kwargs": {"net_arch": [256, 256]}},
        )
        for s in range(10)
    ]
    batch = SeedBatchPQN(models, envs_of(models, num_envs=num_envs))
    batch.learn(int(found["n_timesteps"]))
    envs = envs_of(models, num_envs=10)
    observations, total = envs.reset(), np.zeros((10, 10))
    alive = np.ones((10, 10), bool)
    for _ in range(500):
        step = envs.step(batch.predict(observations))
        total += step.rewards * alive
        alive &= ~step.dones
        observations = step.observations
    solved = total.mean(1) >= 475
    assert solved.sum() >= 9, total.mean(1)
