"""Seed batches of DQN and PPO: updates equal SB3's, and seeds are independent of each other."""

from __future__ import annotations

import copy
import functools
import itertools
import json
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.buffers import ReplayBuffer, RolloutBuffer, RolloutBufferSamples
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.distributions import (
    CategoricalDistribution,
    DiagGaussianDistribution,
)
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.utils import LinearSchedule

from rn_rl.agents import SeedBatchDQN, SeedBatchPPO, VecSeedEnvs
from rn_rl.agents.seed_batch.distributions import sample
from rn_rl.agents.seed_batch.introspection import is_row_wise
from rn_rl.agents.seed_batch.rng import Streams
from rn_rl.engine.dedup.rows import SIZE_MULTIPLE, row_ids
from rn_rl.engine.host import flush_denormals
from rn_rl.errors import UserError
from rn_rl.experiment.training.seed_batch import empty_memory
from rn_rl.normalization import REGISTRY
from rn_rl.policies import NormActorCriticPolicy, NormDQNPolicy
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
KINDS = ("none", "ln", "rn", "rln", "rsn", "rn-paper", "brn", "wn", "spectral", "ln+rn")
SEEDS = (3, 5, 8)


def dqn(norm: str, seed: int | None, env: str = "CartPole-v1", **kwargs: Any) -> DQN:
    options = {
        "learning_rate": 1e-2,
        "batch_size": 16,
        "buffer_size": 300,
        "learning_starts": 20,
        "tau": 0.3,
        "target_update_interval": 8,
        "max_grad_norm": 0.05,
        "exploration_fraction": 0.5,
        "policy_kwargs": {"norm": norm, "net_arch": [8, 8]},
        **kwargs,
    }
    return DQN(NormDQNPolicy, env, seed=seed, device="cpu", **options)


def ppo(norm: str, seed: int, env: Any = "CartPole-v1", **kwargs: Any) -> PPO:
    options = {
        "learning_rate": 1e-2,
        "n_steps": 32,
        "batch_size": 16,
        "n_epochs": 2,
        "ent_coef": 0.01,
        "max_grad_norm": 0.05,
        "policy_kwargs": {"norm": norm, "net_arch": [8, 8]},
        **kwargs,
    }
    return PPO(NormActorCriticPolicy, env, seed=seed, device="cpu", **options)


@pytest.mark.parametrize("spec", slow_unless(KINDS.__contains__, SPECS), indirect=True)
def test_updates_of_dqn_are_those_of_sb3(spec: str):
    theirs, mine = ([dqn(spec, seed) for seed in SEEDS] for _ in range(2))
    for model in (*theirs, *mine):
        to_double(model.q_net)
        to_double(model.q_net_target)
        model._setup_learn(1000)
    batch = SeedBatchDQN(mine, envs_of(mine))
    batch.total_timesteps = 1000
    rng = np.random.default_rng(0)
    for _ in range(3):
        drawn = transitions(rng, (len(SEEDS), 16), 4)
        for i, model in enumerate(theirs):
            one = replay_samples(drawn, i)
            model.replay_buffer.sample = lambda *args, one=one, **kwargs: one
            model.policy.set_training_mode(False)
            model.train(2, 16)
            model.policy.set_training_mode(False)
            model._n_calls = 7
            model._on_step()  # the eighth: a target update
        batch.stack.set_training_mode(True)
        batch.set_learning_rate()
        batch.update(drawn)
        batch.update(drawn)
        batch.stack.set_training_mode(False)
        batch.update_targets()
        networks_agree(batch, theirs, lambda m: m.q_net, 1e-10)
        networks_agree(batch, theirs, lambda m: m.q_net_target, 1e-10)


def is_quick(repeating: int, spec: str) -> bool:
    return spec in ("rn", "brn") or (repeating == 0 and spec in KINDS)


