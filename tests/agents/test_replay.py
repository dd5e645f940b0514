"""Replay ages, and statistics that weight the newest samples most."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3.common.logger import configure

from rn_rl.agents import RNDQN, AgeWeightedReplayBuffer
from rn_rl.errors import UserError
from rn_rl.normalization import phase_norms
from rn_rl.normalization.functional import MEAN

SPACE = spaces.Box(-np.inf, np.inf, (1,), np.float32)


def filled(steps, size, n_envs=1, half_life=5.0):
    """Fill a buffer with observations that equal the step at which they were stored."""
    buffer = AgeWeightedReplayBuffer(
        size, SPACE, spaces.Discrete(2), "cpu", n_envs, half_life_steps=half_life
    )
    for step in range(steps):
        obs = np.full((n_envs, 1), step, np.float32)
        action, reward, done = np.zeros((n_envs, 1)), np.zeros(n_envs), np.zeros(n_envs)
        buffer.add(obs, obs, action, reward, done, [{}] * n_envs)
    return buffer


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("steps", [1, 4, 8, 9, 13, 40])
def test_age_is_the_number_of_timesteps_since_storage(steps, n_envs):
    buffer = filled(steps, 8 * n_envs, n_envs)
    stored = np.arange(buffer.size())
    ages = buffer.ages(stored)
    expected = (steps - 1 - buffer.observations[stored, 0, 0]) * n_envs
    assert (ages == expected).all()
    assert ages.min() == 0 and ages.max() == (min(steps, 8) - 1) * n_envs


@pytest.mark.parametrize("n_envs", [1, 3])
@pytest.mark.parametrize("steps", [6, 13])
def test_weights_belong_to_the_batch_drawn_last(steps, n_envs):
    buffer = filled(steps, 8 * n_envs, n_envs, half_life=5.0)
    drawn = set()
    for _ in range(5):
        batch = buffer.sample(16)
        age = (steps - 1 - batch.observations[:, 0].double()) * n_envs
        expected = 2 ** (-age / 5.0)
        torch.testing.assert_close(buffer.weights(), expected / expected.mean(), rtol=1e-12, atol=0)
        drawn |= set(age.tolist())
    assert len(drawn) == min(steps, 8)  # sampling stays uniform over the whole memory


def test_weights_do_not_underflow_for_ages_far_beyond_the_half_life():
    buffer = filled(100, 100, half_life=0.01)
    buffer.sample(4)
    assert buffer.weights().isfinite().all() and buffer.weights().mean() == 1


def test_without_a_half_life_weights_are_equal():
    buffer = filled(6, 8, half_life=None)
    buffer.sample(4)
    assert buffer.weights() is None


@pytest.mark.parametrize("half_life", [0, -1, float("nan")])
def test_a_half_life_out_of_range_raises_a_user_error(half_life):
    with pytest.raises(UserError, match=f"half_life_steps={half_life}: expected timesteps above 0"):
        filled(0, 8, half_life=half_life)


def with_drifting_memory(age_half_life):
    """Build an agent with learning rate 0 whose old transitions differ from the new ones by a shift."""
    model = RNDQN(
        "MlpPolicy",
        "CartPole-v1",
        norm="rn",
        age_half_life=age_half_life,
        learning_rate=0.0,
        buffer_size=1000,
        seed=0,
    )
    model.set_logger(configure(format_strings=[]))
    rng = np.random.default_rng(0)
    for step in range(1000):
        obs = rng.normal(size=(1, 4)) + (0 if step < 500 else 5)
        model.replay_buffer.add(obs, obs, np.zeros((1, 1)), np.zeros(1), np.zeros(1), [{}])
    return model


def running_mean_over_all_old_and_new(age_half_life):
    """Return the first layer's mean after training, and its values on all, old and new transitions."""
    model = with_drifting_memory(age_half_life)
    model.train(gradient_steps=50, batch_size=64)
    model.policy.set_training_mode(False)
    [norm, _] = phase_norms(model.q_net).values()
    layer = model.q_net.q_net[0]
    with torch.no_grad():
        x = layer(torch.as_tensor(model.replay_buffer.observations[:, 0]))
    return norm.running_state[MEAN].item(), x.mean(), x[:500].mean(), x[500:].mean()


def test_statistics_follow_the_newest_transitions_with_age_weights():
    mean, _, old, new = running_mean_over_all_old_and_new(age_half_life=100)
    assert abs(mean - new) < 0.1 * abs(new - old)


def test_statistics_follow_the_whole_buffer_without_age_weights():
    mean, everything, old, new = running_mean_over_all_old_and_new(age_half_life=None)
    assert abs(mean - everything) < 0.1 * abs(new - old)


def test_age_weights_do_not_change_the_gradient():
    def trained(age_half_life):
        model = with_drifting_memory(age_half_life)
        model.policy.optimizer.param_groups[0]["lr"] = 1e-3
        model.lr_schedule = lambda _: 1e-3
        np.random.seed(0)
        model.train(gradient_steps=3, batch_size=64)
        return [p.detach().clone() for p in model.q_net.parameters()], model

    (weighted, model), (plain, other) = trained(100), trained(None)
    assert all(torch.equal(a, b) for a, b in zip(weighted, plain, strict=True))
    pending = [[n.pending_sums for n in phase_norms(m.q_net).values()] for m in (model, other)]
    assert not torch.equal(pending[0][0], pending[1][0])


def test_weights_apply_during_training_only():
    model = with_drifting_memory(100)
    [norm, _] = phase_norms(model.q_net).values()
    seen = []
    norm.register_forward_pre_hook(lambda n, _: seen.append(n.observation_weight))
    model.train(gradient_steps=2, batch_size=16)
    assert seen == [model.replay_buffer.weights] * 2
    assert norm.observation_weight is None


def test_n_step_returns_with_age_weights_raise_a_user_error():
    with pytest.raises(UserError, match=r"n_steps=3: an age-weighted replay buffer"):
        RNDQN("MlpPolicy", "CartPole-v1", n_steps=3)
    RNDQN("MlpPolicy", "CartPole-v1", n_steps=3, age_half_life=None)
