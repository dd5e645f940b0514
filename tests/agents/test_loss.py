"""RNDQN's mean squared error, unclipped gradients and epsilon by episodes, also in seed batches."""

import copy
import math

import numpy as np
import pytest
import torch

from rn_rl.agents import RNDQN, SeedBatchDQN
from rn_rl.errors import UserError
from rn_rl.normalization import phase_norms, published
from tests.factories import envs_of, networks_agree, replay_samples, to_double, transitions

SEEDS = (3, 5)


def rndqn(seed=0, **kwargs):
    options = {
        "learning_rate": 1e-2,
        "batch_size": 16,
        "buffer_size": 300,
        "learning_starts": 8,
        "train_freq": 4,
        "target_update_interval": 4,
        "age_half_life": None,
        "loss": "mse",
        "max_grad_norm": None,
        "exploration_decay": 0.5,
        "exploration_initial_eps": 1.0,
        "exploration_final_eps": 0.1,
        "policy_kwargs": {"net_arch": [8, 8]},
        **kwargs,
    }
    return RNDQN("MlpPolicy", "CartPole-v1", seed=seed, device="cpu", **options)


def ready_in_double(*models):
    for model in models:
        to_double(model.q_net)
        to_double(model.q_net_target)
        model._setup_learn(1000)


def adam_step(parameters, gradients, moments, rate, t):
    """Update arrays by the formula of Adam (Kingma & Ba, 2015)."""
    for name, gradient in gradients.items():
        m, v = moments.setdefault(name, (0.0, 0.0))
        m = 0.9 * m + 0.1 * gradient
        v = 0.999 * v + 0.001 * gradient**2
        moments[name] = m, v
        step = (m / (1 - 0.9**t)) / (np.sqrt(v / (1 - 0.999**t)) + 1e-8)
        parameters[name] = parameters[name] - rate * step


def by_hand(network, target, drawn, gamma, rate, steps):
    """The published update in NumPy: mean squared error, no clipping, Adam; a 4-8-8-2 ReLU network."""
    names = [f"{part}.{i}" for part in ("0", "2", "4") for i in ("weight", "bias")]
    w = {n: network[n].numpy() for n in names}
    fixed = {n: target[n].numpy() for n in names}
    s, following, actions, rewards, dones = (x.double().numpy() for x in drawn)

    def forward(p, x):
        one = x @ p["0.weight"].T + p["0.bias"]
        two = np.maximum(one, 0) @ p["2.weight"].T + p["2.bias"]
        return one, two, np.maximum(two, 0) @ p["4.weight"].T + p["4.bias"]

    wanted = rewards + (1 - dones) * gamma * forward(fixed, following)[2].max(1, keepdims=True)
    chosen = np.eye(2)[actions[:, 0].astype(int)]
    moments = {}
    for t in range(1, steps + 1):
        one, two, q = forward(w, s)
        error = 2 * ((q * chosen).sum(1, keepdims=True) - wanted) / len(s) * chosen
        back_two = error @ w["4.weight"] * (two > 0)
        back_one = back_two @ w["2.weight"] * (one > 0)
        gradients = {
            "4.weight": error.T @ np.maximum(two, 0), "4.bias": error.sum(0),
            "2.weight": back_two.T @ np.maximum(one, 0), "2.bias": back_two.sum(0),
            "0.weight": back_one.T @ s, "0.bias": back_one.sum(0),
        }  # fmt: skip
        adam_step(w, gradients, moments, rate, t)
    return w


def test_updates_equal_the_published_arithmetic():
    """Single agents and seed batches, with errors so large that SB3's loss and clipping would differ."""
    theirs, mine = ([rndqn(seed, norm="none") for seed in SEEDS] for _ in range(2))
    ready_in_double(*theirs, *mine)
    drawn = transitions(np.random.default_rng(0), (len(SEEDS), 16), 4)
    drawn.rewards.mul_(100)
    right = []
    for i, model in enumerate(theirs):
        before = [copy.deepcopy(n.q_net.state_dict()) for n in (model.q_net, model.q_net_target)]
        one = [part[i] for part in drawn]
        right.append(by_hand(*before, one, model.gamma, 1e-2, steps=3))
        samples = replay_samples(drawn, i)
        model.replay_buffer.sample = lambda *args, samples=samples, **kwargs: samples
        model.train(3, 16)
        for name, value in right[i].items():
            found = model.q_net.q_net.state_dict()[name].numpy()
            np.testing.assert_allclose(found, value, rtol=0, atol=1e-10)
    batch = SeedBatchDQN(mine, envs_of(mine))
    batch.total_timesteps = 1000
    batch.stack.set_training_mode(True)
    batch.set_learning_rate()
    for _ in range(3):
        batch.update(drawn)
    networks_agree(batch, theirs, lambda m: m.q_net, 1e-10)


def test_max_grad_norm_none_does_not_clip():
    model = rndqn(loss="huber", max_grad_norm=10)
    assert model.max_grad_norm == 10
    assert rndqn().max_grad_norm == math.inf


def test_epsilon_decays_at_the_end_of_episodes():
    model = rndqn()
    rates = []

    def note(local, _):
        rates.append((float(model.exploration_rate), bool(local["dones"][0])))
        return True

    model.learn(150, callback=note)
    expected = 1.0
    for rate, done in rates:
        # SB3 calls back before it stores the transition that ends an episode
        assert rate == pytest.approx(expected, abs=1e-12)
        expected = max(0.1, expected * 0.5) if done else expected
    assert sum(done for _, done in rates) >= 3
    assert model.exploration_rate == pytest.approx(0.1 if expected < 0.1 else expected)