@pytest.mark.parametrize(
    ("repeating", "spec"),
    slow_unless(is_quick, itertools.product([0, 64, 300], SPECS)),
    indirect=["spec"],
)
def test_updates_of_ppo_are_those_of_sb3(spec: str, repeating: int):
    """Without and with repeated rows; ``repeating`` is the number of rows of a minibatch."""
    theirs, mine = ([ppo(spec, seed, clip_range_vf=0.1) for seed in SEEDS] for _ in range(2))
    for model in (*theirs, *mine):
        to_double(model.policy)
        model._setup_learn(1000)
    batch = SeedBatchPPO(mine, envs_of(mine))
    rng = np.random.default_rng(0)
    asked = []  # rows that pass through the networks
    compute = batch._compute_gradients
    repeats = repeating and is_row_wise(batch.stack.module)

    def counting(*tensors: torch.Tensor) -> Any:
        asked.append(tensors[-4 if repeats else -1].shape[1])
        return compute(*tensors)

    batch._gradients.function = counting
    for _ in range(3):
        rows = (len(SEEDS), repeating or 16)
        observations = rng.normal(size=(*rows, 4)).astype(np.float32)
        ids = None
        if repeating:  # 7, 8 and 9 distinct rows
            images = np.stack([rng.integers(0, 7 + i, rows[1:]) for i in range(rows[0])])
            observations = np.repeat(images[..., None], 4, 2).astype(np.uint8)
            ids = row_ids(observations) if repeats else None
        seen = torch.from_numpy(observations)
        samples = rollout_samples(rng, rows)
        for i, model in enumerate(theirs):
            one = RolloutBufferSamples(seen[i], *(part[i] for part in samples))
            model.rollout_buffer.get = lambda *args, one=one: [one]
            model.policy.set_training_mode(False)
            model.train()  # two epochs
            model.policy.set_training_mode(False)
        batch.stack.set_training_mode(True)
        batch.set_learning_rate()
        batch.update(seen, samples, ids)
        batch.update(seen, samples, ids)
        batch.stack.set_training_mode(False)
        networks_agree(batch, theirs, lambda m: m.policy, 1e-10)
    assert asked == [SIZE_MULTIPLE if repeats else rows[1]]


def trained(cls: Any, models: list[Any], steps: int, num_envs: int = 1) -> Any:
    batch = cls(models, envs_of(models, num_envs=num_envs))
    batch.learn(steps)
    return batch


def weights_of(batch: Any, seed: int) -> np.ndarray:
    return batch.stack.weights[batch.seeds.index(seed)].detach().numpy()


@pytest.mark.parametrize("algo", ["dqn", pytest.param("ppo", marks=pytest.mark.slow)])
def test_a_seed_is_independent_of_the_others(algo: str):
    """Seed 5 alone, among three, and among others in another order, over 1,000 steps: equal bits."""
    build, cls = {"dqn": (dqn, SeedBatchDQN), "ppo": (ppo, SeedBatchPPO)}[algo]
    runs = []
    wide = {"policy_kwargs": {"norm": "rn", "net_arch": [64, 64]}}
    for seeds in ((5,), (3, 5, 8), (8, 1, 5, 2)):
        models = [build("rn", seed, **wide) for seed in seeds]
        runs.append(trained(cls, models, 1000))
    expected = weights_of(runs[0], 5)
    assert np.abs(expected - weights_of(runs[1], 3)).max() > 0.1  # another seed trains differently
    for run in runs[1:]:
        assert np.array_equal(weights_of(run, 5), expected)
        mine = run.last_observations[run.seeds.index(5)]
        assert np.array_equal(mine, runs[0].last_observations[0])


@pytest.mark.parametrize("algo", ["dqn", "ppo"])
def test_a_batch_continues_from_its_state(algo: str):
    build, cls = {"dqn": (dqn, SeedBatchDQN), "ppo": (ppo, SeedBatchPPO)}[algo]
    first = cls([build("ln+rn", s) for s in SEEDS], envs_of([build("ln+rn", s) for s in SEEDS]))
    stored: list[Any] = []
    losses: dict[str, torch.Tensor] = {}

    def keep() -> None:
        if first.num_timesteps == 128:
            stored.extend(copy.deepcopy(first.state(i)) for i in range(len(SEEDS)))
            losses.update({name: loss.clone() for name, loss in first.losses.items()})
            stored.append(copy.deepcopy(first.envs))

    first.learn(256, on_rollout_start=keep)
    second = cls([build("ln+rn", s + 100) for s in SEEDS], stored.pop())
    second.seeds = list(SEEDS)
    second.restore(json.loads(json.dumps([plain for _, plain in stored])) and stored)
    assert losses and second.losses.keys() == losses.keys()  # they are logged until the next update
    assert all(torch.equal(second.losses[name], losses[name]) for name in losses)
    second.learn(256)
    for name, mine, theirs in zip(
        first.stack.names, first.stack.tensors, second.stack.tensors, strict=True
    ):
        assert torch.equal(mine, theirs), name
    state = first.optimizer.state_dict()["state"][0]
    for name, value in second.optimizer.state_dict()["state"][0].items():
        assert torch.equal(value, state[name]), name


def test_schedules_and_targets_are_those_of_sb3():
    """Epsilon, learning rate and number of updates, at every rollout of a training."""
    falling = {"learning_rate": LinearSchedule(1e-2, 0, 1.0), "learning_starts": 30}
    theirs = dqn("none", 0, **falling)
    seen: list[tuple[float, ...]] = []

    class Watch(BaseCallback):
        def _on_rollout_start(self) -> None:
            rate = self.model.policy.optimizer.param_groups[0]["lr"]
            row = (self.num_timesteps, self.model.exploration_rate, rate, self.model._n_updates)
            seen.append(row)

        def _on_step(self) -> bool:
            return True

    theirs.learn(400, callback=Watch())
    mine = [dqn("none", seed, **falling) for seed in SEEDS]
    batch = SeedBatchDQN(mine, envs_of(mine))
    own: list[tuple[float, ...]] = []

    def watch() -> None:
        rate = batch.optimizer.param_groups[0]["lr"]
        own.append((batch.num_timesteps, batch.exploration_rates[0], rate, batch.num_updates))

    batch.learn(400, on_rollout_start=watch)
    np.testing.assert_allclose(own, seen, rtol=1e-12)
    assert batch.exploration_rates[0] == theirs.exploration_rate
    assert len({row[1] for row in own}) > 10 and own[-1][3] > 50


def test_stochastic_evaluations_explore_as_sb3s_predict():
    """Each seed with its epsilon: shares of actions, against 400 of SB3's own."""
    models = [dqn("none", seed) for seed in SEEDS]
    batch = SeedBatchDQN(models, envs_of(models))
    batch.exploration_rates[:] = 0.0, 0.5, 1.0
    seen = np.tile(np.array([0.01, 0.02, 0.03, 0.04], np.float32), (len(SEEDS), 5, 1))
    greedy = batch.predict(seen)
    play = batch.player(Streams(SEEDS, "evaluation", (5, 1)))
    starts = np.zeros((len(SEEDS), 5), bool)
    other = np.mean([play(seen, starts) != greedy for _ in range(2000)], 0).mean(1)
    np.testing.assert_allclose(other, [0, 0.25, 0.5], rtol=0, atol=0.02)
    for seed, share in enumerate(other):
        agent = batch.write_back(seed)
        theirs = [agent.predict(seen[seed], deterministic=False)[0] for _ in range(400)]
        assert abs(np.mean(np.array(theirs) != greedy[seed]) - share) < 0.1
    play = batch.player(None)
    assert (play(seen, starts) == greedy).all()


@pytest.mark.parametrize("handle", [True, False])
def test_time_limits_are_stored_as_in_sb3s_replay_buffer(handle: bool):
    kwargs = {"replay_buffer_kwargs": {"handle_timeout_termination": handle}}
    short = functools.partial(make_vec_env, "CartPole-v1", env_kwargs={"max_episode_steps": 5})
    models = [dqn("none", seed, learning_starts=100, **kwargs) for seed in SEEDS]
    batch = SeedBatchDQN(models, VecSeedEnvs([short(seed=seed) for seed in SEEDS]))
    batch.learn(24)
    single = dqn("none", 3, short(seed=3), learning_starts=100, **kwargs)
    single.learn(24)
    theirs = single.replay_buffer._get_samples(np.arange(24)).dones
    for model in batch.models:
        empty_memory(model)
    for each in (batch, batch.only([0, 1, 2])):
        assert (each.memory.tensors["dones"][:, :24] == theirs).all()
        assert theirs.sum() == (0 if handle else 4)
        assert each.memory.handle_timeouts is handle


class OwnBuffer(ReplayBuffer):
    """A user's buffer."""


class OwnRollouts(RolloutBuffer):
    """A user's buffer."""


class OwnTrain(DQN):
    """A user's algorithm."""

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        super().train(gradient_steps, batch_size)


class OwnStep(PPO):
    """A user's algorithm."""

    def collect_rollouts(self, *args: Any, **kwargs: Any) -> bool:
        return super().collect_rollouts(*args, **kwargs)


class Renamed(OwnStep):
    """A subclass of a user's algorithm."""