def test_each_seed_of_a_batch_has_its_own_epsilon():
    models = [rndqn(seed) for seed in SEEDS]
    batch = SeedBatchDQN(models, envs_of(models))
    ended = np.zeros(len(SEEDS), int)
    step = batch.envs.step

    def counted(actions):
        taken = step(actions)
        ended[:] += taken.dones[:, 0]
        return taken

    batch.envs.step = counted

    def count():
        np.testing.assert_allclose(batch.exploration_rates, np.maximum(0.1, 0.5**ended))

    batch.learn(120, on_step=count)
    assert (ended >= 2).all()
    stored = [batch.state(i) for i in range(len(SEEDS))]
    again = SeedBatchDQN([rndqn(seed) for seed in SEEDS], batch.envs)
    again.restore(stored)
    np.testing.assert_array_equal(again.exploration_rates, batch.exploration_rates)


def published_states(network):
    return [norm.running_state.numpy() for norm in phase_norms(network).values()]


@pytest.mark.parametrize("norm", ["rn-paper", "ln+rln-paper"])
def test_the_target_has_statistics_of_its_own_as_published(norm):
    """The target observes next observations, in a seed batch too; no state is copied to it."""
    theirs, mine = (
        [rndqn(seed, norm=norm, target_observes=True) for seed in SEEDS] for _ in range(2)
    )
    ready_in_double(*theirs, *mine)
    drawn = transitions(np.random.default_rng(0), (len(SEEDS), 16), 4)
    first = [copy.deepcopy(model.q_net_target).train() for model in theirs]
    for i, model in enumerate(theirs):
        samples = replay_samples(drawn, i)
        model.replay_buffer.sample = lambda *args, samples=samples, **kwargs: samples
        model.train(3, 16)
    batch = SeedBatchDQN(mine, envs_of(mine))
    batch.total_timesteps = 1000
    batch.stack.set_training_mode(True)
    batch.set_learning_rate()
    for _ in range(3):
        batch.update(drawn)
    networks_agree(batch, theirs, lambda m: m.q_net, 1e-10)
    for i, (model, untouched) in enumerate(zip(theirs, first, strict=True)):
        for _ in range(3):  # the published module itself, on the next observations
            untouched(replay_samples(drawn, i).next_observations)
        states = published_states(model.q_net_target)
        for state, right in zip(states, published_states(untouched), strict=True):
            np.testing.assert_allclose(state, right, rtol=1e-12, atol=1e-12)
            assert (state[published.COUNT] == 3 * 16 * 8).all()
        copied = published_states(batch.write_back(i).q_net_target)
        for state, right in zip(copied, states, strict=True):
            np.testing.assert_allclose(state, right, rtol=1e-10, atol=1e-12)
    before = published_states(batch.write_back(0).q_net_target)
    batch.update_targets()
    for state, kept in zip(published_states(batch.write_back(0).q_net_target), before, strict=True):
        np.testing.assert_array_equal(state, kept)


def test_a_target_with_own_statistics_keeps_them_while_it_learns(tmp_path):
    model = rndqn(norm="rn-paper", target_observes=True, learning_starts=8)
    model.learn(64)
    steps = (64 - 8) // 4
    for network in (model.q_net, model.q_net_target):
        for state in published_states(network):
            assert state[published.COUNT, 0] == steps * 16 * 8
    pairs = zip(published_states(model.q_net), published_states(model.q_net_target), strict=True)
    assert all(mine[published.MEAN, 0] != theirs[published.MEAN, 0] for mine, theirs in pairs)
    model.save(tmp_path / "agent.zip")
    again = RNDQN.load(tmp_path / "agent.zip", env=model.env)
    assert again.target_observes
    assert not any(norm.frozen for norm in phase_norms(again.q_net_target).values())
    states = published_states(model.q_net_target)
    for state, right in zip(published_states(again.q_net_target), states, strict=True):
        np.testing.assert_array_equal(state, right)


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"target_observes": True, "norm": "rn"}, "normalizer 'rn'.*expected rn-paper"),
        ({"target_observes": True, "norm": "rn+rn-paper"}, "no other normalizer with state"),
        ({"target_observes": True, "norm": "rn-paper", "loss": "huber"}, "loss='mse'"),
        ({"loss": "l1"}, "loss 'l1'.*huber, mse"),
        ({"exploration_decay": 0}, "exploration_decay=0: expected a factor above 0"),
        ({"exploration_decay": 1.5}, "exploration_decay=1.5: expected a factor above 0"),
    ],
)
def test_invalid_options_raise_user_errors(given, match):
    with pytest.raises(UserError, match=match):
        rndqn(**given)


def test_mse_and_huber_give_different_updates():
    """Otherwise the test of the arithmetic could pass with the loss ignored."""
    agents = [rndqn(loss=loss, max_grad_norm=None) for loss in ("mse", "huber")]
    drawn = transitions(np.random.default_rng(0), (1, 16), 4)
    drawn.rewards.mul_(100)
    samples = replay_samples(drawn, 0)
    for model in agents:
        model._setup_learn(1000)
        model.replay_buffer.sample = lambda *args, **kwargs: samples
        model.train(2, 16)
    a, b = (torch.cat([p.flatten() for p in m.q_net.parameters()]) for m in agents)
    assert not torch.allclose(a, b, atol=1e-4)