class OtherDefaults(DQN):
    """A user's algorithm that learns as DQN does."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **{"gamma": 0.9, **kwargs})


def test_algorithms_and_buffers_of_the_user_are_not_replaced_by_stock_ones():
    given = {"device": "cpu", "policy_kwargs": {"net_arch": [4]}}
    few = {"n_steps": 8, "batch_size": 8, **given}
    cases = [
        (
            SeedBatchDQN,
            OwnTrain(NormDQNPolicy, "CartPole-v1", **given),
            "OwnTrain has its own train",
        ),
        (
            SeedBatchPPO,
            Renamed(NormActorCriticPolicy, "CartPole-v1", **few),
            "OwnStep has its own collect_rollouts(), which a batch would not call",
        ),
        (
            SeedBatchPPO,
            PPO(NormActorCriticPolicy, "CartPole-v1", rollout_buffer_class=OwnRollouts, **few),
            "its rollout buffer is a OwnRollouts",
        ),
    ]
    for cls, model, said in cases:
        assert str(cls.cannot(model)).startswith(said)
    assert SeedBatchDQN.cannot(OtherDefaults(NormDQNPolicy, "CartPole-v1", **given)) is None


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"n_steps": 3}, "n_steps is 3"),
        ({"train_freq": (1, "episode")}, "train_freq counts episodes"),
        ({"replay_buffer_class": OwnBuffer}, "its replay buffer is a OwnBuffer"),
        (
            {
                "optimize_memory_usage": True,
                "replay_buffer_kwargs": {"handle_timeout_termination": False},
            },
            "optimize_memory_usage is True",
        ),
        ({"policy_kwargs": {"norm": "rn", "optimizer_class": torch.optim.LBFGS}}, "LBFGS"),
    ],
)
def test_unsupported_settings_raise_user_errors(kwargs: dict[str, Any], said: str):
    models = [dqn("rn", seed, **kwargs) for seed in SEEDS]
    with pytest.raises(UserError, match=said):
        SeedBatchDQN(models, envs_of(models))
    with pytest.raises(UserError, match="target_kl"):
        models = [ppo("rn", seed, target_kl=0.1) for seed in SEEDS]
        SeedBatchPPO(models, envs_of(models))
    for seeds in ((1, 2, 1), (1, None, 2)):
        models = [dqn("rn", seed) for seed in seeds]
        with pytest.raises(UserError, match="expected models with different seeds"):
            SeedBatchDQN(models, envs_of(models))


def test_continuous_actions_and_a_truncated_minibatch():
    kwargs = {"n_steps": 32, "batch_size": 24}
    with pytest.warns(UserWarning, match="truncated mini-batch"):
        models = [ppo("ln+rn", seed, "Pendulum-v1", **kwargs) for seed in SEEDS]
    batch = SeedBatchPPO(models, envs_of(models, "Pendulum-v1", 1))
    before = batch.stack.weights.clone()
    batch.learn(500)  # two episodes, which end by the time limit
    assert torch.isfinite(batch.stack.weights).all() and not torch.equal(
        before, batch.stack.weights
    )
    actions = batch.predict(np.zeros((len(SEEDS), 7, 3), np.float32))
    assert actions.shape == (len(SEEDS), 7, 1) and np.abs(actions).max() <= 2


def test_sampled_actions_follow_their_distribution():
    uniform = torch.linspace(0.0005, 0.9995, 1000, dtype=torch.float64)[:, None]
    discrete = CategoricalDistribution(3)
    discrete.proba_distribution(torch.tensor([0.2, 0.5, 0.3]).log().expand(1000, 3))
    counts = sample(discrete, uniform).bincount() / 1000
    torch.testing.assert_close(counts, torch.tensor([0.2, 0.5, 0.3]), rtol=0, atol=2e-3)
    gaussian = DiagGaussianDistribution(1)
    gaussian.proba_distribution(torch.full((1000, 1), 3.0), torch.tensor([0.5]).log())
    drawn = sample(gaussian, uniform)
    assert abs(float(drawn.mean()) - 3) < 1e-3 and abs(float(drawn.std()) - 0.5) < 5e-3


def test_random_numbers_depend_on_seed_and_purpose_alone():
    def rows(seeds: tuple[int, ...], purpose: str, count: int = 5000) -> np.ndarray:
        stream = Streams(seeds, purpose, (3,))
        return np.stack([stream.draw().copy() for _ in range(count)], 1)

    together = rows((4, 9), "replay")
    assert np.array_equal(together[1], rows((9,), "replay")[0])
    assert not np.array_equal(together[0], rows((4,), "exploration")[0])
    assert abs(together.mean() - 0.5) < 0.01 and together.min() >= 0 and together.max() < 1
    half = Streams((4, 9), "replay", (3,))
    for _ in range(2731):  # past the end of a block
        half.draw()
    other = Streams((4, 9), "replay", (3,))
    other.restore([half.state(0), half.state(1)])
    assert np.array_equal(half.draw(), other.draw())


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
@pytest.mark.skipif(" " in torch.__file__, reason="inductor does not quote the path of torch")
def test_compiled_updates_equal_those_without():
    drawn = transitions(np.random.default_rng(0), (len(SEEDS), 16), 4)
    batches = []
    for compiled in (False, True):
        models = [dqn("ln+rn", seed) for seed in SEEDS]
        batch = SeedBatchDQN(models, envs_of(models), compile=compiled)
        for _ in range(3):
            batch.stack.set_training_mode(True)
            batch.update(drawn)
            batch.stack.set_training_mode(False)
        batches.append(batch)
    for mine, theirs in zip(batches[1].stack.tensors, batches[0].stack.tensors, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("spec", ["rn-paper", "ln+rln-paper"])
def test_acting_of_published_agents_is_observed_as_in_single_agents(spec):
    kwargs = {"norm": spec, "net_arch": [8, 8], "acting_observes": True}
    options = {"policy_kwargs": kwargs, "learning_starts": 0}
    theirs, mine = ([dqn(spec, seed, **options) for seed in SEEDS] for _ in range(2))
    for model in (*theirs, *mine):
        to_double(model.q_net)
        model.exploration_rate = 0.0
    batch = SeedBatchDQN(mine, envs_of(mine))
    batch.exploration_rates[:] = 0.0
    observations = np.random.default_rng(0).normal(size=(6, len(SEEDS), 1, 4)).astype(np.float32)
    for step, seen in enumerate(observations):
        if step % 2:
            batch.predict(seen)  # an evaluation leaves the state unchanged
        actions = batch.act(seen)
        for model, one, chosen in zip(theirs, seen, actions, strict=True):
            assert model.predict(one, deterministic=False)[0] == chosen
    networks_agree(batch, theirs, lambda model: model.q_net, 1e-10)
    states = [m.q_net.state_dict()["q_net.1.running_state"] for m in theirs if "+" not in spec]
    assert all(state[2, 0] == 6 * 8 for state in states)


def test_random_actions_of_published_agents_are_not_observed():
    kwargs = {"norm": "ln+rn-paper", "net_arch": [8], "acting_observes": True}
    models = [dqn("ln+rn-paper", seed, policy_kwargs=kwargs, learning_starts=0) for seed in SEEDS]
    batch = SeedBatchDQN(models, envs_of(models))
    batch.exploration_rates[:] = 0.5
    asked = np.zeros(len(SEEDS), int)
    chances = Streams(SEEDS, "exploration", (2,))  # the numbers that the batch will draw
    for seen in np.random.default_rng(0).normal(size=(40, len(SEEDS), 1, 4)).astype(np.float32):
        asked += chances.draw()[:, 0] >= 0.5
        batch.act(seen)
    assert asked.min() > 0 and asked.max() < 40
    for i, count in enumerate(asked):
        [norm] = [n for n in batch.write_back(i).q_net.modules() if hasattr(n, "running_state")]
        assert norm.running_state[2].item() == 8 * count


def test_denormals_are_flushed_while_a_batch_learns():
    def is_zero() -> bool:
        return not torch.tensor(1e-40) * 1

    seen = []
    batch = SeedBatchDQN(models := [dqn("none", seed) for seed in SEEDS], envs_of(models))
    assert not is_zero()
    batch.learn(40, on_step=lambda: seen.append(is_zero()))
    assert seen == [True] * 40 and not is_zero()
    with flush_denormals():  # a setting of the caller is kept
        batch.learn(60)
        assert is_zero()


@pytest.mark.parametrize("spec", slow_unless(KINDS.__contains__, SPECS), indirect=True)
def test_a_batch_acts_with_its_current_weights(spec: str):
    """Values derived from the weights, such as normalized weights, are cached between updates only."""
    models = [dqn(spec, seed) for seed in SEEDS]
    for model in models:
        to_double(model.q_net)
        to_double(model.q_net_target)
    batch = SeedBatchDQN(models, envs_of(models))
    for until in (40, 80):
        batch.learn(until)
        mine = batch.q_values(batch.tensor(batch.last_observations))
        for seed, given in enumerate(batch.last_observations):
            with torch.no_grad():
                theirs = batch.write_back(seed).q_net(torch.from_numpy(given))
            torch.testing.assert_close(mine[seed], theirs, rtol=0, atol=1e-10)
